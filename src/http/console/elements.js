// Elements and dialogs. Text is always set as text, never as markup.

import { word } from "./words.js";

export const byId = (id) => document.getElementById(id);

// Creates an element with properties and children; a child that is no element becomes text.
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made && name !== "list") made[name] = value;
    else if (value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== undefined));
  return made;
}

export const replace = (parent, ...children) => parent.replaceChildren(...children.filter(Boolean));

// Shows a dialog, and returns the entered text, or undefined if it was cancelled.
export function ask({ title, text, field, secret = false, danger = false, ok = word("ok") }) {
  const [dialog, input] = [byId("dialog"), byId("dialog-input")];
  byId("dialog-title").textContent = title;
  byId("dialog-text").textContent = text;
  byId("dialog-label").hidden = field === undefined;
  byId("dialog-field").textContent = field ?? "";
  byId("dialog-ok").textContent = ok;
  byId("dialog-ok").className = danger ? "danger" : "primary";
  input.type = secret ? "password" : "text";
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  if (field !== undefined) input.focus();
  return new Promise((answer) => {
    byId("dialog-cancel").onclick = () => dialog.close("");
    dialog.onclose = () => {
      const given = input.value.trim();
      input.value = "";
      answer(dialog.returnValue === "ok" ? given : undefined);
    };
  });
}

// Formats a duration in the largest fitting unit.
export function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 100) return `${seconds} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

export const clock = (at) => new Date(at).toLocaleTimeString([], { hour12: false });
