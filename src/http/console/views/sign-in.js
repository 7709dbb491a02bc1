// The page of a registry that requires a token: nothing else is shown.

import { html, nothing } from "../html.js";
import { t } from "../words.js";

function take(event, submit) {
  event.preventDefault();
  const given = new FormData(event.target).get("token").trim();
  event.target.reset();
  submit(given);
}

export function signIn(registry, submit) {
  const isUnknown = registry.signIn === "unknown";
  return html`
    <form class="sign-in" id="sign-in" @submit=${(event) => take(event, submit)}>
      <h1>${t("signInTitle")}</h1>
      ${isUnknown ? html`<p class="bad" id="sign-in-error" role="alert">${t("tokenUnknown")}</p>` : nothing}
      <label>${t("token")} <input id="token" name="token" type="password" autocomplete="off" required aria-describedby="token-kept"></label>
      <p id="token-kept"><small>${t("tokenKept")}</small></p>
      <button type="submit" class="primary" id="sign-in-button">${t("signIn")}</button>
    </form>`;
}
