// A table of any length in the scrolling page: only the rows that are seen exist. Rows may differ in
// height. Tab reaches the current row alone; the arrow keys, j and k move it.

import { html, nothing, repeat } from "./html.js";

const MORE = 400;

// The row that has the focus, by table and key.
const current = new Map();
let onMove = () => {};
export const whenMoved = (draw) => { onMove = draw; };

// `items` are drawn by `row`, each with the height that `height` returns, in a grid of `columns`.
export function table({ id, label, head, items, key, row, height, empty, columns }) {
  const keys = items.map(key);
  const tops = [];
  let total = 0;
  for (const item of items) {
    tops.push(total);
    total += height(item);
  }
  const body = document.getElementById(id);
  // Which rows are seen is known only once the table is in the page.
  if (!body && items.length > 0) onMove();
  const above = body ? -body.getBoundingClientRect().top : 0;
  const begin = Math.max(0, firstAfter(tops, above - MORE) - 1);
  const end = firstAfter(tops, above + innerHeight + MORE);
  const focused = keys.includes(current.get(id)) ? current.get(id) : keys[0];
  const seen = items.slice(begin, end).map((item, index) => ({ item, index: begin + index }));
  if (items.length === 0) return html`<p class="empty">${empty}</p>`;
  return html`
    <div class="table" role="table" aria-label=${label} aria-rowcount=${items.length} .style=${`--columns:${columns}`}>
      <div class="row head" role="row">${head}</div>
      <div class="rows" role="rowgroup" id=${id} .style=${`height:${total}px`} @focusin=${(event) => note(id, event)}>
        ${repeat(seen, ({ index }) => keys[index], ({ item, index }) => html`
          <div class="row" role="row" aria-rowindex=${index + 1} data-key=${keys[index]}
            .style=${`top:${tops[index]}px;height:${height(item)}px`}>${row(item, keys[index] === focused)}</div>`)}
      </div>
    </div>`;
}

function firstAfter(tops, place) {
  let [low, high] = [0, tops.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (tops[middle] > place) high = middle;
    else low = middle + 1;
  }
  return low;
}

function note(id, event) {
  const key = event.target.closest(".row")?.dataset.key;
  if (key === undefined || current.get(id) === key) return;
  current.set(id, key);
  onMove();
}

// Moves the focus to another row, which may not exist yet.
export function move(step) {
  const rows = document.querySelector("main .rows");
  if (!rows) return;
  const all = [...rows.children];
  const at = all.findIndex((row) => row.dataset.key === current.get(rows.id));
  const target = all[at < 0 ? 0 : at + step];
  if (!target) return;
  current.set(rows.id, target.dataset.key);
  target.scrollIntoView({ block: "nearest" });
  onMove();
  target.querySelector("a, button")?.focus();
}

export const currentRow = () => {
  const rows = document.querySelector("main .rows");
  return rows && [...rows.children].find((row) => row.dataset.key === current.get(rows.id));
};

export const tab = (isFocused) => (isFocused ? 0 : -1);

export const cell = (name, content) => html`<span class=${name} role="cell">${content}</span>`;
export const headCell = (name, content, sort) => html`<span class=${name} role="columnheader" aria-sort=${sort ?? nothing}>${content}</span>`;
