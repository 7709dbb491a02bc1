// The texts of the page, in English and Chinese.

const WORDS = {
  en: {
    other: "中文", nextRollCall: "next roll call in", totals: "Totals", scopes: "Services and groups", instances: "Instances",
    timeline: "Recent events", search: "Name or address", hold: "Hold", enable: "Enable", deregister: "Deregister",
    cancel: "Cancel", ok: "OK", signIn: "Token", signOut: "Forget token",
    connecting: "connecting", live: "live", lost: "disconnected, retrying",
    available: "available", online: "online", offline: "offline", registered: "registered", suspect: "suspect", stale: "may be out of date",
    enabled: "enabled", disabled: "disabled", held: "held", service: "service", group: "group", services: "services", groups: "groups",
    name: "Name", address: "Address", presence: "Presence", status: "Status", weight: "Weight", lease: "Lease", since: "Since", about: "About",
    noScopes: "Nothing is registered yet.", noFound: "Nothing found.", noInstances: "No instance is registered here.",
    choose: "Choose a service or group.", found: "Found", noEvents: "No events since this page was opened.",
    authDisabled: "No token is required: every client that can reach this daemon may do everything.",
    staleText: "Lists may be out of date: the lease store or the event log is unavailable.",
    lostText: "The daemon does not answer. This is the last known state.",
    leasesEvicted: "Redis may evict leases, which may mark living instances offline: set maxmemory-policy to noeviction.",
    unavailable: "Unavailable: ", store: "registry store", leases: "lease store", event_log: "event log",
    protection: "Protection mode is active: instances without a lease stay listed as suspects.", release: "Release protection mode",
    releaseText: "All suspects are marked offline at once.", endsIn: "It ends within", selected: "selected",
    holdTitle: "Hold instances", holdText: "They receive no traffic until an operator enables them.", reason: "Reason",
    enableTitle: "Enable instances", enableText: "They receive traffic while they are online.",
    deregisterTitle: "Deregister instances", deregisterText: "They are removed from the list. Running instances register again.",
    tokenTitle: "Token", tokenText: "This requires a token. It is kept for this tab only.",
    tokenAdmin: "This requires a token of the role admin. It is kept for this tab only.", heldBy: "held by", failed: "Failed",
    all: "select all", ago: "ago",
    "instance.registered": "registered", "instance.online": "online", "instance.offline": "offline", "instance.changed": "changed",
    "instance.deregistered": "deregistered", "scope.declared": "declared", "scope.removed": "removed", "roll.call": "roll call",
    "protection.entered": "protection mode entered", "protection.left": "protection mode ended", resync: "lists read again",
  },
  zh: {
    other: "English", nextRollCall: "下次点名", totals: "总计", scopes: "服务与网关组", instances: "实例",
    timeline: "最近动态", search: "按名称或地址搜索", hold: "隔离", enable: "启用", deregister: "注销",
    cancel: "取消", ok: "确定", signIn: "令牌", signOut: "清除令牌",
    connecting: "连接中", live: "实时", lost: "已断开,正在重试",
    available: "可用", online: "在线", offline: "离线", registered: "已注册", suspect: "疑似离线", stale: "数据可能已过期",
    enabled: "已启用", disabled: "已禁用", held: "已隔离", service: "服务", group: "网关组", services: "服务", groups: "网关组",
    name: "名称", address: "地址", presence: "在线状态", status: "状态", weight: "权重", lease: "租约", since: "起始时间", about: "备注",
    noScopes: "尚无已注册的服务或网关组。", noFound: "未找到。", noInstances: "此处没有实例。",
    choose: "请选择服务或网关组。", found: "搜索结果", noEvents: "打开本页以来没有动态。",
    authDisabled: "无需令牌:任何能访问本服务的客户端都可执行所有操作。",
    staleText: "列表数据可能已过期:租约存储或事件日志不可用。",
    lostText: "服务无响应,当前显示的是最后一次获取到的状态。",
    leasesEvicted: "Redis 可能会逐出租约,从而误将存活实例标记为离线:请将 maxmemory-policy 设为 noeviction。",
    unavailable: "不可用:", store: "注册库", leases: "租约存储", event_log: "事件日志",
    protection: "保护模式已开启:租约丢失的实例仍作为疑似离线实例保留在列表中。", release: "解除保护模式",
    releaseText: "所有疑似离线实例将立即标记为离线。", endsIn: "最迟结束于", selected: "已选",
    holdTitle: "隔离实例", holdText: "在运维人员重新启用之前,不再接收流量。", reason: "原因",
    enableTitle: "启用实例", enableText: "在线时接收流量。",
    deregisterTitle: "注销实例", deregisterText: "从列表中移除;仍在运行的实例会重新注册。",
    tokenTitle: "令牌", tokenText: "此操作需要令牌。令牌仅保存在当前标签页。",
    tokenAdmin: "此操作需要 admin 角色的令牌。令牌仅保存在当前标签页。", heldBy: "隔离人", failed: "失败",
    all: "全选", ago: "前",
    "instance.registered": "注册", "instance.online": "上线", "instance.offline": "离线", "instance.changed": "变更",
    "instance.deregistered": "注销", "scope.declared": "声明", "scope.removed": "删除", "roll.call": "点名",
    "protection.entered": "进入保护模式", "protection.left": "退出保护模式", resync: "重新读取列表",
  },
};

let language = sessionStorage.getItem("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");

export const word = (name) => WORDS[language][name] ?? name;

export function switchLanguage() {
  language = language === "en" ? "zh" : "en";
  sessionStorage.setItem("language", language);
}

// Sets the texts of the static page.
export function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", word(element.dataset.label));
  for (const element of document.querySelectorAll("[data-placeholder]")) element.placeholder = word(element.dataset.placeholder);
}
