// The list of services or of groups, the worst first.

import { declare } from "../actions.js";
import { ago, compare, exact, number } from "../format.js";
import { html, nothing } from "../html.js";
import { set } from "../route.js";
import { severity, stateOfScope } from "../states.js";
import { cell, headCell, tab, table } from "../table.js";
import { t } from "../words.js";
import { actionButton, badge, gauge, scopeLink } from "./parts.js";

const FILTERS = {
  down: (scope) => stateOfScope(scope) === "down", some: (scope) => scope.available < scope.instances && scope.available > 0,
  held: (scope) => scope.held > 0, suspect: (scope) => scope.suspect > 0, empty: (scope) => scope.instances === 0,
};

// An outage comes before what an operator took out.
const isHeld = (scope) => Number(scope.held === scope.instances);

const ORDERS = {
  state: (a, b) => severity(a) - severity(b) || isHeld(a) - isHeld(b) || b.instances - b.available - (a.instances - a.available),
  name: (a, b) => compare(a.key, b.key),
  available: (a, b) => b.available - a.available, registered: (a, b) => b.instances - a.instances, held: (a, b) => b.held - a.held, suspect: (a, b) => b.suspect - a.suspect,
  changed: (a, b) => compare(b.changed_at ?? "", a.changed_at ?? ""),
};

// Returns the scopes of a kind that match the parameters, sorted.
function select(registry, kind, { find = "", state, sort = "state" }) {
  const wanted = find.toLowerCase();
  const ofKind = [...(registry.scopes?.values() ?? [])].filter((scope) => !kind || scope.kind === kind);
  const found = ofKind.filter((scope) => `${scope.key}\n${scope.name}`.toLowerCase().includes(wanted));
  const isDown = sort.startsWith("-");
  const order = ORDERS[sort.replace("-", "")] ?? ORDERS.state;
  const sorted = found.filter((scope) => !state || (FILTERS[state] ?? (() => true))(scope)).sort((a, b) => order(a, b) || compare(a.key, b.key));
  return { found, shown: isDown ? sorted.reverse() : sorted };
}

function sortable(name, label, parameters) {
  const { sort = "state" } = parameters;
  const isSorted = sort.replace("-", "") === name;
  const next = sort === name ? `-${name}` : name;
  const arrow = isSorted ? (sort.startsWith("-") ? " ↑" : " ↓") : "";
  const order = isSorted ? (sort.startsWith("-") ? "ascending" : "descending") : undefined;
  return headCell(`c-${name}`, html`<button type="button" class="sort" @click=${() => set({ sort: next })}>${label}${arrow}</button>`, order);
}

export function scopesTable(registry, { parameters }, kind) {
  const { found, shown } = select(registry, kind, parameters);
  const chip = (state, label, count) => html`<button type="button" class="chip ${state ?? ""}" aria-pressed=${(parameters.state ?? "") === (state ?? "")}
    ?disabled=${state && count === 0} @click=${() => set({ state })}>${label} <b>${number(count)}</b></button>`;
  const empty = !registry.scopes ? t("loading") : found.length === 0 && !parameters.find ? t(kind === "groups" ? "noGroupsYet" : "noScopesYet") : t("noScopes");
  return html`
    <section class="panel list" id="scopes" aria-label=${t(kind ?? "services")}>
      <div class="bar">
        <input type="search" id="find" autocomplete="off" spellcheck="false" aria-label=${t("findIn")} placeholder=${t("findIn")} .value=${parameters.find ?? ""}
          @input=${(event) => set({ find: event.target.value })}>
        <div class="chips">
          ${chip(undefined, t("filterAll"), found.length)}
          ${["down", "some", "held", "suspect", "empty"].map((state) => chip(state, t(state), found.filter(FILTERS[state]).length))}
        </div>
        ${kind === "groups" ? actionButton(registry, `${t("declare")}…`, () => declare("groups")) : nothing}
      </div>
      ${table({
        id: "scope-rows", columns: "9.5rem minmax(8rem, 2fr) minmax(6rem, 3fr) 5.5rem 5.5rem 4rem 4.5rem 7.5rem", label: t(kind ?? "services"), items: shown, key: (scope) => scope.path, height: () => 34, empty,
        head: html`${sortable("state", t("state"), parameters)}${sortable("name", t("name"), parameters)}${headCell("c-gauge", t("health"))}${sortable("available", t("available"), parameters)}${sortable("registered", t("registered"), parameters)}${sortable("held", t("held"), parameters)}${sortable("suspect", t("suspect"), parameters)}${sortable("changed", t("lastChange"), parameters)}`,
        row: (scope, isFocused) => html`
          ${cell("c-state", badge(stateOfScope(scope)))}
          ${cell("c-name", html`${scopeLink(scope.path, scope.key, tab(isFocused))} ${scope.name === scope.key ? nothing : html`<small>${scope.name}</small>`} ${!kind && scope.kind === "groups" ? html`<small class="tag">${t("groups")}</small>` : nothing}`)}
          ${cell("c-gauge", gauge(scope))}
          ${cell("c-available", html`<b>${number(scope.available)}</b>`)}
          ${cell("c-registered", number(scope.instances))}
          ${cell("c-held", scope.held ? number(scope.held) : "")}
          ${cell("c-suspect", scope.suspect ? number(scope.suspect) : "")}
          ${cell("c-changed", scope.changed_at ? html`<time datetime=${scope.changed_at} title=${exact(scope.changed_at)}>${ago(scope.changed_at)}</time>` : "")}`,
      })}
    </section>`;
}

export const scopes = (registry, route) => html`<h1 class="title">${t(route.view)}</h1>${scopesTable(registry, route, route.view)}`;
