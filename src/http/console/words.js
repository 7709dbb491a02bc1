// What the page says, in English and Chinese.

const WORDS = {
  en: {
    other: "中文", nextRollCall: "next roll call in", totals: "Totals", scopes: "Services and groups", instances: "Instances",
    timeline: "What happened", search: "Name or address", hold: "Hold", enable: "Enable", deregister: "Deregister",
    cancel: "Cancel", ok: "OK", signIn: "Token", signOut: "Forget token",
    connecting: "connecting", live: "live", lost: "disconnected, trying again",
    available: "available", online: "online", offline: "offline", registered: "registered", suspect: "suspect", stale: "may be old",
    enabled: "enabled", disabled: "disabled", held: "held", service: "service", group: "group", services: "services", groups: "groups",
    name: "Name", address: "Address", presence: "Presence", status: "Status", weight: "Weight", lease: "Lease", since: "Since", about: "About",
    noScopes: "Nothing is registered yet.", noFound: "Nothing found.", noInstances: "No instance is registered here.",
    choose: "Choose a service or group.", found: "Found", noEvents: "Nothing has happened since this page was opened.",
    authDisabled: "There are no tokens: everybody who can reach this daemon may do everything.",
    staleText: "What is listed may be old: the lease store or the log of events is away.",
    lostText: "The daemon does not answer. What is shown is how it was when it last did.",
    backendAway: "Does not answer: ", store: "registry store", leases: "lease store", bus: "bus",
    protection: "Protection is on: those who are missing are kept listed.", release: "Confirm that they are gone",
    releaseText: "All suspects go offline at once.", endsIn: "It ends in", selected: "selected",
    holdTitle: "Hold instances", holdText: "They are sent no traffic until somebody enables them.", reason: "Reason",
    enableTitle: "Enable instances", enableText: "They may be sent traffic while they are online.",
    deregisterTitle: "Deregister instances", deregisterText: "They are taken off the list. Those that live register again.",
    tokenTitle: "Token", tokenText: "This takes a token. It is kept for this tab only.",
    tokenAdmin: "This takes a token of the role admin. It is kept for this tab only.", heldBy: "held by", failed: "Failed",
    all: "select all", ago: "ago",
    "instance.registered": "registered", "instance.online": "online", "instance.offline": "offline", "instance.changed": "changed",
    "instance.deregistered": "deregistered", "scope.declared": "declared", "scope.removed": "removed", "roll.call": "roll called",
    "protection.entered": "protection entered", "protection.left": "protection left", resync: "read again",
  },
  zh: {
    other: "English", nextRollCall: "下次点名", totals: "总计", scopes: "服务与网关组", instances: "实例",
    timeline: "最近动态", search: "按名称或地址搜索", hold: "摘除", enable: "启用", deregister: "注销",
    cancel: "取消", ok: "确定", signIn: "令牌", signOut: "清除令牌",
    connecting: "连接中", live: "实时", lost: "已断开,正在重试",
    available: "可用", online: "在线", offline: "离线", registered: "已注册", suspect: "存疑", stale: "可能过时",
    enabled: "启用", disabled: "禁用", held: "摘除", service: "服务", group: "网关组", services: "服务", groups: "网关组",
    name: "名称", address: "地址", presence: "存活", status: "状态", weight: "权重", lease: "租约", since: "自", about: "说明",
    noScopes: "尚无注册。", noFound: "未找到。", noInstances: "此处没有实例。",
    choose: "请选择服务或网关组。", found: "搜索结果", noEvents: "打开本页以来没有动态。",
    authDisabled: "未设置令牌:任何能访问此进程的人都可以执行所有操作。",
    staleText: "列表可能过时:租约存储或事件日志不可用。",
    lostText: "守护进程无响应,显示的是最后一次的状态。",
    backendAway: "无响应:", store: "注册存储", leases: "租约存储", bus: "总线",
    protection: "保护已开启:失联实例仍保留在列表中。", release: "确认它们已下线",
    releaseText: "所有存疑实例将立即离线。", endsIn: "结束于", selected: "已选",
    holdTitle: "摘除实例", holdText: "在有人启用之前不再分配流量。", reason: "原因",
    enableTitle: "启用实例", enableText: "在线时可以分配流量。",
    deregisterTitle: "注销实例", deregisterText: "从列表中移除;仍存活的实例会重新注册。",
    tokenTitle: "令牌", tokenText: "需要令牌。仅保存在当前标签页。",
    tokenAdmin: "需要 admin 角色的令牌。仅保存在当前标签页。", heldBy: "摘除者", failed: "失败",
    all: "全选", ago: "前",
    "instance.registered": "注册", "instance.online": "上线", "instance.offline": "离线", "instance.changed": "变更",
    "instance.deregistered": "注销", "scope.declared": "声明", "scope.removed": "删除", "roll.call": "点名",
    "protection.entered": "进入保护", "protection.left": "退出保护", resync: "重新读取",
  },
};

let language = sessionStorage.getItem("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");

export const word = (name) => WORDS[language][name] ?? name;

export function switchLanguage() {
  language = language === "en" ? "zh" : "en";
  sessionStorage.setItem("language", language);
}

// Fills what the page itself says.
export function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", word(element.dataset.label));
  for (const element of document.querySelectorAll("[data-placeholder]")) element.placeholder = word(element.dataset.placeholder);
}
