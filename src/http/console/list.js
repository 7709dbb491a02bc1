// A list of any length, of which only the rows that are seen exist.

import { element } from "./elements.js";

const MORE = 8;

export class List {
  // `row` makes the element of an item; `head` is above all of them.
  constructor(parent, height, head, row) {
    Object.assign(this, { parent, height, row, items: [], empty: "" });
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

  draw() {
    const { parent, height, items } = this;
    const begin = Math.max(0, Math.floor(parent.scrollTop / height) - MORE);
    const end = Math.min(items.length, Math.ceil((parent.scrollTop + parent.clientHeight) / height) + MORE);
    const focused = this.rows.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
    const rows = [];
    for (let index = begin; index < end; index += 1) {
      const row = this.row(items[index]);
      row.style.top = `${index * height}px`;
      row.setAttribute("aria-rowindex", index + 1);
      rows.push(row);
    }
    this.rows.replaceChildren(...rows);
    if (focused) this.rows.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }
}
