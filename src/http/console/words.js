// The texts of the page. A text may be a function of its values.

import { zh } from "./words-zh.js";

const are = (n, one, many) => (n === 1 ? one : many);
const scopes = (n, kind) => `${n} ${kind === "groups" ? are(n, "group", "groups") : are(n, "service", "services")}`;
const instances = (n) => `${n} ${are(n, "instance", "instances")}`;

export const en = {
  otherLanguage: "中文",
  now: "Now", services: "Services", groups: "Gateways", activity: "Activity", cluster: "Cluster", search: "Search",
  skip: "Skip to the content", views: "Views", find: "Service, address, metadata",
  connecting: "connecting", live: "live", silent: "no answer",
  rollCallIn: ({ n }) => `roll call in ${n} s`, replica: "Replica", asOf: ({ time }) => `as of ${time}`, signOut: "Sign out",
  seconds: ({ n }) => `${n} s`, minutes: ({ n }) => `${n} min`, hours: ({ n }) => `${n} h`, days: ({ n }) => `${n} d`,
  ago: ({ time }) => `${time} ago`, local: "local", loading: "Loading…", more: "Load more", close: "Close", cancel: "Cancel", copy: "Copy", copied: "Copied",
  // States.
  available: "Available", held: "Held", disabled: "Not enabled", suspect: "Suspect", offline: "Offline", online: "Online",
  down: "None available", some: "Some missing", all: "All available", empty: "Empty", enabled: "Enabled",
  // The verdict.
  silentTitle: ({ time }) => `No answer from the daemon for ${time}`, silentText: ({ time }) => `What is shown is from ${time}. It may be out of date.`,
  protectionTitle: "Protection mode is active", protectionEnds: ({ time }) => `It ends within ${time}.`,
  protectionText: ({ suspect, online }) => `${suspect} of ${instances(online)} stopped sending heartbeats and stay listed as suspects.`,
  release: "End protection mode…",
  downTitle: ({ services: s, groups: g }) => `${[s > 0 && scopes(s), g > 0 && scopes(g, "groups")].filter(Boolean).join(" and ")} ${are(s + g, "has", "have")} no available instance`,
  someTitle: ({ n }) => `${n} ${are(n, "scope has", "scopes have")} some instances missing`, allTitle: "Every service has all its instances",
  emptyTitle: "Nothing is registered yet",
  summary: ({ available, all, offline, held, suspect }) => [`${available} of ${all} instances available`, offline > 0 && `${offline} offline`, held > 0 && `${held} held`, suspect > 0 && `${suspect} suspect`].filter(Boolean).join(" · "),
  backendDown: ({ names }) => `Does not answer: ${names}.`, store: "Registry store", leases: "Lease store", event_log: "Event log",
  stale: "Lists may be out of date.", evicted: "Redis may evict leases, and living instances would go offline: set maxmemory-policy to noeviction.",
  open: "No token is required: every client that can reach this daemon may do everything.", limited: ({ scope }) => `Your token shows ${scope} only.`,
  firstRun: "Register an instance and send a heartbeat, and it appears here:",
  // Now.
  attention: "Needs attention", nothingToDo: "Nothing needs attention.", chart: "Instances, last hour", chartEmpty: "The chart begins with the start of this replica.",
  allOffline: ({ n, time }) => `all ${n} offline${time ? ` for ${time}` : ""}`, allHeld: ({ n }) => `all ${n} held`, noneAvailable: ({ n }) => `none of ${n} available`,
  waits: ({ group, time }) => `new gateway in ${group}, has waited ${time} to be enabled`,
  flaps: ({ scope, n }) => `${scope}: ${n} times online or offline within an hour`, oldHold: ({ by, time }) => `held by ${by} for ${time}, without an end`,
  andMore: ({ n }) => `and ${n} more`, look: "Look", enableThis: "Enable…", whatHappened: "What happened", toActivity: "all of it",
  // Tables.
  state: "State", name: "Name", health: "Health", registered: "Registered", lastChange: "Last change", address: "Address", weight: "Weight",
  lease: "Lease", since: "Since", select: "Select", selectAll: "Select all", key: "Key", scope: "Scope",
  filterAll: "All", noScopes: "No service or group matches.", noScopesYet: "No service is registered yet.", noGroupsYet: "No group is declared yet.", noInstances: "No instance matches.", noInstancesYet: "No instance is registered here.",
  gauge: ({ available, held, suspect, offline }) => `${available} available, ${held} held, ${suspect} suspect, ${offline} offline`,
  unknownScope: ({ scope }) => `There is no ${scope}.`, unknownView: "There is no such page.", forbiddenScope: ({ scope }) => `Your token does not permit ${scope}.`,
  groupBy: "Group by", none: "nothing", host: "host", anyState: "any state", findIn: "Find in this list",
  ofAvailable: ({ n, all }) => `${n} of ${all} available`, heldBy: ({ by, time }) => `Held by ${by}${time ? ` for ${time}` : ""}`, until: ({ time }) => `until ${time}`,
  leaseLeft: ({ left, ttl }) => `${left} of ${ttl} s`, tabInstances: "Instances", tabHistory: "History", tabApi: "API", declareHint: "Gateways can register once a group is declared.",
  // An instance.
  willBe: { available: "It is online and receives traffic.", held: "It receives no traffic until an operator enables it.", disabled: "It receives no traffic: no operator has enabled it yet, or it was disabled.", offline: "It has no lease: its heartbeats have stopped, or it has not sent any.", suspect: "Its heartbeats have stopped, and protection mode keeps it listed." },
  willBeUntil: ({ time }) => `It receives no traffic until ${time}, when the hold ends.`,
  facts: "Facts", id: "ID", ttl: "TTL", registeredAt: "Registered for", registeredBy: "Registered by", onlineFor: "Online for", offlineFor: "Offline for", sinceTime: ({ time }) => `since ${time}`, metadata: "Metadata", noMetadata: "It has no metadata.",
  overridden: "set by an operator", alsoAt: "The same address in", holdEverywhere: "Hold everywhere…", history: "History", noHistory: "Nothing is known.", knownSince: ({ time }) => `Nothing is known from before ${time}.`, gone: ({ address }) => `${address} is not registered.`, copyAs: "Copy as",
  // Actions.
  hold: "Hold", enable: "Enable", disable: "Disable", deregister: "Deregister", changeWeight: "Weight", editMetadata: "Metadata", moreActions: "More", declare: "Declare a group", rename: "Rename", remove: "Remove",
  selected: ({ n, stay, all }) => `${n} selected${stay === undefined ? "" : `; ${stay} of ${all} would stay available`}`,
  ask: { hold: ({ n, where }) => `Hold ${instances(n)} of ${where}?`, enable: ({ n, where }) => `Enable ${instances(n)} of ${where}?`, disable: ({ n, where }) => `Disable ${instances(n)} of ${where}?`, weight: ({ n, where }) => `Change the weight of ${instances(n)} of ${where}?`, metadata: ({ n, where }) => `Change the metadata of ${instances(n)} of ${where}?`, deregister: ({ n, where }) => `Deregister ${instances(n)} of ${where}?` },
  effect: { hold: "They receive no traffic until an operator enables them. They may go on sending heartbeats.", enable: "They receive traffic while they are online.", disable: "They receive no traffic until an operator enables them, or until a service instance registers again.", weight: "The weight overrides what they register.", metadata: "The metadata override what they register.", deregister: "They are removed, with all decisions about them. One that still runs registers again: hold it instead." },
  stays: ({ scope, n, all }) => `${n} of ${all} stay available in ${scope}.`, staysNone: ({ scope }) => `No instance of ${scope} would be available.`, typeName: ({ name }) => `Type ${name} to confirm`,
  why: "Reason", howLong: "For", untilEnabled: "until an operator enables them", newWeight: "Weight (empty: as registered)", newMetadata: "One NAME=VALUE per line (empty: as registered)", newName: "Name for people", newKey: "Key of the group",
  done: { hold: ({ n }) => `${n} held.`, enable: ({ n }) => `${n} enabled.`, disable: ({ n }) => `${n} disabled.`, weight: ({ n }) => `Weight of ${n} changed.`, metadata: ({ n }) => `Metadata of ${n} changed.`, deregister: ({ n }) => `${n} deregistered.` },
  undone: "Taken back.", undo: "Undo", stop: "Stop", progress: ({ n, all }) => `${n} of ${all}…`, stopped: ({ n, all }) => `Stopped after ${n} of ${all}.`,
  failures: ({ failed, all, detail }) => `${failed} of ${all} failed: ${detail}`, failed: ({ detail }) => `That failed: ${detail}`, noAnswer: "the daemon did not answer in time, so the outcome is unknown", dismiss: "Dismiss", readOnly: "Your token may only read.",
  declared: ({ scope }) => `${scope} is declared.`, removed: ({ scope }) => `${scope} is removed.`,
  releaseTitle: "End protection mode?", releaseText: ({ n, scopes: s }) => `${instances(n)} in ${s} scopes have no lease and go offline at once.`, releaseLose: ({ names }) => `No instance would be available in: ${names}.`, releaseWord: "release", released: ({ n }) => `Protection mode has ended: ${instances(n)} went offline.`,
  // Activity.
  events: "Events", actions: "Operators", kind: "Kind", anyKind: "any", by: "By", within: "Within", everything: "all that is known", exportCsv: "CSV", exportJson: "JSON", times: ({ n, scopes: s }) => `${n} instances${s > 1 ? ` in ${s} scopes` : ""}`, noActivity: "Nothing matches.", utc: "UTC",
  event: { "instance.registered": "registered", "instance.online": "came online", "instance.offline": "went offline", left: "left", "instance.changed": "was changed", "instance.deregistered": "was deregistered", "scope.declared": "was declared", "scope.removed": "was removed", "protection.entered": "Protection mode began", "protection.left": "Protection mode ended", resync: "Some events were missed; the lists were read again" },
  action: { hold: "held", enable: "enabled", disable: "disabled", override: "changed", deregister: "deregistered", declare: "declared", remove: "removed", release: "ended protection mode" },
  causes: {
    mass_loss: ({ missing, online, within_seconds: s }) => `${missing} of ${online} online instances would have gone offline within ${s} s`,
    max_duration: "it lasted for its longest duration", heartbeats_returned: "all heartbeats have returned",
    few_suspects: ({ suspects, online }) => `only ${suspects} of ${online} online instances are still suspect`, released: "an operator released it",
  },
  // Cluster.
  replicas: "Replicas", thisReplica: "this page", begins: "Begins", beginsWith: ({ n, online }) => `if ${n} of ${online} online instances go offline within one TTL`, version: "Version", startedAt: "Started", streams: "Event streams", backends: "Backends", answers: "answers", answersNot: "does not answer", rollCall: "Roll call", interval: "Interval", lastSent: "Last sent here", sentBy: ({ own, others, skipped }) => `${own} by this replica, ${others} by others, ${skipped} skipped`, reconcile: "Reconcile", lastRun: "Last run here", protection: "Protection mode", inactive: "inactive", because: "Because", links: "Links", apiDocument: "API document", metricsPage: "Metrics", tokens: "Access",
  // Sign-in.
  signInTitle: "This registry requires a token", signIn: "Sign in", token: "Token", tokenUnknown: "This token is not known here.", tokenKept: "It is kept for this browser tab only.",
  // Keys.
  keys: "Keys", keyHelp: { "/": "find", "g n": "go to Now (g s Services, g g Gateways, g a Activity, g c Cluster)", "j k": "next and previous row", x: "select the row", "h e": "hold, enable the selected ones", c: "copy the address", Escape: "close", "?": "these keys" },
};

const TEXTS = { en, zh };
let chosen = sessionStorage.getItem("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");

export const language = () => (chosen === "zh" ? "zh-CN" : "en");

export function switchLanguage() {
  chosen = chosen === "en" ? "zh" : "en";
  sessionStorage.setItem("language", chosen);
}

// Returns a text, by a name such as `ask.hold`.
export function t(name, values = {}) {
  const find = (texts) => name.split(/\.(.*)/s).filter(Boolean).reduce((found, part) => found?.[part], texts);
  const text = find(TEXTS[chosen]) ?? find(en) ?? name;
  return typeof text === "function" ? text(values) : text;
}
