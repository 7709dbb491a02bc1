// The states of instances and scopes: one word each, with a shape, so that colour is not the only sign.

export const SHAPES = {
  available: "●", held: "◐", disabled: "◌", suspect: "◆", offline: "○",
  down: "■", some: "▲", all: "●", empty: "–",
};

// Returns the one word for an instance.
export function stateOf(instance) {
  if (instance.status === "held") return "held";
  if (instance.suspect) return "suspect";
  if (!instance.online) return "offline";
  return instance.status === "disabled" ? "disabled" : "available";
}

// Returns the one word for a scope.
export function stateOfScope(scope) {
  if (scope.instances === 0) return "empty";
  if (scope.available === 0) return "down";
  if (scope.suspect > 0) return "suspect";
  return scope.available < scope.instances ? "some" : "all";
}

const SEVERITY = ["down", "suspect", "some", "all", "empty"];
export const severity = (scope) => SEVERITY.indexOf(stateOfScope(scope));
