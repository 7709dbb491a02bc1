// One dialog at a time: a question with fields, answered by a value for each, or cancelled.

import { html, nothing, render } from "./html.js";
import { t } from "./words.js";

const host = () => document.getElementById("dialog");

// `fields` are `{ name, label, type, options, value }`; `mustType` is a text that confirms it.
export function ask({ title, lines, fields = [], ok, danger = false, mustType }) {
  const dialog = host();
  let typed = "";
  const draw = () => render(html`
    <form method="dialog" @submit=${(event) => mustType && typed !== mustType && event.preventDefault()}>
      <h2 id="dialog-title">${title}</h2>
      ${lines.filter(Boolean).map(({ text, kind }) => html`<p class=${kind ?? ""}>${text}</p>`)}
      ${fields.map((field) => html`<label>${field.label} ${control(field)}</label>`)}
      ${mustType ? html`<label class="bad">${t("typeName", { name: mustType })}
        <input id="dialog-confirm" autocomplete="off" spellcheck="false" @input=${(event) => { typed = event.target.value.trim(); draw(); }}></label>` : nothing}
      <div class="buttons">
        <button type="button" id="dialog-cancel" @click=${() => dialog.close("")}>${t("cancel")}</button>
        <button type="submit" id="dialog-ok" value="ok" class=${danger ? "danger" : "primary"} ?disabled=${Boolean(mustType) && typed !== mustType}>${ok}</button>
      </div>
    </form>`, dialog);
  draw();
  dialog.returnValue = "";
  dialog.showModal();
  (dialog.querySelector("input, select, textarea") ?? dialog.querySelector("#dialog-cancel")).focus();
  return new Promise((answer) => {
    dialog.onclose = () => {
      const values = Object.fromEntries(fields.map(({ name }) => [name, dialog.querySelector(`[name="${name}"]`).value.trim()]));
      render(nothing, dialog);
      answer(dialog.returnValue === "ok" ? values : undefined);
    };
  });
}

function control({ name, type, options, value = "", pattern }) {
  if (options) {
    return html`<select name=${name} id=${`dialog-${name}`}>${options.map(([option, label]) => html`<option value=${option}>${label}</option>`)}</select>`;
  }
  if (type === "lines") return html`<textarea name=${name} id=${`dialog-${name}`} rows="6" spellcheck="false" .value=${value}></textarea>`;
  return html`<input name=${name} id=${`dialog-${name}`} type=${type ?? "text"} pattern=${pattern ?? nothing} autocomplete="off" .value=${value}>`;
}
