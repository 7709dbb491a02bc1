// A list of any length, of which only the visible rows exist as elements.

import { element } from "./elements.js";

const MORE = 8;

export class List {
  // `row` creates the element of an item, `update` refreshes it, and `head` is the header row.
  constructor(parent, height, head, row, update) {
    Object.assign(this, { parent, height, row, update, items: [], made: new Map() });
    this.rows = element("div", { className: "rows", role: "rowgroup" });
    this.table = element("div", { className: "table", role: "table" }, head, this.rows);
    this.nothing = element("p", { className: "nothing" });
    parent.replaceChildren(this.table, this.nothing);
    parent.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(parent);
  }

  show(items, empty) {
    this.items = items;
    this.nothing.textContent = items.length === 0 ? empty : "";
    this.table.hidden = items.length === 0;
    this.table.setAttribute("aria-rowcount", items.length);
    this.rows.style.height = `${items.length * this.height}px`;
    this.draw();
  }

  // Creates every row again at the next draw.
  forget() {
    this.made.clear();
  }

  // An unchanged item keeps its element, so that a click never hits a removed one.
  draw() {
    const { parent, height, items, rows } = this;
    const begin = Math.max(0, Math.floor(parent.scrollTop / height) - MORE);
    const end = Math.min(items.length, Math.ceil((parent.scrollTop + parent.clientHeight) / height) + MORE);
    const made = new Map();
    for (let index = begin; index < end; index += 1) {
      const item = items[index];
      const key = JSON.stringify(item);
      const row = this.made.get(key) ?? this.row(item);
      made.set(key, row);
      this.update(row, item);
      row.style.top = `${index * height}px`;
      row.setAttribute("aria-rowindex", index + 1);
      const place = rows.children[index - begin];
      if (place !== row) rows.insertBefore(row, place ?? null);
    }
    while (rows.children.length > made.size) rows.lastElementChild.remove();
    this.made = made;
  }
}
