// What is found over all services and groups: scopes by name, instances by address, name or metadata.
// One request, whatever the number of services.

import { scopeOf } from "../api.js";
import { number } from "../format.js";
import { html, nothing } from "../html.js";
import { read } from "../reader.js";
import { bar, show } from "../selection.js";
import { stateOfScope } from "../states.js";
import { t } from "../words.js";
import { columns, instancesTable } from "./instances.js";
import { badge, scopeLink } from "./parts.js";

const LIMIT = 500;
const SCOPES = 12;

export function search(registry, { parameters }) {
  const { q = "" } = parameters;
  const wanted = q.toLowerCase();
  const scopes = [...(registry.scopes?.values() ?? [])].filter(({ key, name }) => `${key}\n${name}`.toLowerCase().includes(wanted));
  const page = q ? read(`search ${q}`, registry.version, () => registry.search(q, LIMIT)) : { instances: [] };
  const found = (page?.instances ?? []).map((instance) => ({ scope: scopeOf(instance), instance }));
  // The server selects the same only if it is not limited to a page.
  show(found, page?.next_cursor ? undefined : { q });
  return html`
    <div class="title"><h1>${t("search")}: ${q}</h1></div>
    ${scopes.length > 0 && q ? html`<section class="panel"><h2>${t("services")}, ${t("groups")} <b class="count">${number(scopes.length)}</b></h2>
      <ul class="found">${scopes.slice(0, SCOPES).map((scope) => html`<li>${badge(stateOfScope(scope))} ${scopeLink(scope.path)} ${scope.name === scope.key ? nothing : html`<small>${scope.name}</small>`}</li>`)}</ul>
      ${scopes.length > SCOPES ? html`<p class="more">${t("andMore", { n: number(scopes.length - SCOPES) })}</p>` : nothing}</section>` : nothing}
    <section class="panel list" id="instances" aria-label=${t("tabInstances")}>
      <h2>${t("tabInstances")} ${page ? html`<b class="count">${number(found.length)}${page.next_cursor ? "+" : ""}</b>` : nothing}</h2>
      ${instancesTable(registry, found, { withScope: true, meta: columns(found.map(({ instance }) => instance)), empty: page ? t("noInstances") : t("loading") })}
      ${bar(registry)}
    </section>`;
}
