// Requests to the API of the daemon that serves the page.

const TIMEOUT = 8000;

// Relative to the page, which a proxy may serve under another path.
const at = (path) => new URL(path, document.baseURI);

let token = sessionStorage.getItem("token") ?? "";

export const hasToken = () => token !== "";

export function setToken(given) {
  token = given;
  if (given) sessionStorage.setItem("token", given);
  else sessionStorage.removeItem("token");
}

// The daemon answered, but refused.
export class Refused extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

export const isSignInNeeded = (error) => error instanceof Refused && error.status === 401;

function headers(more) {
  return token ? { Authorization: `Bearer ${token}`, ...more } : more;
}

async function refusal(answer) {
  const problem = await answer.json().catch(() => ({}));
  return new Refused(answer.status, problem.code, problem.detail ?? answer.statusText);
}

export async function call(method, path, body, timeout = TIMEOUT * (body === undefined ? 1 : 4)) {
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  const answer = await fetch(at(path), {
    method, headers: headers(json), body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(timeout),
  });
  if (!answer.ok) throw await refusal(answer);
  return answer.status === 204 ? undefined : answer.json();
}

export const get = (path, timeout) => call("GET", path, undefined, timeout);

// Returns what the API has under a path, or `known.body` if that is the same still.
export async function getUnlessKnown(path, known) {
  const answer = await fetch(at(path), {
    headers: headers(known?.etag ? { "If-None-Match": known.etag } : {}), signal: AbortSignal.timeout(TIMEOUT),
  });
  if (answer.status === 304) return known;
  if (!answer.ok) throw await refusal(answer);
  return { etag: answer.headers.get("ETag"), body: await answer.json() };
}

export const pathOf = (scope, address) => `v1/${scope}/instances/${encodeURIComponent(address)}`;

// Returns the path of the scope that an answer or an event names, such as services/orders.
export const scopeOf = ({ service, group }) => (service ? `services/${service}` : group ? `groups/${group}` : undefined);

// Returns a query of the given parameters, without those that are empty.
export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== "");
  return new URLSearchParams(given.flatMap(([name, value]) => [value].flat().map((one) => [name, one]))).toString();
}

// The time after which a silent stream counts as broken: the daemon sends a comment every 15 s.
const SILENCE = 40_000;

// Reads the event stream until it ends. `opened` is called once it is open, and `take` for each event.
export async function readEvents({ lastId, stop, opened, take }) {
  const silent = new AbortController();
  let timer = setTimeout(() => silent.abort(), SILENCE);
  const answer = await fetch(at("v1/events"), {
    headers: headers(lastId ? { "Last-Event-ID": lastId } : {}), signal: AbortSignal.any([stop, silent.signal]),
  });
  if (!answer.ok) throw await refusal(answer);
  opened();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => silent.abort(), SILENCE);
      const blocks = (text + value).split("\n\n");
      text = blocks.pop();
      for (const block of blocks) take(parse(block));
    }
  } finally {
    clearTimeout(timer);
  }
}

function parse(block) {
  const event = {};
  for (const line of block.split("\n")) {
    const [, field, rest] = /^(\w*): ?(.*)$/.exec(line) ?? [];
    if (field) event[field] = rest;
  }
  return { id: event.id, name: event.event, data: event.data ? JSON.parse(event.data) : {} };
}
