// The address of what is shown: `#services/orders/10.0.0.5:8080?status=held`. Everything that can be
// chosen is in it, so that a link shows the same.

const VIEWS = ["now", "services", "groups", "activity", "cluster", "search"];

// Returns the view, the scope, the address of the instance and the parameters of a hash.
export function parse(hash) {
  const [path, text] = hash.replace(/^#/, "").split(/\?(.*)/s);
  const [view, key, address] = path.split("/").map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  const parameters = Object.fromEntries(new URLSearchParams(text ?? ""));
  const isScope = view === "services" || view === "groups";
  if (path !== "" && (!VIEWS.includes(view) || (key && !isScope))) return { view: "unknown", parameters };
  return {
    view: view || "now", parameters,
    scope: isScope && key ? `${view}/${key}` : undefined,
    address: isScope && address ? address : undefined,
  };
}

export function link({ view, scope, address, parameters = {} }) {
  const parts = [scope ?? view, ...(address ? [encodeURIComponent(address)] : [])];
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== "");
  const text = given.length > 0 ? `?${new URLSearchParams(given)}` : "";
  return `#${parts.join("/")}${text}`;
}

export const current = () => parse(location.hash);

export const go = (route) => { location.hash = link(route); };

// Changes parameters of the present view; the back button does not pass each letter of a search.
export function set(changes) {
  const route = current();
  const parameters = { ...route.parameters, ...changes };
  history.replaceState(null, "", link({ ...route, parameters }));
  dispatchEvent(new HashChangeEvent("hashchange"));
}
