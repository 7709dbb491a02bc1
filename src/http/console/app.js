// The page: the header, the view that the address names, and what is drawn when.

import { setToken, hasToken } from "./api.js";
import { ask } from "./dialog.js";
import { html, nothing, render } from "./html.js";
import { listen } from "./keys.js";
import { tray, whenChanged } from "./messages.js";
import { forgetAll, whenRead } from "./reader.js";
import { Registry } from "./registry.js";
import { current, go, link } from "./route.js";
import { whenSelected } from "./selection.js";
import { whenMoved } from "./table.js";
import { activity } from "./views/activity.js";
import { cluster } from "./views/cluster.js";
import { instanceDrawer } from "./views/instance.js";
import { now, verdict } from "./views/now.js";
import { scope } from "./views/scope.js";
import { scopes } from "./views/scopes.js";
import { search } from "./views/search.js";
import { signIn } from "./views/sign-in.js";
import { switchLanguage, t } from "./words.js";

const PLACES = ["now", "services", "groups", "activity", "cluster"];
const DRAW_EVERY = 100;
const SPEAK_EVERY = 10_000;
const SEARCH_AFTER = 250;

const registry = new Registry();
const byId = (id) => document.getElementById(id);

function header(route) {
  const { overview, me, connection } = registry;
  if (connection === "signed-out") return html`<b class="brand">Rollcall</b><span class="end">${languageButton()}</span>`;
  const roll = overview?.roll_call;
  const left = roll && !registry.isSilent() ? nextRollCall(roll, overview.readAt) : undefined;
  return html`
    <b class="brand">Rollcall</b>
    <nav aria-label=${t("views")}>${PLACES.map((view) => html`<a href=${link({ view })} aria-current=${route.view === view ? "page" : nothing}>${t(view)}</a>`)}</nav>
    <form role="search" @submit=${(event) => event.preventDefault()}>
      <input type="search" id="search" autocomplete="off" spellcheck="false" placeholder="${t("find")}  /" aria-label=${t("find")}
        .value=${route.view === "search" ? route.parameters.q ?? "" : ""} @input=${(event) => searchFor(event.target.value.trim())}>
    </form>
    <span class="end">
      <span id="link" data-state=${connection}>${t(connection)}</span>
      ${left === undefined ? nothing : html`<small id="roll-call">${t("rollCallIn", { n: left })}</small>`}
      ${overview ? html`<small class="replica">${overview.replica}</small>` : nothing}
      ${me ? html`<small id="me">${me.name} (${me.role})</small>` : nothing}
      ${hasToken() ? html`<button type="button" class="quiet" id="sign-out" @click=${signOut}>${t("signOut")}</button>` : nothing}
      ${languageButton()}
    </span>`;
}

const languageButton = () => html`<button type="button" class="quiet" id="language" @click=${() => { switchLanguage(); draw(); }}>${t("otherLanguage")}</button>`;

function nextRollCall({ interval_seconds: seconds, next_in_ms: next }, readAt) {
  const interval = seconds * 1000;
  const passed = Date.now() - readAt - next;
  return Math.ceil((passed < 0 ? -passed : interval - (passed % interval)) / 1000);
}

function banners() {
  const { overview, me } = registry;
  if (!overview) return nothing;
  const down = ["store", "leases", "event_log"].filter((name) => !overview.backends[name]).map((name) => t(name));
  return html`
    ${registry.isSilent() && current().view !== "now" ? html`<p class="banner bad">${verdict(registry).title}. ${verdict(registry).text}</p>` : nothing}
    ${down.length > 0 ? html`<p class="banner bad">${t("backendDown", { names: down.join(", ") })}</p>` : nothing}
    ${overview.stale && down.length === 0 ? html`<p class="banner warn">${t("stale")}</p>` : nothing}
    ${overview.backends.leases_evicted ? html`<p class="banner warn">${t("evicted")}</p>` : nothing}
    ${overview.protection.active && current().view !== "now" ? html`<p class="banner protected"><a href=${link({ view: "now" })}>${verdict(registry).title}. ${verdict(registry).text}</a></p>` : nothing}
    ${me?.scope ? html`<p class="banner">${t("limited", { scope: me.scope })}</p>` : nothing}`;
}

function content(route) {
  if (registry.connection === "signed-out") return signIn(registry, enter);
  if (route.view === "unknown") return html`<p class="verdict warn">${t("unknownView")} <a href=${link({ view: "now" })}>${t("now")}</a></p>`;
  if (route.scope) return html`${scope(registry, route)}${route.address ? instanceDrawer(registry, route) : nothing}`;
  return { now, services: scopes, groups: scopes, activity, cluster, search }[route.view](registry, route);
}

const footer = () => (registry.overview ? html`<small>Rollcall ${registry.overview.version}</small> <a href="docs/">${t("apiDocument")}</a> <button type="button" class="quiet" @click=${help}>? ${t("keys")}</button>
  ${registry.overview.auth_disabled ? html`<small class="warn">${t("open")}</small>` : nothing}` : nothing);

let timer;
let drawnAt = 0;
function draw() {
  timer ??= setTimeout(() => requestAnimationFrame(drawNow), Math.max(0, drawnAt + DRAW_EVERY - Date.now()));
}

function drawNow() {
  timer = undefined;
  drawnAt = Date.now();
  const route = current();
  document.documentElement.lang = t("otherLanguage") === "中文" ? "en" : "zh-CN";
  // Measures the page, so it comes before anything changes it.
  const view = content(route);
  byId("skip").textContent = t("skip");
  render(header(route), byId("header"));
  render(banners(), byId("banners"));
  render(view, byId("main"));
  render(tray(), byId("messages"));
  render(footer(), byId("footer"));
  document.body.classList.toggle("with-drawer", Boolean(route.address));
  document.body.classList.toggle("silent", registry.isSilent());
  drawTitle(route);
}

function drawTitle(route) {
  const { overview } = registry;
  const down = overview ? overview.services.unavailable_scopes + overview.groups.unavailable_scopes : 0;
  const place = route.address ?? route.scope?.split("/")[1] ?? t(route.view);
  document.title = `${down > 0 ? `(${down}) ` : ""}Rollcall · ${place}`;
  byId("icon").href = down > 0 || registry.isSilent() ? "console/icon-alert.svg" : "console/icon.svg";
}

// A screen reader hears one sentence when the verdict changes, and not more than every ten seconds.
let spoken;
let spokenAt = 0;
function speak() {
  const title = registry.connection === "signed-out" ? undefined : verdict(registry)?.title;
  // The text of a silent daemon changes every second.
  const about = registry.isSilent() ? "silent" : title;
  if (!title || about === spoken || Date.now() - spokenAt < SPEAK_EVERY) return;
  [spoken, spokenAt] = [about, Date.now()];
  byId("spoken").textContent = title;
}

let searching;
function searchFor(q) {
  clearTimeout(searching);
  searching = setTimeout(() => {
    if (q) go({ view: "search", parameters: { q } });
    else if (current().view === "search") go({ view: "now" });
  }, SEARCH_AFTER);
}

function enter(token) {
  setToken(token);
  Object.assign(registry, { connection: "connecting", signIn: undefined });
  draw();
  start();
}

function signOut() {
  setToken("");
  forgetAll();
  registry.signOut("required");
}

async function start() {
  registry.choose(current().scope).catch(() => {});
  await registry.start();
  // A token that is not known, or none where one is required.
  if (!hasToken()) registry.signIn = "required";
  setToken("");
  forgetAll();
  draw();
}

const help = () => ask({ title: t("keys"), ok: t("close"), lines: Object.entries(t("keyHelp")).map(([key, text]) => ({ text: `${key}  —  ${text}` })) });

function moved() {
  const route = current();
  registry.choose(route.scope).catch(() => {});
  draw();
}

byId("skip").addEventListener("click", (event) => {
  // The hash is the address of the view.
  event.preventDefault();
  byId("main").focus();
});
registry.seen = () => [...document.querySelectorAll("#instance-rows .row")].map((row) => row.dataset.key.split(" "))
  .filter(([scope]) => scope === registry.open).map(([, address]) => address);
for (const listener of [whenChanged, whenRead, whenSelected, whenMoved]) listener(draw);
registry.addEventListener("changed", draw);
addEventListener("hashchange", moved);
addEventListener("scroll", draw, { passive: true });
addEventListener("resize", draw);
setInterval(() => { draw(); speak(); }, 1000);
listen(registry, { help });
draw();
start();

