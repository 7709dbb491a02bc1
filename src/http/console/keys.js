// The keyboard: one letter for what is done often.

import { undoLast } from "./messages.js";
import { current, go } from "./route.js";
import { find, run, toggle } from "./selection.js";
import { currentRow, move } from "./table.js";
import { copy } from "./views/parts.js";

const PLACES = { n: "now", s: "services", g: "groups", a: "activity", c: "cluster" };

let isGoing = false;

const isTyping = (target) => target.closest("input:not([type=checkbox]), textarea, select, dialog");

export function listen(registry, { help }) {
  addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.key === "z" && (event.ctrlKey || event.metaKey) && !isTyping(target)) return undoLast();
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return undefined;
    if (key === "Escape") return close(target);
    if (isTyping(target)) return undefined;
    if (isGoing && PLACES[key]) {
      isGoing = false;
      return go({ view: PLACES[key] });
    }
    isGoing = key === "g";
    const row = currentRow();
    const found = row && find(row.dataset.key);
    const actions = {
      "/": () => document.getElementById("search").focus(), "?": help,
      j: () => move(1), k: () => move(-1), ArrowDown: () => row?.contains(target) && move(1), ArrowUp: () => row?.contains(target) && move(-1),
      x: () => found && toggle(found), h: () => registry.mayChange() && run(registry, "hold"), e: () => registry.mayChange() && run(registry, "enable"),
      c: () => found && copy(row.querySelector(".copy"), found.instance.address),
    };
    if (!actions[key]) return undefined;
    event.preventDefault();
    return actions[key]();
  });
}

function close(target) {
  if (isTyping(target)) return target.blur();
  const route = current();
  if (route.address) go({ scope: route.scope, parameters: route.parameters });
  return undefined;
}
