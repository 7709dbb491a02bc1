// What happened: events, with those that belong together as one line, and the actions of operators.

import { get, query, scopeOf } from "../api.js";
import { clock, exact, number } from "../format.js";
import { html, nothing } from "../html.js";
import { read } from "../reader.js";
import { set } from "../route.js";
import { t } from "../words.js";
import { causeText, instanceLink, scopeLink } from "./parts.js";

// Events of one kind by one caller within this time are one line.
const TOGETHER = 10_000;
const PAGE = 500;
const RECENT = 12;

const nameOf = ({ event, by }) => (event === "instance.offline" && by ? "left" : event);

// Joins neighbouring events, the latest first.
function grouped(events) {
  const groups = [];
  for (const event of events) {
    const last = groups.at(-1);
    const kind = `${nameOf(event)} ${event.by?.token ?? ""} ${event.event === "instance.changed" ? `${event.status} ${event.reason ?? ""}` : ""}`;
    if (last?.kind === kind && event.address && Date.parse(last.first) - Date.parse(event.at) < TOGETHER) {
      last.events.push(event);
      last.first = event.at;
    } else groups.push({ kind, at: event.at, first: event.at, events: [event] });
  }
  return groups;
}

function changeText({ event, changed = [], status, weight, reason, cause }) {
  if (cause) return causeText(cause);
  if (event !== "instance.changed") return reason ?? "";
  const parts = changed.filter((field) => !["reason", "held_by", "held_until", "overrides"].includes(field))
    .map((field) => (field === "status" ? t(status) : field === "weight" ? `${t("weight")} ${weight}` : t(field) === field ? field : t(field)));
  return `${parts.join(", ")}${reason ? ` “${reason}”` : ""}`;
}

const when = (at) => html`<time datetime=${at} title=${exact(at)}>${clock(at)}</time>`;

function eventLine({ at, events }, isUtc) {
  const [first] = events;
  const scopes = new Set(events.map(scopeOf));
  const scope = scopeOf(first);
  const what = events.length > 1 ? html`<b>${t("times", { n: number(events.length), scopes: scopes.size })}</b> ${scopes.size === 1 ? scopeLink(scope) : nothing}`
    : first.address ? html`${instanceLink(scope, first.address)} <small>${scopeLink(scope)}</small>` : scope ? scopeLink(scope) : nothing;
  return html`<li class=${nameOf(first).replace(".", "-")}>
    ${isUtc ? html`<time datetime=${at}>${at.slice(0, 19).replace("T", " ")}</time>` : when(at)}
    <span class="what">${t(`event.${nameOf(first)}`)}</span><span class="subject">${what}</span>
    <span class="text">${first.by ? `${first.by.token} ` : ""}${changeText(first)}</span></li>`;
}

const valueText = (value) => (value === null ? "–" : typeof value === "object" ? Object.entries(value).map((pair) => pair.join("=")).join(" ") : String(value));

function actionLine(action, isUtc) {
  const { at, by, address, before, after, reason, instances } = action;
  const scope = scopeOf(action);
  const changes = Object.entries(after).filter(([name, value]) => value !== null && name !== "held_by").map(([name, value]) => (name in before ? `${name} ${valueText(before[name])} → ${valueText(value)}` : `${name} ${valueText(value)}`));
  return html`<li class="action">
    ${isUtc ? html`<time datetime=${at}>${at.slice(0, 19).replace("T", " ")}</time>` : when(at)}
    <span class="what"><b>${by.token}</b> ${t(`action.${action.action}`)}</span>
    <span class="subject">${address ? instanceLink(scope, address) : instances > 1 ? t("times", { n: number(instances), scopes: 1 }) : nothing} ${scope ? html`<small>${scopeLink(scope)}</small>` : nothing}</span>
    <span class="text" title=${by.peer}>${changes.join(", ")}${reason ? ` “${reason}”` : ""}</span></li>`;
}

const list = (lines, empty) => (lines.length === 0 ? html`<p class="empty">${empty}</p>` : html`<ol class="events">${lines}</ol>`);

// The latest events, for the first page.
export function recent(registry) {
  const page = read("recent", registry.version, () => get(`v1/history?${query({ limit: 200 })}`));
  if (!page) return html`<p class="empty">${t("loading")}</p>`;
  return list(grouped(page.events).slice(0, RECENT).map((group) => eventLine(group)), t("noHistory"));
}

// What happened to a scope or an instance.
export function pastOf(parameters, registry) {
  const key = `past ${query(parameters)}`;
  const page = read(key, registry.version, () => get(`v1/history?${query({ ...parameters, limit: 200 })}`));
  if (!page) return html`<p class="empty">${t("loading")}</p>`;
  return html`${list(grouped(page.events).map((group) => eventLine(group)), t("noHistory"))}
    ${page.known_since ? html`<p class="more">${t("knownSince", { time: clock(page.known_since) })}</p>` : nothing}`;
}

const EVENTS = ["instance.online", "instance.offline", "instance.changed", "instance.registered", "instance.deregistered", "scope.declared", "scope.removed", "protection.entered", "protection.left"];
const ACTIONS = ["hold", "enable", "disable", "override", "deregister", "declare", "remove", "release"];

const csvCell = (value) => `"${String(value ?? "").replaceAll('"', '""').replace(/^[=+\-@\t]/, "'$&")}"`;

function download(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function exported(entries, isActions, format) {
  if (format === "json") return download("rollcall.json", "application/json", JSON.stringify(entries, undefined, 2));
  const rows = entries.map((entry) => [entry.at, isActions ? entry.action : entry.event, scopeOf(entry), entry.address, entry.by?.token, entry.by?.peer, entry.reason,
    isActions ? JSON.stringify(entry.before) : (entry.changed ?? []).join(" "), isActions ? JSON.stringify(entry.after) : entry.status]);
  const head = ["at", isActions ? "action" : "event", "scope", "address", "token", "peer", "reason", isActions ? "before" : "changed", isActions ? "after" : "status"];
  return download("rollcall.csv", "text/csv", [head, ...rows].map((row) => row.map(csvCell).join(",")).join("\n"));
}

export function activity(registry, { parameters }) {
  const { show = "events", kind, scope = "", address, by, within = "24h", utc } = parameters;
  const isActions = show === "operators";
  const [scopeKind, key] = scope.includes("/") ? scope.split("/") : ["services", scope];
  const common = { [scopeKind === "groups" ? "group" : "service"]: key, address, by, since: within === "all" ? undefined : within, limit: PAGE };
  const path = isActions ? `v1/actions?${query({ ...common, action: kind })}` : `v1/history?${query({ ...common, event: kind })}`;
  const page = read(path, registry.version, () => get(path));
  const entries = page?.[isActions ? "actions" : "events"] ?? [];
  const option = (value, label, chosen) => html`<option value=${value} ?selected=${value === (chosen ?? "")}>${label}</option>`;
  const field = (name, label, value) => html`<label>${label} <input id=${`activity-${name}`} autocomplete="off" spellcheck="false" .value=${value ?? ""} @change=${(event) => set({ [name]: event.target.value.trim() })}></label>`;
  const lines = isActions ? entries.map((entry) => actionLine(entry, utc)) : grouped(entries).map((group) => eventLine(group, utc));
  return html`
    <div class="title"><h1>${t("activity")}</h1></div>
    <nav class="tabs" aria-label=${t("activity")}>
      ${[["events", t("events")], ["operators", t("actions")]].map(([name, label]) => html`<button type="button" class="tab" id=${`show-${name}`} aria-current=${show === name ? "page" : nothing} @click=${() => set({ show: name, kind: "" })}>${label}</button>`)}
    </nav>
    <section class="panel" id="activity">
      <div class="bar">
        <label>${t("kind")} <select id="activity-kind" @change=${(event) => set({ kind: event.target.value })}>${option("", t("anyKind"), kind)}
          ${(isActions ? ACTIONS : EVENTS).map((name) => option(name, t(isActions ? `action.${name}` : `event.${name}`), kind))}</select></label>
        ${field("scope", t("scope"), scope)} ${field("address", t("address"), address)} ${field("by", t("by"), by)}
        <label>${t("within")} <select id="activity-within" @change=${(event) => set({ within: event.target.value })}>
          ${["15m", "1h", "24h", "7d", "all"].map((value) => option(value, value === "all" ? t("everything") : value, within))}</select></label>
        <label><input type="checkbox" .checked=${Boolean(utc)} @change=${(event) => set({ utc: event.target.checked ? "1" : "" })}> ${t("utc")}</label>
        <span class="end"><button type="button" @click=${() => exported(entries, isActions, "csv")}>${t("exportCsv")}</button> <button type="button" @click=${() => exported(entries, isActions, "json")}>${t("exportJson")}</button></span>
      </div>
      ${page ? list(lines, t("noActivity")) : html`<p class="empty">${t("loading")}</p>`}
      ${page?.known_since ? html`<p class="more">${t("knownSince", { time: clock(page.known_since) })}</p>` : nothing}
    </section>`;
}
