// One service or group: its instances, its history, and how it is requested.

import { removeScope, rename } from "../actions.js";
import { chart } from "../chart.js";
import { compare, number } from "../format.js";
import { html, nothing } from "../html.js";
import { go, link, set } from "../route.js";
import { bar, show } from "../selection.js";
import { stateOf, stateOfScope } from "../states.js";
import { t } from "../words.js";
import { pastOf } from "./activity.js";
import { columns, instancesTable } from "./instances.js";
import { actionButton, badge, gauge } from "./parts.js";

const STATES = ["available", "held", "disabled", "suspect", "offline"];

const hostOf = (address) => address.replace(/:\d+$/, "");

function groupsOf(targets, by) {
  const groups = new Map();
  for (const target of targets) {
    const name = by === "host" ? hostOf(target.instance.address) : (target.instance.metadata[by] ?? "");
    (groups.get(name) ?? groups.set(name, []).get(name)).push(target);
  }
  return [...groups].sort(([a], [b]) => compare(a, b)).flatMap(([group, members]) => [
    { group, all: members.length, available: members.filter(({ instance }) => instance.available).length }, ...members,
  ]);
}

const matches = (instance, wanted) => [instance.address, instance.name, ...Object.entries(instance.metadata).map(([key, value]) => `${key}=${value}`)]
  .some((text) => text.toLowerCase().includes(wanted));

// What was drawn last: thousands of instances are sorted once per change, not once per drawing.
let drawn = { key: [] };

function select(registry, scope, { find = "", state, group }) {
  const key = [registry.instances, registry.rows, scope, find, state, group];
  if (key.every((part, index) => part === drawn.key[index])) return drawn;
  const all = [...(registry.instances?.values() ?? [])];
  const shown = all.filter((instance) => (!state || stateOf(instance) === state) && (!find || matches(instance, find.toLowerCase())))
    .sort((a, b) => compare(a.address, b.address)).map((instance) => ({ scope, instance }));
  drawn = { key, all, shown, items: group ? groupsOf(shown, group) : shown, meta: columns(all) };
  return drawn;
}

function instancesPart(registry, { scope, parameters }) {
  const { find = "", state, group } = parameters;
  const { all, shown, items, meta } = select(registry, scope, parameters);
  const [kind, key] = scope.split("/");
  // What is selected by a state of the page alone, the server cannot select.
  show(shown, state ? undefined : { [kind.slice(0, -1)]: [key], ...(find ? { q: find } : {}) });
  const groups = [...new Set(["zone", "version", ...meta, "host"])].filter((name) => name === "host" || all.some(({ metadata }) => metadata[name]));
  const choice = (name, chosen, options) => html`<select id=${name} aria-label=${t(name === "state" ? "state" : "groupBy")} @change=${(event) => set({ [name]: event.target.value })}>
    ${options.map(([value, label]) => html`<option value=${value} ?selected=${value === (chosen ?? "")}>${label}</option>`)}</select>`;
  return html`
    <div class="bar">
      <input type="search" id="find" autocomplete="off" spellcheck="false" aria-label=${t("findIn")} placeholder=${t("findIn")} .value=${find} @input=${(event) => set({ find: event.target.value })}>
      ${choice("state", state, [["", t("anyState")], ...STATES.map((name) => [name, t(name)])])}
      <label>${t("groupBy")} ${choice("group", group, [["", t("none")], ...groups.map((name) => [name, name === "host" ? t("host") : name])])}</label>
    </div>
    ${instancesTable(registry, items, { meta, empty: registry.instances ? t(all.length === 0 ? "noInstancesYet" : "noInstances") : t("loading") })}
    ${bar(registry)}`;
}

function apiPart(scope) {
  const base = new URL(`v1/${scope}/instances`, document.baseURI);
  const [kind, key] = scope.split("/");
  return html`<pre>curl '${String(base)}?available=true'
curl -N '${String(new URL(`v1/events?${kind.slice(0, -1)}=${key}`, document.baseURI))}'
rollcalld instances ${scope} --available
rollcalld watch ${scope}</pre>`;
}

const FAULTS = { scope_forbidden: "forbiddenScope" };

export function scope(registry, route) {
  const { scope: path, parameters } = route;
  const [kind, key] = path.split("/");
  const found = registry.scopes?.get(path);
  if (registry.missing || (registry.scopes && !found && registry.instances?.size === 0)) {
    return html`<p class="verdict warn"><a href=${link({ view: kind })}>‹ ${t(kind)}</a> ${t(FAULTS[registry.missing] ?? "unknownScope", { scope: path })}</p>`;
  }
  const tab = (name, label) => html`<a class="tab" href=${link({ scope: path, parameters: name ? { tab: name } : {} })} aria-current=${(parameters.tab ?? "") === name ? "page" : nothing}>${label}</a>`;
  const parts = { history: () => pastOf({ [kind.slice(0, -1)]: key }, registry), api: () => apiPart(path) };
  return html`
    <div class="title"><a href=${link({ view: kind })}>‹ ${t(kind)}</a>
      <h1>${found?.name ?? key}</h1> ${found && found.name !== key ? html`<small>${key}</small>` : nothing}
      ${found ? html`${badge(stateOfScope(found))} <span>${t("ofAvailable", { n: number(found.available), all: number(found.instances) })}</span>` : nothing}
      <span class="end">${found ? actionButton(registry, `${t("rename")}…`, () => rename(found)) : nothing}
        ${found?.instances === 0 ? actionButton(registry, `${t("remove")}…`, async () => { if (await removeScope(found)) go({ view: kind }); }, "danger") : nothing}</span>
    </div>
    <section class="panel">${found ? gauge(found) : nothing}${found ? chart("scope", { [kind.slice(0, -1)]: key, since: "3h" }, registry) : nothing}</section>
    <nav class="tabs" aria-label=${path}>${tab("", `${t("tabInstances")} ${found ? number(found.instances) : ""}`)}${tab("history", t("tabHistory"))}${tab("api", t("tabApi"))}</nav>
    <section class="panel list" id="instances" aria-label=${t("tabInstances")}>${(parts[parameters.tab] ?? (() => instancesPart(registry, route)))()}</section>`;
}
