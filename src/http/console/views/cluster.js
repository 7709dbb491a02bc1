// The daemon itself: the replica that answers, its backends, the roll call and protection mode.

import { release } from "../actions.js";
import { ago, duration, exact, number } from "../format.js";
import { html, nothing } from "../html.js";
import { t } from "../words.js";
import { actionButton, causeText } from "./parts.js";

const fact = (label, value) => html`<dt>${label}</dt><dd>${value}</dd>`;
const time = (at) => (at ? html`<time datetime=${at} title=${exact(at)}>${ago(at)}</time>` : "–");
const answers = (isUp) => html`<span class="badge ${isUp ? "available" : "down"}"><span aria-hidden="true">${isUp ? "●" : "■"}</span> ${t(isUp ? "answers" : "answersNot")}</span>`;

export function cluster(registry) {
  const { overview, me } = registry;
  if (!overview) return html`<p class="empty">${t("loading")}</p>`;
  const { backends, roll_call: roll, reconcile, protection } = overview;
  return html`
    <div class="title"><h1>${t("cluster")}</h1></div>
    <div class="cards">
      <section class="panel"><h2>${t("thisReplica")}</h2><dl>
        ${fact(t("replica"), overview.replica)} ${fact(t("version"), overview.version)} ${fact(t("startedAt"), time(overview.started_at))}
        ${fact(t("tabInstances"), number(overview.instances))} ${fact(t("streams"), number(overview.events.subscribers))}
      </dl></section>
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
        ${protection.ends_in_seconds === undefined ? nothing : fact(t("within"), duration(1000 * protection.ends_in_seconds))}
      </dl>${protection.active ? actionButton(registry, t("release"), () => release(registry), "danger") : nothing}</section>
      <section class="panel"><h2>${t("tokens")}</h2><dl>${fact(t("name"), `${me.name} (${me.role})`)}${me.scope ? fact(t("scope"), me.scope) : nothing}</dl>
        ${overview.auth_disabled ? html`<p class="warn">${t("open")}</p>` : nothing}</section>
      <section class="panel"><h2>${t("links")}</h2><ul class="plain"><li><a href="docs/">${t("apiDocument")}</a></li><li><a href="metrics">${t("metricsPage")}</a></li></ul></section>
    </div>`;
}
