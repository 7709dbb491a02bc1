// The page's copy of the registry: read from the API, and updated by its events.

const STREAM_SILENCE = 40_000;
const TIMELINE = 200;
const SEARCHES = 6;

// Relative to the page, which a proxy may serve under another path.
const at = (path) => new URL(path, document.baseURI);

let token = sessionStorage.getItem("token") ?? "";

export const hasToken = () => token !== "";

export function setToken(given) {
  token = given;
  if (given) sessionStorage.setItem("token", given);
  else sessionStorage.removeItem("token");
}

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

function headers(more = {}) {
  return token ? { Authorization: `Bearer ${token}`, ...more } : more;
}

async function refusal(answer) {
  const problem = await answer.json().catch(() => ({}));
  return new Refused(answer.status, problem.detail ?? answer.statusText);
}

export async function call(method, path, body) {
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  const answer = await fetch(at(path), {
    method, headers: headers(json), body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(15_000),
  });
  if (!answer.ok) throw await refusal(answer);
  return answer.status === 204 ? undefined : answer.json();
}

export const nameOf = (kind, key) => `${kind}s/${key}`;
export const pathOf = (scope, address) => `v1/${scope}/instances/${encodeURIComponent(address)}`;

export class Registry extends EventTarget {
  overview = undefined;
  scopes = [];
  lists = new Map();
  leases = new Map();
  timeline = [];
  state = "connecting";
  open = undefined;
  #dirty = new Set();
  #etags = new Map();
  #flushing = false;
  #lastId = undefined;
  #searching = false;

  changed(what) {
    this.dispatchEvent(new CustomEvent("changed", { detail: what }));
  }

  async readOverview() {
    const overview = await call("GET", "v1/overview");
    this.overview = { ...overview, readAt: performance.now() };
    this.changed("overview");
  }

  async readScopes() {
    const [{ services }, { groups }] = await Promise.all([call("GET", "v1/services"), call("GET", "v1/groups")]);
    const of = (kind, scopes) => scopes.map((scope) => ({ ...scope, kind, path: nameOf(kind, scope.key) }));
    this.scopes = [...of("service", services), ...of("group", groups)];
    this.changed("scopes");
  }

  // Reads the instances of a scope, unless they are unchanged.
  async readList(scope) {
    const etag = this.#etags.get(scope);
    const answer = await fetch(at(`v1/${scope}/instances`), { headers: headers(etag ? { "If-None-Match": etag } : {}) });
    if (answer.status === 404) this.lists.delete(scope);
    else if (answer.status !== 304) {
      if (!answer.ok) throw await refusal(answer);
      this.lists.set(scope, (await answer.json()).instances);
      this.#etags.set(scope, answer.headers.get("ETag"));
    }
    this.changed("instances");
  }

  async readLeases() {
    const scope = this.open;
    if (scope === undefined) return;
    const { leases } = await call("GET", `v1/${scope}/leases`);
    const now = performance.now();
    this.leases = new Map(leases.map((lease) => [`${scope} ${lease.address}`, now + lease.remaining_ms]));
    this.changed("leases");
  }

  async choose(scope) {
    this.open = scope;
    this.leases = new Map();
    this.changed("instances");
    if (scope === undefined) return;
    await this.readList(scope);
    await this.readLeases();
  }

  // Reads every list once for the search; events keep them up to date.
  async readAll() {
    if (this.#searching) return;
    this.#searching = true;
    const missing = this.scopes.map((scope) => scope.path).filter((path) => !this.lists.has(path));
    const reader = async () => {
      for (let path = missing.pop(); path !== undefined; path = missing.pop()) await this.readList(path);
    };
    try {
      await Promise.all(Array.from({ length: SEARCHES }, reader));
    } finally {
      this.#searching = false;
    }
  }

  async readAgain() {
    await Promise.all([this.readOverview(), this.readScopes()]);
    const known = [...this.lists.keys()];
    for (const scope of known) this.#dirty.add(scope);
    if (this.open) await this.choose(this.open);
    this.#flush();
  }

  #take(event) {
    const data = event.data ? JSON.parse(event.data) : {};
    const scope = data.service ? nameOf("service", data.service) : data.group ? nameOf("group", data.group) : undefined;
    if (event.name === "resync") this.readAgain().catch(() => {});
    if (event.name === "roll.call") this.changed("pulse");
    else this.timeline.unshift({ name: event.name, at: data.at ?? new Date().toISOString(), scope, address: data.address, reason: data.reason });
    this.timeline.length = Math.min(this.timeline.length, TIMELINE);
    if (scope) this.#dirty.add(scope);
    if (event.name.startsWith("protection.")) for (const known of this.lists.keys()) this.#dirty.add(known);
    this.changed("timeline");
    this.#flush();
  }

  // Reads the lists that events were about: at once, and then at a limited rate.
  async #flush() {
    if (this.#flushing) return;
    this.#flushing = true;
    while (this.#dirty.size > 0) {
      const wanted = [...this.#dirty].filter((scope) => scope === this.open || this.lists.has(scope));
      this.#dirty.clear();
      try {
        await Promise.all([this.readScopes(), this.readOverview(), ...wanted.map((scope) => this.readList(scope))]);
      } catch {
        // The stream reports when the daemon is back, and then everything is read again.
      }
      await new Promise((next) => setTimeout(next, 700));
    }
    this.#flushing = false;
  }

  setState(state) {
    this.state = state;
    this.changed("state");
  }

  // Subscribes for ever; passes failures to `failed`, which may wait for a token.
  async listen(failed) {
    for (let tries = 0; ; tries += 1) {
      try {
        await this.readAgain();
        await this.#stream(() => { tries = 0; });
      } catch (error) {
        this.setState("lost");
        await failed(error);
      }
      this.setState(tries === 0 ? "connecting" : "lost");
      await new Promise((next) => setTimeout(next, Math.min(500 * 2 ** Math.min(tries, 4), 5000) * (0.5 + Math.random() / 2)));
    }
  }

  async #stream(connected) {
    const stop = new AbortController();
    let timer = setTimeout(() => stop.abort(), STREAM_SILENCE);
    const more = this.#lastId ? { "Last-Event-ID": this.#lastId } : {};
    const answer = await fetch(at("v1/events"), { headers: headers(more), signal: stop.signal });
    if (!answer.ok) throw await refusal(answer);
    this.setState("live");
    connected();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(() => stop.abort(), STREAM_SILENCE);
        const blocks = (text + value).split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          const event = { name: "", data: "" };
          for (const line of block.split("\n")) {
            const [, field, rest] = /^(\w*): ?(.*)$/.exec(line) ?? [];
            if (field === "id") this.#lastId = rest;
            if (field === "event") event.name = rest;
            if (field === "data") event.data = rest;
          }
          if (event.name) this.#take(event);
        }
      }
    } finally {
      clearTimeout(timer);
    }
  }
}
