// The first page: what is the case, what needs attention, since when, and what happened before.

import { act, release } from "../actions.js";
import { scopeOf } from "../api.js";
import { chart } from "../chart.js";
import { clock, duration, number } from "../format.js";
import { html, nothing } from "../html.js";
import { link } from "../route.js";
import { t } from "../words.js";
import { recent } from "./activity.js";
import { instanceLink, scopeLink } from "./parts.js";
import { scopesTable } from "./scopes.js";

// Returns the worst that is the case, as a kind, a title and a text.
export function verdict(registry) {
  const { overview } = registry;
  if (registry.isSilent()) {
    return { kind: "bad", title: t("silentTitle", { time: duration(Date.now() - registry.answeredAt) }), text: t("silentText", { time: clock(registry.answeredAt) }) };
  }
  if (!overview) return undefined;
  const { services, groups, protection } = overview;
  const text = t("summary", {
    available: number(overview.available), all: number(overview.instances), offline: overview.instances - overview.online,
    held: overview.held, suspect: overview.suspect,
  });
  if (protection.active) {
    const ends = t("protectionEnds", { time: duration(1000 * protection.ends_in_seconds - (Date.now() - overview.readAt)) });
    return { kind: "protected", title: t("protectionTitle"), text: `${t("protectionText", { suspect: overview.suspect, online: overview.online })} ${ends}`, release: true };
  }
  const down = services.unavailable_scopes + groups.unavailable_scopes;
  if (down > 0) return { kind: "bad", title: t("downTitle", { services: services.unavailable_scopes, groups: groups.unavailable_scopes }), text };
  const some = registry.scopes ? [...registry.scopes.values()].filter((scope) => scope.available < scope.instances).length : 0;
  if (some > 0) return { kind: "warn", title: t("someTitle", { n: some }), text };
  if (overview.instances === 0) return { kind: "calm", title: t("emptyTitle"), text: "", isEmpty: true };
  return { kind: "good", title: t("allTitle"), text };
}

function verdictPanel(registry) {
  const found = verdict(registry);
  if (!found) return html`<section class="verdict calm"><h1>${t("loading")}</h1></section>`;
  return html`
    <section class="verdict ${found.kind}">
      <div><h1>${found.title}</h1><p>${found.text}</p></div>
      ${found.release ? html`<button type="button" id="release" class="danger" ?disabled=${!registry.mayChange()} @click=${() => release(registry)}>${t("release")}</button>` : nothing}
      <small>${registry.isSilent() || !registry.answeredAt ? nothing : t("asOf", { time: clock(registry.answeredAt) })}</small>
    </section>`;
}

function downText({ instances, online, held, since }) {
  if (held === instances) return t("allHeld", { n: instances });
  if (online === 0) return t("allOffline", { n: instances, time: since && duration(Date.now() - Date.parse(since)) });
  return t("noneAvailable", { n: instances });
}

function attentionPanel(registry) {
  const { attention } = registry;
  const row = (kind, subject, text, action) => html`<li class=${kind}><span class="subject">${subject}</span><span class="text">${text}</span>${action}</li>`;
  const enable = (entry) => html`<button type="button" ?disabled=${!registry.mayChange()} title=${registry.mayChange() ? nothing : t("readOnly")}
    @click=${() => act(registry, "enable", [{ scope: scopeOf(entry), instance: { address: entry.address, status: "disabled", online: true, available: false } }])}>${t("enableThis")}</button>`;
  const look = (scope, address) => html`<a class="button" href=${link({ scope, address })}>${t("look")}</a>`;
  const rows = attention && [
    ...attention.unavailable.first.map((entry) => row("bad", scopeLink(scopeOf(entry), entry.service ?? entry.group), downText(entry), look(scopeOf(entry)))),
    ...attention.waiting.first.map((entry) => row("waits", instanceLink(scopeOf(entry), entry.address), t("waits", { group: entry.group, time: duration(Date.now() - Date.parse(entry.since)) }), enable(entry))),
    ...attention.flapping.first.map((entry) => row("warn", instanceLink(scopeOf(entry), entry.address), t("flaps", { scope: entry.service ?? entry.group, n: entry.transitions }), look(scopeOf(entry), entry.address))),
    ...attention.old_holds.first.map((entry) => row("warn", instanceLink(scopeOf(entry), entry.address), t("oldHold", { by: entry.held_by, time: duration(Date.now() - Date.parse(entry.since)) }), look(scopeOf(entry), entry.address))),
  ];
  const total = attention && Object.values(attention).reduce((sum, { total: count }) => sum + count, 0);
  return html`
    <section class="panel" id="attention" aria-labelledby="attention-title">
      <h2 id="attention-title">${t("attention")} ${total ? html`<b class="count">${number(total)}</b>` : nothing}</h2>
      ${!rows ? html`<p class="empty">${t("loading")}</p>` : rows.length === 0 ? html`<p class="empty">${t("nothingToDo")}</p>` : html`<ul>${rows.slice(0, 8)}</ul>`}
      ${total > 8 ? html`<p class="more"><a href=${link({ view: "services", parameters: { state: "down" } })}>${t("andMore", { n: number(total - 8) })}</a></p>` : nothing}
    </section>`;
}

function firstRun() {
  const base = new URL("v1/services/orders/instances/127.0.0.1:9000", document.baseURI);
  const json = "-H 'Content-Type: application/json' -d '{}'";
  return html`<section class="panel"><h2>${t("firstRun")}</h2>
    <pre>curl -X PUT ${json} ${String(base)}
curl -X PUT ${json} ${String(base)}/heartbeat</pre>
    <pre>rollcalld agent --service orders --address 127.0.0.1:9000 --server ${new URL(".", document.baseURI).origin}</pre></section>`;
}

export function now(registry, route) {
  const isEmpty = registry.overview?.instances === 0 && registry.overview?.scopes === 0;
  return html`
    ${verdictPanel(registry)}
    ${isEmpty ? firstRun() : html`
      <div class="pair">
        ${attentionPanel(registry)}
        ${registry.me?.scope ? nothing : html`<section class="panel" aria-labelledby="chart-title"><h2 id="chart-title">${t("chart")}</h2>${chart("total", { since: "1h" }, registry)}</section>`}
      </div>
      ${scopesTable(registry, route, undefined)}`}
    <section class="panel" id="recent" aria-labelledby="recent-title">
      <h2 id="recent-title">${t("whatHappened")} <a href=${link({ view: "activity" })}>${t("toActivity")}</a></h2>${recent(registry)}
    </section>`;
}
