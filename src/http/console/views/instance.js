// Everything about one instance, beside the list of its scope.

import { act } from "../actions.js";
import { get, query, scopeOf } from "../api.js";
import { clock, duration, exact } from "../format.js";
import { html, nothing } from "../html.js";
import { read } from "../reader.js";
import { link } from "../route.js";
import { stateOf } from "../states.js";
import { t } from "../words.js";
import { pastOf } from "./activity.js";
import { actionButton, badge, copied, holdText, lease, scopeLink, sentence } from "./parts.js";

const since = (time) => html`<span title=${exact(time)}>${duration(Date.now() - Date.parse(time))} <small>${t("sinceTime", { time: clock(time) })}</small></span>`;

const fact = (label, value) => html`<dt>${label}</dt><dd>${value}</dd>`;

function elsewhere(registry, scope, address) {
  const found = read(`elsewhere ${address}`, registry.version, () => get(`v1/instances?${query({ address, limit: 100 })}`));
  const others = (found?.instances ?? []).map((instance) => ({ scope: scopeOf(instance), instance })).filter((target) => target.scope !== scope);
  if (others.length === 0) return nothing;
  const all = () => [...others, { scope, instance: registry.instances.get(address) }];
  return html`<h3>${t("alsoAt")}</h3><p>${others.map((target) => html`${scopeLink(target.scope)} `)}
    ${actionButton(registry, t("holdEverywhere"), () => act(registry, "hold", all()))}</p>`;
}

function copies(scope, address) {
  const url = new URL(`v1/${scope}/instances/${encodeURIComponent(address)}`, document.baseURI);
  return html`<p class="copies">${t("copyAs")}: ${[["curl", `curl '${url}'`], ["rollcalld", `rollcalld show ${scope} ${address}`], [t("address"), address]].map(([name, text]) => html`<span>${name}${copied(text)}</span> `)}</p>`;
}

export function instanceDrawer(registry, { scope, address, parameters }) {
  const close = link({ scope, parameters });
  const instance = registry.instances?.get(address);
  const head = html`<div class="drawer-head"><h2><span class="address">${address}</span>${copied(address)}</h2>
    <a class="button" id="close-drawer" href=${close} aria-label=${t("close")}>✕</a></div>`;
  if (!instance) return html`<aside class="drawer" id="drawer" aria-label=${address}>${head}<p class="empty">${registry.instances ? t("gone", { address }) : t("loading")}</p></aside>`;
  const state = stateOf(instance);
  const target = [{ scope, instance }];
  const button = (action, label, kind) => actionButton(registry, `${label}…`, () => act(registry, action, target), kind);
  const entries = Object.entries(instance.metadata);
  const [kind, key] = scope.split("/");
  return html`
    <aside class="drawer" id="drawer" aria-label=${address}>
      ${head}
      <p>${badge(state)} ${instance.online ? nothing : html`<small>${t("offline")}</small>`}</p>
      <p>${instance.held_by ? html`<b>${holdText(instance)}.</b> ` : nothing}${sentence(instance)}</p>
      <div class="drawer-actions">
        ${instance.status === "enabled" ? button("hold", t("hold")) : button("enable", t("enable"))}
        ${button("weight", t("changeWeight"))} ${button("metadata", t("editMetadata"))}
        ${instance.status === "enabled" ? button("disable", t("disable")) : nothing}
        ${instance.online ? nothing : button("deregister", t("deregister"), "danger")}
      </div>
      <h3>${t("facts")}</h3>
      <dl>
        ${instance.name === address ? nothing : fact(t("name"), instance.name)}
        ${fact(t("weight"), html`${instance.weight}${instance.overrides?.weight === undefined ? nothing : html` <small>${t("overridden")}</small>`}`)}
        ${fact(t("ttl"), t("seconds", { n: instance.ttl_seconds }))}
        ${fact(t("lease"), lease(registry, instance))}
        ${instance.online_changed_at ? fact(t(instance.online ? "onlineFor" : "offlineFor"), since(instance.online_changed_at)) : nothing}
        ${fact(t("registeredAt"), since(instance.registered_at))}
        ${instance.registered_by ? fact(t("registeredBy"), `${instance.registered_by.token} (${instance.registered_by.peer})`) : nothing}
        ${fact(t("id"), instance.id)}
      </dl>
      <h3>${t("metadata")} ${instance.overrides?.metadata ? html`<small>${t("overridden")}</small>` : nothing}</h3>
      ${entries.length === 0 ? html`<p class="empty">${t("noMetadata")}</p>` : html`<dl class="metadata">${entries.map(([name, value]) => fact(name, value))}</dl>`}
      ${elsewhere(registry, scope, address)}
      <h3>${t("history")}</h3>
      ${pastOf({ [kind.slice(0, -1)]: key, address }, registry)}
      ${copies(scope, address)}
    </aside>`;
}
