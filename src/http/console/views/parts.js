// Parts that several views share.

import { duration, exact, number } from "../format.js";
import { html, nothing, svg } from "../html.js";
import { link } from "../route.js";
import { SHAPES, stateOf } from "../states.js";
import { t } from "../words.js";

export const badge = (state) => html`<span class="badge ${state}"><span aria-hidden="true">${SHAPES[state]}</span> ${t(state)}</span>`;

// A bar of the states of a scope. Widths are attributes of an SVG, which the policy of the page allows.
export function gauge({ instances, online, available, suspect, held }) {
  const parts = { available: available - Math.min(suspect, available), suspect: Math.min(suspect, available), held, offline: 0 };
  parts.offline = Math.max(0, instances - parts.available - parts.suspect - parts.held);
  let x = 0;
  const bars = Object.entries(parts).map(([state, count]) => {
    const width = instances ? (100 * count) / instances : 0;
    const bar = svg`<rect class=${state} x=${x} width=${width} height="8"></rect>`;
    x += width;
    return width > 0 ? bar : nothing;
  });
  const label = t("gauge", { available: number(parts.available), suspect: number(suspect), held: number(held), offline: number(Math.max(0, instances - online)) });
  return html`<svg class="gauge" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label=${label}>${bars}</svg>`;
}

// An address is never cut, and one click copies it.
export const copied = (text, tabindex) => html`<button type="button" class="copy" tabindex=${tabindex ?? nothing} title=${t("copy")}
  aria-label="${t("copy")} ${text}" @click=${(event) => copy(event.currentTarget, text)}><svg viewBox="0 0 14 14" aria-hidden="true"><path d="M5 5h7v8H5zM9 5V1H2v8h3"></path></svg></button>`;

export async function copy(button, text) {
  await navigator.clipboard?.writeText(text).catch(() => {});
  button?.classList.add("copied");
  setTimeout(() => button?.classList.remove("copied"), 1200);
}

export const scopeLink = (path, text, tabindex) => html`<a href=${link({ scope: path })} tabindex=${tabindex ?? nothing}>${text ?? path}</a>`;
export const instanceLink = (scope, address, tabindex) => html`<a class="address" href=${link({ scope, address })} tabindex=${tabindex ?? nothing}>${address}</a>`;

export const timeAgo = (time) => (time ? html`<time datetime=${time} title=${exact(time)}>${duration(Date.now() - Date.parse(time))}</time>` : nothing);

// Why protection mode began or ended, in the language of the page.
export const causeText = ({ code, ...numbers }) => t(`causes.${code}`, numbers);

// Who holds an instance, since when, until when, and why.
export function holdText(instance) {
  const by = t("heldBy", { by: instance.held_by, time: duration(Date.now() - Date.parse(instance.updated_at)) });
  const until = instance.held_until ? `, ${t("until", { time: new Date(instance.held_until).toLocaleString("sv-SE").slice(0, 16) })}` : "";
  return `${by}${until}${instance.reason ? `: “${instance.reason}”` : ""}`;
}

// The remaining time of a lease with its share; amber in the last third of its own TTL.
export function lease(registry, instance) {
  const end = registry.leases.get(instance.address);
  if (end === undefined || !instance.online) return nothing;
  const now = registry.isSilent() ? registry.answeredAt : Date.now();
  const left = Math.max(0, Math.ceil((end - now) / 1000));
  const isLate = left < instance.ttl_seconds / 3;
  return html`<span class=${isLate ? "late" : ""} title=${t("leaseLeft", { left, ttl: instance.ttl_seconds })}>${t("seconds", { n: left })}</span>`;
}

export const sentence = (instance) => (instance.status === "held" && instance.held_until
  ? t("willBeUntil", { time: new Date(instance.held_until).toLocaleString("sv-SE").slice(0, 16) })
  : t(`willBe.${stateOf(instance)}`));

// A button that a token without the role may see and not press.
export const actionButton = (registry, label, run, kind = "") => html`<button type="button" class=${kind} ?disabled=${!registry.mayChange()}
  title=${registry.mayChange() ? nothing : t("readOnly")} @click=${run}>${label}</button>`;
