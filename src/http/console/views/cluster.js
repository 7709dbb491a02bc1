// The daemon itself: the replica that answers, its backends, the roll call and protection mode.

import { release } from "../actions.js";
import { get } from "../api.js";
import { ago, duration, exact, number } from "../format.js";
import { html, nothing } from "../html.js";
import { read } from "../reader.js";
import { t } from "../words.js";
import { actionButton, causeText } from "./parts.js";

const fact = (label, value) => html`<dt>${label}</dt><dd>${value}</dd>`;
const time = (at) => (at ? html`<time datetime=${at} title=${exact(at)}>${ago(at)}</time>` : "–");
const answers = (isUp) => html`<span class="badge ${isUp ? "available" : "down"}"><span aria-hidden="true">${isUp ? "●" : "■"}</span> ${t(isUp ? "answers" : "answersNot")}</span>`;

// How often the replicas are read.
const AGAIN = 5000;

// All replicas, each with what it knows: one that knows another number of instances is in red.
function replicas() {
  const found = read("replicas", Math.floor(Date.now() / AGAIN), () => get("v1/replicas"))?.replicas;
  if (!found) return html`<p class="empty">${t("loading")}</p>`;
  const known = Math.max(...found.map(({ state }) => state?.instances ?? 0));
  return html`
    <table><thead><tr>${["replica", "version", "startedAt", "tabInstances", "online", "streams", "rollCall", "reconcile"].map((name) => html`<th scope="col">${t(name)}</th>`)}</tr></thead>
      <tbody>${found.map(({ host, id, answers: isThis, state }) => html`<tr>
        <th scope="row" title=${id}>${host} ${isThis ? html`<small class="tag">${t("thisReplica")}</small>` : nothing}</th>
        ${state ? html`<td>${state.version}</td><td>${time(state.started_at)}</td>
          <td class=${state.instances === known ? "" : "bad"}>${number(state.instances)}</td><td>${number(state.online)}</td><td>${number(state.streams)}</td>
          <td>${number(state.roll_calls_sent)}</td><td>${time(state.last_reconcile_at)}</td>` : html`<td colspan="7">–</td>`}
      </tr>`)}</tbody></table>`;
}

export function cluster(registry) {
  const { overview, me } = registry;
  if (!overview) return html`<p class="empty">${t("loading")}</p>`;
  const { backends, roll_call: roll, reconcile, protection } = overview;
  return html`
    <div class="title"><h1>${t("cluster")}</h1></div>
    <section class="panel" id="replicas"><h2>${t("replicas")}</h2>${replicas()}</section>
    <div class="cards">
      <section class="panel"><h2>${t("backends")}</h2><dl>
        ${["store", "leases", "event_log"].map((name) => fact(t(name), answers(backends[name])))}
      </dl>${backends.leases_evicted ? html`<p class="bad">${t("evicted")}</p>` : nothing}</section>
      <section class="panel"><h2>${t("rollCall")}</h2><dl>
        ${fact(t("interval"), t("seconds", { n: roll.interval_seconds }))} ${fact(t("ttl"), t("seconds", { n: overview.lease_ttl_seconds }))}
        ${fact(t("lastSent"), time(roll.last_sent_at))} ${fact("", t("sentBy", { own: number(roll.sent), others: number(roll.sent_by_others), skipped: number(roll.skipped) }))}
      </dl></section>
      <section class="panel"><h2>${t("reconcile")}</h2><dl>${fact(t("lastRun"), time(reconcile.last_at))}</dl></section>
      <section class="panel ${protection.active ? "protected" : ""}"><h2>${t("protection")}</h2><dl>
        ${fact(t("state"), protection.active ? t("protectionTitle") : t("inactive"))}
        ${protection.reason ? fact(t("because"), protection.cause ? causeText(protection.cause) : protection.reason) : nothing}
        ${protection.since ? fact(t("since"), time(protection.since)) : nothing}
        ${protection.begins_with === undefined ? nothing : fact(t("begins"), t("beginsWith", { n: number(protection.begins_with), online: number(overview.online) }))}
        ${protection.ends_in_seconds === undefined ? nothing : fact(t("within"), duration(1000 * protection.ends_in_seconds))}
      </dl>${protection.active ? actionButton(registry, t("release"), () => release(registry), "danger") : nothing}</section>
      <section class="panel"><h2>${t("tokens")}</h2><dl>${fact(t("name"), `${me.name} (${me.role})`)}${me.scope ? fact(t("scope"), me.scope) : nothing}</dl>
        ${overview.auth_disabled ? html`<p class="warn">${t("open")}</p>` : nothing}</section>
      <section class="panel"><h2>${t("links")}</h2><ul class="plain"><li><a href="docs/">${t("apiDocument")}</a></li><li><a href="metrics">${t("metricsPage")}</a></li></ul></section>
    </div>`;
}
