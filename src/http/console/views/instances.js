// A list of instances: of one scope, or found in several.

import { html, nothing } from "../html.js";
import { areAllSelected, isSelected, keyOf, toggle, toggleAll } from "../selection.js";
import { stateOf } from "../states.js";
import { cell, headCell, tab, table } from "../table.js";
import { t } from "../words.js";
import { badge, copied, holdText, instanceLink, lease, scopeLink, timeAgo } from "./parts.js";

const ROW = 34;
const LINE = 20;
// The space beside the reason of a hold, and the width of a letter, in pixels.
const BESIDE = 260;
const NARROW_BESIDE = 110;
const LETTER = 7.2;
const GROUP = 32;

// Metadata that at least half of the instances have and that tell them apart become columns, these
// first.
const FIRST = ["version", "zone"];
const COLUMNS = 3;

export function columns(instances) {
  const values = new Map();
  for (const { metadata } of instances) for (const [key, value] of Object.entries(metadata)) (values.get(key) ?? values.set(key, []).get(key)).push(value);
  // A column with one value, or another one in each row, says nothing.
  const says = (key) => FIRST.includes(key) || (new Set(values.get(key)).size > 1 && new Set(values.get(key)).size * 2 <= instances.length);
  const common = [...values.keys()].filter((key) => values.get(key).length * 2 >= instances.length && says(key));
  const place = (key) => (FIRST.includes(key) ? FIRST.indexOf(key) : FIRST.length);
  return common.sort((a, b) => place(a) - place(b) || (a < b ? -1 : 1)).slice(0, COLUMNS);
}

// `items` are `{ scope, instance }`, or `{ group, available, all }` for the head of a group.
export function instancesTable(registry, items, { empty, withScope = false, meta }) {
  const mark = html`<input type="checkbox" id="select-all" aria-label=${t("selectAll")} .checked=${areAllSelected()} @change=${toggleAll}>`;
  return table({
    id: "instance-rows", columns: `1.4rem 8rem minmax(14rem, 2fr) ${withScope ? "minmax(8rem, 1fr)" : ""} repeat(${meta.length}, minmax(4rem, 1fr)) 4.5rem ${withScope ? "" : "4.5rem"} 5rem`.replace("repeat(0, minmax(4rem, 1fr))", ""), label: t("tabInstances"), items, empty, key: (item) => (item.group === undefined ? keyOf(item) : `group ${item.group}`),
    height: (item) => (item.group !== undefined ? GROUP : item.instance.held_by ? ROW + LINE * linesOf(holdText(item.instance)) : ROW),
    head: html`${headCell("c-box", mark)}${headCell("c-state", t("state"))}${headCell("c-address", t("address"))}${withScope ? headCell("c-scope", t("scope")) : nothing}
      ${meta.map((key) => headCell("c-meta", key))}${headCell("c-weight", t("weight"))}${withScope ? nothing : headCell("c-lease", t("lease"))}${headCell("c-since", t("since"))}`,
    row: (item, isFocused) => (item.group === undefined ? instanceRow(registry, item, isFocused, withScope, meta) : groupRow(item)),
  });
}

// The reason of a hold is never cut.
function linesOf(text) {
  const width = document.getElementById("instances")?.clientWidth ?? innerWidth;
  return Math.ceil((text.length * LETTER) / Math.max(150, width - (innerWidth > 760 ? BESIDE : NARROW_BESIDE)));
}

const groupRow = ({ group, available, all }) => html`<span class="c-group" role="cell"><b>${group || "–"}</b> ${t("ofAvailable", { n: available, all })}</span>`;

function instanceRow(registry, target, isFocused, withScope, meta) {
  const { scope, instance } = target;
  const name = instance.name === instance.address ? nothing : html` <small>${instance.name}</small>`;
  return html`
    ${cell("c-box", html`<input type="checkbox" aria-label="${t("select")} ${instance.address}" tabindex=${tab(isFocused)} .checked=${isSelected(target)} @change=${() => toggle(target)}>`)}
    ${cell("c-state", badge(stateOf(instance)))}
    ${cell("c-address", html`${instanceLink(scope, instance.address, tab(isFocused))}${copied(instance.address, -1)}${name}`)}
    ${withScope ? cell("c-scope", scopeLink(scope, scope, -1)) : nothing}
    ${meta.map((key) => cell("c-meta", html`<span title=${instance.metadata[key] ?? nothing}>${instance.metadata[key] ?? ""}</span>`))}
    ${cell("c-weight", String(instance.weight))}
    ${withScope ? nothing : cell("c-lease", lease(registry, instance))}
    ${cell("c-since", timeAgo(instance.online_changed_at))}
    ${instance.held_by ? html`<span class="c-reason" role="cell">${holdText(instance)}</span>` : nothing}`;
}
