// The instances that are selected, in the list that is shown.

import { act, effects } from "./actions.js";
import { number } from "./format.js";
import { html, nothing } from "./html.js";
import { t } from "./words.js";

const selected = new Set();
// The instances that are shown: `{ scope, instance }`, and what the server selects for all of them.
let shown = [];
let selection;
let draw = () => {};
export const whenSelected = (callback) => { draw = callback; };

const idOf = ({ scope, instance }) => `${scope} ${instance.address}`;

// Says what is shown; what is not is not selected any more.
export function show(targets, serverSelection) {
  [shown, selection] = [targets, serverSelection];
  if (selected.size === 0) return;
  const ids = new Set(targets.map(idOf));
  for (const id of selected) if (!ids.has(id)) selected.delete(id);
}

export const isSelected = (target) => selected.has(idOf(target));
export const areAllSelected = () => shown.length > 0 && selected.size === shown.length;

export function toggle(target) {
  const id = idOf(target);
  if (!selected.delete(id)) selected.add(id);
  draw();
}

export function toggleAll() {
  if (areAllSelected()) selected.clear();
  else for (const target of shown) selected.add(idOf(target));
  draw();
}

// Returns the shown instance with the key of a row.
export const find = (id) => shown.find((target) => idOf(target) === id);
export const keyOf = idOf;

export function run(registry, action) {
  const targets = shown.filter(isSelected);
  const isAll = targets.length === shown.length;
  return act(registry, action, targets, isAll ? selection : undefined).then((isDone) => {
    if (isDone) selected.clear();
    draw();
  });
}

// The bar with what can be done to the selected ones.
export function bar(registry) {
  if (selected.size === 0) return nothing;
  const targets = shown.filter(isSelected);
  const effect = effects(registry, targets, "hold");
  const only = effect.length === 1 ? effect[0] : undefined;
  const button = (action, label, kind = "") => html`<button type="button" id=${`do-${action}`} class=${kind} ?disabled=${!registry.mayChange()}
    title=${registry.mayChange() ? nothing : t("readOnly")} @click=${() => run(registry, action)}>${label}</button>`;
  const beats = targets.some(({ instance }) => instance.online);
  return html`
    <div class="actions" id="actions" role="toolbar" aria-label=${t("select")}>
      <span id="selected" role="status">${t("selected", { n: number(targets.length), stay: only && number(only.stay), all: only && number(only.all) })}</span>
      ${button("hold", `${t("hold")}…`)} ${button("enable", `${t("enable")}…`)} ${button("weight", `${t("changeWeight")}…`)}
      <details><summary>${t("moreActions")}</summary><div>
        ${button("disable", `${t("disable")}…`)}
        <button type="button" @click=${() => navigator.clipboard?.writeText(targets.map(({ instance }) => instance.address).join("\n"))}>${t("copy")}</button>
        ${beats ? html`<small>${t("effect.deregister")}</small>` : button("deregister", `${t("deregister")}…`, "danger")}
      </div></details>
    </div>`;
}
