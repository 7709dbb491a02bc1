// The page: shows the registry, and sends the actions of an operator.

import { ask, byId, clock, duration, element, replace } from "./elements.js";
import { List } from "./list.js";
import { call, hasToken, pathOf, Refused, Registry, setToken } from "./registry.js";
import { switchLanguage, translate, word } from "./words.js";

const registry = new Registry();
const chosen = new Set();
const narrow = matchMedia("(max-width: 760px)");
const FOUND = 5000;
let search = "";

// Returns the state of an instance as one word, which also selects its style.
function presence(instance) {
  if (instance.suspect) return "suspect";
  if (instance.available) return "available";
  return instance.online ? "online" : "offline";
}

const badge = (state) => element("span", { className: `badge ${state}` }, word(state));
const cell = (className, ...children) => element("span", { className, role: "cell" }, ...children);
const headCell = (className, name) => element("span", { className, role: "columnheader" }, name ? word(name) : "");

function scopeRow(scope) {
  const bar = element("span", { className: "gauge", role: "img", "aria-label": `${scope.available} / ${scope.online} / ${scope.instances}` });
  for (const [name, count] of [["available", scope.available], ["online", scope.online - scope.available]]) {
    const part = element("span", { className: name });
    part.style.width = `${scope.instances ? (100 * count) / scope.instances : 0}%`;
    bar.append(part);
  }
  const title = scope.name === scope.key ? scope.key : `${scope.key} · ${scope.name}`;
  const button = element("button", { type: "button", className: "open", title, "data-focus": scope.path }, title);
  button.onclick = () => {
    // The URL names the selected scope, so that it can be shared.
    location.hash = scope.path;
    byId("instances-panel").scrollIntoView({ block: "nearest" });
  };
  const counts = cell("counts", element("b", {}, String(scope.available)), ` / ${scope.online} / ${scope.instances}`);
  const kind = cell("kind", word(scope.kind));
  const row = element("div", { className: "row scope", role: "row" }, cell("title", button), kind, counts, bar);
  row.classList.toggle("empty", scope.available === 0 && scope.instances > 0);
  return row;
}

function updateScope(row, scope) {
  const open = scope.path === registry.open;
  row.classList.toggle("chosen", open);
  row.querySelector("button").setAttribute("aria-pressed", open);
}

const idOf = (scope, address) => `${scope} ${address}`;

function instanceRow({ scope, instance }) {
  const id = idOf(scope, instance.address);
  const box = element("input", { type: "checkbox", "aria-label": instance.address, "data-focus": id });
  box.onchange = () => {
    if (box.checked) chosen.add(id);
    else chosen.delete(id);
    drawActions();
  };
  const about = Object.entries(instance.metadata).map(([key, value]) => `${key}=${value}`);
  if (instance.held_by) about.unshift(`${word("heldBy")} ${instance.held_by}${instance.reason ? `: ${instance.reason}` : ""}`);
  const name = instance.name === instance.address ? undefined : element("small", {}, instance.name);
  const where = element("small", { className: "where" }, scope);
  const lease = cell("lease");
  lease.dataset.lease = id;
  const since = instance.online_changed_at;
  const row = element(
    "div", { className: "row instance", role: "row" },
    cell("box", box), cell("address", element("span", {}, instance.address), name, where), cell("presence", badge(presence(instance))),
    cell("status", badge(instance.status)), cell("weight", String(instance.weight)), lease,
    cell("since", since ? element("time", { dateTime: since, title: since }) : ""),
    element("span", { className: "about", role: "cell", title: about.join("\n") }, about.join("  ")),
  );
  return row;
}

function updateInstance(row, { scope, instance }) {
  row.querySelector("input").checked = chosen.has(idOf(scope, instance.address));
  drawTimes(row);
}

// Updates the values that change with time.
function drawTimes(rows) {
  for (const lease of rows.querySelectorAll("[data-lease]")) drawLease(lease);
  for (const since of rows.querySelectorAll(".since time")) since.textContent = duration(Date.now() - Date.parse(since.dateTime));
}

function drawLease(lease) {
  const end = registry.leases.get(lease.dataset.lease);
  const left = end === undefined ? undefined : Math.max(0, end - performance.now());
  lease.textContent = left === undefined ? "–" : `${Math.ceil(left / 1000)} s`;
  lease.classList.toggle("short", left !== undefined && left < 10_000);
}

const scopeHead = element("div", { className: "row head scope", role: "row" });
const instanceHead = element("div", { className: "row head instance", role: "row" });
const all = element("input", { type: "checkbox" });
all.onchange = () => {
  for (const { scope, instance } of instances.items) {
    if (all.checked) chosen.add(idOf(scope, instance.address));
    else chosen.delete(idOf(scope, instance.address));
  }
  drawActions();
  instances.draw();
};

const scopes = new List(byId("scopes"), 56, scopeHead, scopeRow, updateScope);
const instances = new List(byId("instances"), narrow.matches ? 92 : 52, instanceHead, instanceRow, updateInstance);
narrow.addEventListener("change", () => {
  instances.height = narrow.matches ? 92 : 52;
  draw();
});

function drawHeads() {
  const counts = element("span", { className: "counts", role: "columnheader" }, ["available", "online", "registered"].map(word).join(" / "));
  replace(scopeHead, headCell("title", "name"), counts);
  all.setAttribute("aria-label", word("all"));
  replace(
    instanceHead, element("span", { className: "box", role: "columnheader" }, all), headCell("address", "address"), headCell("presence", "presence"),
    headCell("status", "status"), headCell("weight", "weight"), headCell("lease", "lease"), headCell("since", "since"), headCell("about", "about"),
  );
}

function drawTotals() {
  const overview = registry.overview;
  if (!overview) return;
  const figures = ["available", "online", "registered", "suspect"].map((name) => {
    const count = overview[name === "registered" ? "instances" : name];
    return element("div", { className: `figure ${name}${count ? "" : " none"}` }, element("b", {}, String(count)), element("span", {}, word(name)));
  });
  const kinds = ["services", "groups"].map((name) =>
    element("div", { className: "figure" }, element("b", {}, String(overview[name].scopes)), element("span", {}, word(name))));
  replace(byId("totals"), ...figures, ...kinds);
}

const banner = (kind, ...content) => element("div", { className: `banner ${kind}` }, ...content);

function drawBanners() {
  const { overview, state } = registry;
  const banners = [];
  if (state === "lost") banners.push(banner("bad", word("lostText")));
  if (overview) {
    const unavailable = ["store", "leases", "event_log"].filter((name) => !overview.backends[name]).map(word);
    if (unavailable.length > 0) banners.push(banner("bad", word("unavailable") + unavailable.join(", ")));
    if (overview.backends.leases_evicted) banners.push(banner("warn", word("leasesEvicted")));
    if (overview.stale) banners.push(banner("warn", word("staleText")));
    const { active, reason, ends_in_seconds: left } = overview.protection;
    if (active) {
      const release = element("button", { type: "button", className: "danger", id: "release" }, word("release"));
      release.onclick = releaseProtection;
      banners.push(banner("hold", element("p", {}, element("b", {}, word("protection")), ` ${reason}. ${word("endsIn")} ${duration(1000 * left)}.`), release));
    }
    if (overview.auth_disabled) banners.push(banner("warn", word("authDisabled")));
  }
  replace(byId("banners"), ...banners);
}

function drawScopes() {
  const wanted = search.toLowerCase();
  const found = registry.scopes.filter((scope) => `${scope.key}\n${scope.name}`.toLowerCase().includes(wanted));
  scopes.show(found, word(registry.scopes.length === 0 ? "noScopes" : "noFound"));
}

function drawInstances() {
  const rows = [];
  if (search) {
    const wanted = search.toLowerCase();
    for (const [scope, list] of registry.lists) {
      for (const instance of list) {
        const hit = instance.address.toLowerCase().includes(wanted) || instance.name.toLowerCase().includes(wanted);
        if (hit && rows.length < FOUND) rows.push({ scope, instance });
      }
    }
  } else if (registry.open) {
    for (const instance of registry.lists.get(registry.open) ?? []) rows.push({ scope: registry.open, instance });
  }
  const known = new Set(rows.map(({ scope, instance }) => idOf(scope, instance.address)));
  for (const id of chosen) if (!known.has(id)) chosen.delete(id);
  byId("instances").classList.toggle("found", search !== "");
  byId("instances-title").textContent = search ? word("found") : (registry.open ?? word("instances"));
  instances.show(rows, word(search ? "noFound" : registry.open ? "noInstances" : "choose"));
  drawActions();
}

function drawActions() {
  byId("actions").hidden = chosen.size === 0;
  byId("chosen").textContent = `${chosen.size} ${word("selected")}`;
  all.checked = chosen.size > 0 && chosen.size === instances.items.length;
}

function drawTimeline() {
  const lines = registry.timeline.slice(0, 60).map(({ name, at, scope, address, reason }) => element(
    "li", { className: name.replace(".", "-") },
    element("time", { dateTime: at }, clock(at)), element("b", {}, word(name)), element("span", {}, [scope, address, reason].filter(Boolean).join("  ")),
  ));
  replace(byId("timeline"), ...(lines.length > 0 ? lines : [element("li", { className: "nothing" }, word("noEvents"))]));
}

function drawState() {
  byId("link").dataset.state = registry.state;
  byId("link").textContent = word(registry.state);
  byId("language").textContent = word("other");
  byId("token").textContent = word(hasToken() ? "signOut" : "signIn");
  document.body.classList.toggle("lost", registry.state === "lost");
}

function drawPulse() {
  const call = registry.overview?.roll_call;
  if (!call) return;
  const interval = call.interval_seconds * 1000;
  const passed = performance.now() - registry.overview.readAt - call.next_in_ms;
  const left = Math.min(interval, passed < 0 ? -passed : interval - (passed % interval));
  byId("pulse-left").textContent = `${Math.ceil(left / 1000)} s`;
  byId("pulse-bar").value = 1 - left / interval;
}

function draw() {
  translate();
  drawHeads();
  drawState();
  drawTotals();
  drawBanners();
  drawScopes();
  drawInstances();
  drawTimeline();
}

function report(error) {
  const said = banner("bad", `${word("failed")}: ${error.message}`);
  byId("banners").append(said);
  setTimeout(() => said.remove(), 10_000);
}

async function askForToken(text) {
  const given = await ask({ title: word("tokenTitle"), text: word(text), field: word("tokenTitle"), secret: true });
  if (given) setToken(given);
  drawState();
  return Boolean(given);
}

// Runs an action. If it requires a token, asks for one and runs it again.
async function withToken(act) {
  try {
    return await act();
  } catch (error) {
    const lacks = error instanceof Refused && (error.status === 401 || error.status === 403);
    if (!lacks || !(await askForToken("tokenAdmin"))) throw error;
    return act();
  }
}

async function releaseProtection() {
  const sure = await ask({ title: word("release"), text: word("releaseText"), danger: true });
  if (sure !== undefined) await withToken(() => call("POST", "v1/protection/release")).then(() => registry.readAgain()).catch(report);
}

// Runs an action for each selected instance, a few at a time.
async function toChosen(act) {
  const ids = [...chosen].map((id) => id.split(" "));
  const worker = async () => {
    for (let next = ids.pop(); next !== undefined; next = ids.pop()) await act(...next);
  };
  const [first] = ids.splice(0, 1);
  try {
    await withToken(() => act(...first));
    await Promise.all(Array.from({ length: 6 }, worker));
    chosen.clear();
  } catch (error) {
    report(error);
  }
  for (const scope of registry.lists.keys()) await registry.readList(scope).catch(report);
}

byId("hold").onclick = async () => {
  const reason = await ask({ title: word("holdTitle"), text: word("holdText"), field: word("reason"), ok: word("hold") });
  if (reason === undefined) return;
  const change = reason ? { status: "held", reason } : { status: "held" };
  await toChosen((scope, address) => call("PATCH", pathOf(scope, address), change));
};
byId("enable").onclick = async () => {
  const sure = await ask({ title: word("enableTitle"), text: word("enableText"), ok: word("enable") });
  if (sure !== undefined) await toChosen((scope, address) => call("PATCH", pathOf(scope, address), { status: "enabled" }));
};
byId("deregister").onclick = async () => {
  const sure = await ask({ title: word("deregisterTitle"), text: word("deregisterText"), ok: word("deregister"), danger: true });
  if (sure !== undefined) await toChosen((scope, address) => call("DELETE", pathOf(scope, address)));
};
byId("language").onclick = () => {
  switchLanguage();
  scopes.forget();
  instances.forget();
  draw();
};
byId("token").onclick = async () => {
  if (hasToken()) setToken("");
  else await askForToken("tokenText");
  drawState();
};
byId("search").oninput = (event) => {
  search = event.target.value.trim();
  drawScopes();
  drawInstances();
  if (search) registry.readAll().catch(report);
};

const drawn = {
  overview: () => { drawTotals(); drawBanners(); },
  scopes: drawScopes, instances: drawInstances, timeline: drawTimeline, state: () => { drawState(); drawBanners(); },
  leases: () => {}, pulse: () => registry.readOverview().catch(() => {}),
};
const waiting = new Set();
registry.addEventListener("changed", ({ detail }) => {
  if (waiting.size === 0) {
    // Draws at most once per interval, however many events arrive.
    setTimeout(() => {
      const names = [...waiting];
      waiting.clear();
      for (const name of names) drawn[name]();
    }, 80);
  }
  waiting.add(detail);
});
function openByAddress() {
  search = byId("search").value = "";
  chosen.clear();
  byId("instances").scrollTop = 0;
  registry.choose(decodeURIComponent(location.hash.slice(1)) || undefined).catch(report);
  drawScopes();
}

addEventListener("hashchange", openByAddress);
setInterval(() => {
  drawPulse();
  drawTimes(byId("instances"));
}, 500);
setInterval(() => {
  if (document.hidden || registry.state !== "live") return;
  registry.readOverview().catch(() => {});
  registry.readLeases().catch(() => {});
}, 5000);

registry.open = decodeURIComponent(location.hash.slice(1)) || undefined;
draw();
registry.listen(async (error) => {
  if (error instanceof Refused && (error.status === 401 || error.status === 403)) while (!(await askForToken("tokenText")));
});
