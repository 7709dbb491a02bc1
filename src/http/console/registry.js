// The page's copy of the registry: read from the API once, and then changed by its events. What the
// events do not say is read again: single scopes and instances, and whole lists only after a gap.

import { get, getUnlessKnown, isSignInNeeded, pathOf, query, readEvents, Refused, scopeOf } from "./api.js";

// The overview is read in this interval, and sooner after a failure. Without an answer to this many in
// a row the daemon counts as silent.
const POLL = 5000;
const POLL_AGAIN = 1000;
const POLL_TIMEOUT = 4000;
const SILENT = 2;

// Of more instances than this, only the leases of the drawn rows are read.
const FEW = 100;

// Changes are applied together, so that many events are few requests.
const TOGETHER = 700;

// More changed scopes or instances than this are read as a whole list, at most this often.
const SINGLE = 40;
const WHOLE = 8000;

export class Registry extends EventTarget {
  // "connecting", "live", "silent", or "signed-out" with the reason in `signIn`.
  connection = "connecting";
  signIn = undefined;
  me = undefined;
  overview = undefined;
  attention = undefined;
  // When the daemon last answered, on the page's clock; at first when the page was opened.
  answeredAt = Date.now();
  // By path, such as services/orders; undefined until they were read.
  scopes = undefined;
  // The open scope: its path, its instances by address, the remaining time of the leases.
  open = undefined;
  instances = undefined;
  missing = false;
  leases = new Map();
  // Counts the changes of single instances.
  rows = 0;
  // Returns the addresses of the rows that are drawn; the page sets it.
  seen = () => [];
  // Counts the events, so that views know when to read what they show.
  version = 0;
  #known = new Map();
  #changedScopes = new Set();
  #changedInstances = new Set();
  #wholeAt = new Map();
  #flushing = false;
  #isStreaming = false;
  #lastId = undefined;
  #stop = new AbortController();

  #changed() {
    this.dispatchEvent(new Event("changed"));
  }

  #answered() {
    this.answeredAt = Date.now();
  }

  isSilent() {
    return this.connection === "silent";
  }

  // Follows the registry until `signOut`.
  async start() {
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.#poll(signal);
    for (let tries = 0; !signal.aborted; tries += 1) {
      try {
        await Promise.all([this.#readMe(), this.readAll()]);
        await readEvents({
          lastId: this.#lastId, stop: signal,
          opened: () => { tries = 0; this.#isStreaming = true; this.#become("live"); },
          take: (event) => this.#take(event),
        });
      } catch (error) {
        if (signal.aborted) return;
        if (isSignInNeeded(error)) return this.signOut("unknown");
        if (error instanceof Refused) this.#answered();
      }
      this.#isStreaming = false;
      if (signal.aborted) return;
      if (this.connection === "live") this.#become("connecting");
      await new Promise((next) => setTimeout(next, Math.min(500 * 2 ** Math.min(tries, 3), 4000) * (0.5 + Math.random() / 2)));
    }
  }

  async #readMe() {
    this.me = await get("v1/whoami");
    this.#answered();
  }

  #become(connection) {
    this.connection = connection;
    this.#changed();
  }

  // Ends everything and forgets everything that was shown.
  signOut(reason) {
    this.#stop.abort();
    Object.assign(this, {
      connection: "signed-out", signIn: reason, me: undefined, overview: undefined, attention: undefined, scopes: undefined,
      open: undefined, instances: undefined, answeredAt: Date.now(),
    });
    this.leases.clear();
    this.#known.clear();
    this.#lastId = undefined;
    this.#changed();
  }

  async #poll(signal) {
    let failures = 0;
    while (!signal.aborted) {
      await new Promise((next) => setTimeout(next, failures === 0 ? POLL : POLL_AGAIN));
      if (signal.aborted) return;
      if (document.hidden && this.connection === "live") continue;
      try {
        await this.readOverview(POLL_TIMEOUT);
        failures = 0;
        if (this.connection === "silent") this.#become(this.#isStreaming ? "live" : "connecting");
        await this.readLeases();
      } catch (error) {
        if (signal.aborted) return;
        if (isSignInNeeded(error)) return this.signOut("unknown");
        failures += error instanceof Refused ? 0 : 1;
        if (failures >= SILENT && this.connection !== "silent") this.#become("silent");
        this.#changed();
      }
    }
  }

  async readOverview(timeout) {
    const [overview, attention] = await Promise.all([get("v1/overview", timeout), get("v1/attention", timeout)]);
    this.#answered();
    const before = this.overview;
    this.overview = { ...overview, readAt: Date.now() };
    this.attention = attention;
    this.#changed();
    // No event says that an instance became a suspect.
    if (before && before.suspect !== overview.suspect) {
      await this.readScopes();
      if (this.open) await this.#readOpen();
    }
  }

  async readScopes() {
    const kinds = ["services", "groups"];
    const lists = await Promise.all(kinds.map((kind) => this.#read(`v1/${kind}`)));
    this.#answered();
    this.scopes = new Map(kinds.flatMap((kind, index) => lists[index][kind].map((scope) => {
      const path = `${kind}/${scope.key}`;
      return [path, { ...scope, path, kind }];
    })));
    this.#changed();
  }

  async #read(path) {
    const read = await getUnlessKnown(path, this.#known.get(path));
    this.#known.set(path, read);
    return read.body;
  }

  async readAll() {
    await Promise.all([this.readOverview(), this.readScopes(), this.open && this.#readOpen()]);
    this.version += 1;
    this.#changed();
  }

  // Opens a scope, or closes it.
  async choose(scope) {
    if (this.open === scope) return;
    Object.assign(this, { open: scope, instances: undefined, missing: false });
    this.leases.clear();
    this.#changedInstances.clear();
    if (scope && this.me) await this.#readOpen();
  }

  async #readOpen() {
    const scope = this.open;
    try {
      const [{ instances }] = await Promise.all([this.#read(`v1/${scope}/instances`), get(`v1/${scope}`)]);
      if (this.open !== scope) return;
      this.instances = new Map(instances.map((instance) => [instance.address, instance]));
      this.missing = false;
      await this.readLeases();
    } catch (error) {
      if (!(error instanceof Refused) || isSignInNeeded(error)) throw error;
      if (this.open === scope) Object.assign(this, { instances: new Map(), missing: error.code });
    }
    this.#changed();
  }

  async readLeases() {
    const scope = this.open;
    if (!scope || this.missing || document.hidden) return;
    const address = (this.instances?.size ?? 0) > FEW ? this.seen().slice(0, FEW) : [];
    if (address.length === 0 && (this.instances?.size ?? 0) > FEW) return;
    const { leases } = await get(`v1/${scope}/leases?${query({ address })}`);
    const now = Date.now();
    if (this.open === scope) this.leases = new Map(leases.map((lease) => [lease.address, now + lease.remaining_ms]));
    this.#changed();
  }

  #take({ id, name, data }) {
    if (id) this.#lastId = id;
    if (!name) return;
    this.#answered();
    const scope = scopeOf(data);
    if (name === "resync" || name.startsWith("protection.")) this.readAll().catch(() => {});
    if (scope) this.#changedScopes.add(scope);
    if (name === "scope.removed") this.scopes?.delete(scope);
    if (scope && scope === this.open && data.address) this.#change(name, data);
    if (name !== "roll.call") this.version += 1;
    if (this.#changedScopes.size > 0) this.#flush();
    this.#changed();
  }

  // Changes a row as the event says; an event that does not say everything makes it read again.
  #change(name, data) {
    this.rows += 1;
    const known = this.instances?.get(data.address);
    if (name === "instance.deregistered") this.instances?.delete(data.address);
    else if (!known || (name === "instance.changed" && !(data.changed ?? []).every((field) => field === "weight"))) {
      this.#changedInstances.add(data.address);
    } else {
      const { weight, status, online, available, at } = data;
      const since = online === known.online ? {} : { online_changed_at: at };
      this.instances.set(data.address, { ...known, weight, status, online, available, suspect: false, ...since });
      if (!online) this.leases.delete(data.address);
    }
  }

  // Reads what the events do not say: at once, and then at a limited rate.
  async #flush() {
    if (this.#flushing) return;
    this.#flushing = true;
    while (this.#changedScopes.size > 0 || this.#changedInstances.size > 0) {
      await new Promise((next) => setTimeout(next, TOGETHER));
      const [scopes, addresses] = [[...this.#changedScopes], [...this.#changedInstances]];
      this.#changedScopes.clear();
      this.#changedInstances.clear();
      try {
        if (scopes.length > SINGLE) await this.#whole("scopes", () => this.readScopes(), () => scopes.forEach((scope) => this.#changedScopes.add(scope)));
        else await Promise.all(scopes.map((scope) => this.#readScope(scope)));
        if (addresses.length > SINGLE) await this.#whole(this.open, () => this.#readOpen(), () => addresses.forEach((address) => this.#changedInstances.add(address)));
        else await Promise.all(addresses.map((address) => this.#readInstance(this.open, address)));
      } catch {
        // The stream ends too, and then everything is read again.
        break;
      }
      this.#changed();
    }
    this.#flushing = false;
  }

  // Reads a whole list, unless it was read a moment ago: then `later` keeps the changes.
  async #whole(name, read, later) {
    const wait = (this.#wholeAt.get(name) ?? 0) + WHOLE - Date.now();
    if (wait > 0) return later();
    this.#wholeAt.set(name, Date.now());
    return read();
  }

  async #readScope(path) {
    try {
      const scope = await get(`v1/${path}`);
      this.scopes?.set(path, { ...scope, path, kind: path.split("/")[0] });
      if (path === this.open && this.missing) await this.#readOpen();
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 404) throw error;
      this.scopes?.delete(path);
    }
  }

  async #readInstance(scope, address) {
    if (!scope) return;
    try {
      const instance = await get(pathOf(scope, address));
      this.rows += 1;
      if (this.open === scope) this.instances?.set(address, instance);
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 404) throw error;
      this.rows += 1;
      if (this.open === scope) this.instances?.delete(address);
    }
  }

  // Searches the instances of all scopes on the server.
  search(text, limit) {
    return get(`v1/instances?${query({ q: text, limit })}`);
  }

  mayChange() {
    return this.me?.role === "admin";
  }
}
