// What a view reads besides the registry: once for a key, and again when the registry has changed,
// at a limited rate.

const AGAIN = 3000;
const KEPT = 30;

const known = new Map();
let draw = () => {};
export const whenRead = (callback) => { draw = callback; };

// Returns what was read for a key, or undefined before the first answer. `version` says whether it may
// have changed since.
export function read(key, version, request) {
  let entry = known.get(key);
  if (!entry) {
    entry = { at: 0 };
    known.set(key, entry);
    if (known.size > KEPT) known.delete(known.keys().next().value);
  }
  const isDue = entry.at === 0 || (entry.version !== version && Date.now() - entry.at > AGAIN);
  if (isDue && !entry.isReading) {
    Object.assign(entry, { isReading: true, version, at: Date.now() });
    request().then((value) => { entry.value = value; }, () => {}).finally(() => {
      entry.isReading = false;
      draw();
      // A change during the wait is read later.
      setTimeout(() => draw(), AGAIN + 100);
    });
  }
  return entry.value;
}

export const forgetAll = () => known.clear();
