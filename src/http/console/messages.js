// Messages about actions: what was done, with a way to take it back, and what failed. An error stays
// until it is dismissed.

import { html, repeat } from "./html.js";
import { t } from "./words.js";

const SHORT = 20_000;

const messages = [];
let next = 1;
let draw = () => {};
export const whenChanged = (callback) => { draw = callback; };

// Shows a message, and returns it to be changed or removed. `action` is a label and a function.
export function say(kind, text, action) {
  const message = { id: next++, kind, text, action };
  messages.push(message);
  if (kind === "good") setTimeout(() => remove(message), SHORT);
  draw();
  return message;
}

export function change(message, values) {
  Object.assign(message, values);
  draw();
}

export function remove(message) {
  const index = messages.indexOf(message);
  if (index >= 0) messages.splice(index, 1);
  draw();
}

export const sayError = (detail) => say("bad", t("failed", { detail }));

// Takes back the latest action that can be.
export function undoLast() {
  const last = messages.findLast((message) => message.isUndo);
  if (last) last.action.run();
}

const tray = () => html`${repeat(messages, (message) => message.id, (message) => html`
  <div class="message ${message.kind}">
    <p>${message.text}</p>
    ${message.value === undefined ? "" : html`<progress max="1" .value=${message.value} aria-hidden="true"></progress>`}
    ${message.action ? html`<button type="button" @click=${() => message.action.run()}>${message.action.label}</button>` : ""}
    <button type="button" class="quiet" aria-label=${t("dismiss")} @click=${() => remove(message)}>✕</button>
  </div>`)}`;

export { tray };
