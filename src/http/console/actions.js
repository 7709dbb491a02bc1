// What an operator does to instances: a question that says what it leaves, the requests with their
// progress, and a message that can take it back.

import { call, pathOf, Refused } from "./api.js";
import { ask } from "./dialog.js";
import { number } from "./format.js";
import { change as changeMessage, remove, say, sayError } from "./messages.js";
import { t } from "./words.js";

const AT_ONCE = 8;
const SHOWN = 5;
// Without the progress bar below this number.
const MANY = 20;
const MINUTES = [30, 120, 480];

const detailOf = (error) => (error instanceof Refused ? error.message : t("noAnswer"));

// `targets` are `{ scope, instance }`; `registry` has the counts.
const scopesOf = (targets) => [...new Set(targets.map(({ scope }) => scope))];

// Returns how many instances of each scope stay available.
export function effects(registry, targets, action) {
  return scopesOf(targets).map((path) => {
    const scope = registry.scopes?.get(path);
    const own = targets.filter((target) => target.scope === path).map(({ instance }) => instance);
    const change = own.reduce((sum, { online, available }) => {
      if (action === "enable") return sum + (online && !available ? 1 : 0);
      return ["hold", "disable", "deregister"].includes(action) ? sum - (available ? 1 : 0) : sum;
    }, 0);
    return { path, all: scope?.instances ?? own.length, before: scope?.available ?? 0, stay: Math.max(0, (scope?.available ?? 0) + change) };
  });
}

const keyOf = (path) => path.split("/")[1];

function effectLines(effect) {
  return effect.slice(0, SHOWN).map(({ path, all, before, stay }) => (stay === 0 && before > 0
    ? { kind: "bad", text: t("staysNone", { scope: keyOf(path) }) }
    : { text: t("stays", { scope: keyOf(path), n: number(stay), all: number(all) }) }));
}

const FIELDS = {
  hold: () => [
    { name: "reason", label: t("why") },
    { name: "minutes", label: t("howLong"), options: [["", t("untilEnabled")], ...MINUTES.map((n) => [String(n), n < 60 ? t("minutes", { n }) : t("hours", { n: n / 60 })])] },
  ],
  weight: ([{ instance }]) => [{ name: "weight", label: t("newWeight"), pattern: "[0-9]{0,5}", value: String(instance.weight) }],
  metadata: ([{ instance }]) => [{ name: "metadata", label: t("newMetadata"), type: "lines", value: lines(instance.metadata) }],
};

const lines = (metadata) => Object.entries(metadata).map(([name, value]) => `${name}=${value}`).join("\n");

function bodyOf(action, values) {
  if (action === "enable") return { status: "enabled" };
  if (action === "disable") return { status: "disabled" };
  if (action === "weight") return { weight: values.weight === "" ? null : Number(values.weight) };
  if (action === "metadata") {
    const entries = values.metadata.split("\n").filter((line) => line.trim()).map((line) => line.split(/=(.*)/s).slice(0, 2));
    return { metadata: entries.length === 0 ? null : Object.fromEntries(entries.map(([name, value]) => [name.trim(), value ?? ""])) };
  }
  return {
    status: "held", ...(values.reason ? { reason: values.reason } : {}),
    ...(values.minutes ? { held_until: new Date(Date.now() + 60_000 * Number(values.minutes)).toISOString() } : {}),
  };
}

// Returns the change that restores an instance as it was.
function inverse(action, { status, reason, held_by, held_until, overrides }) {
  if (action === "weight") return { weight: overrides?.weight ?? null };
  if (action === "metadata") return { metadata: overrides?.metadata ?? null };
  if (status !== "held") return { status };
  return { status, reason, held_by, ...(held_until && Date.parse(held_until) > Date.now() ? { held_until } : {}) };
}

// Asks, changes the instances, and offers to take it back. Returns whether any was changed. `selection` is what the server has to
// select for the same instances, if there is one: then many are one request.
export async function act(registry, action, targets, selection) {
  if (targets.length === 0) return false;
  const effect = effects(registry, targets, action);
  const loses = effect.filter(({ before, stay }) => stay === 0 && before > 0);
  const names = targets.slice(0, SHOWN).map(({ instance }) => instance.address).join(", ");
  const rest = targets.length > SHOWN ? ` ${t("andMore", { n: number(targets.length - SHOWN) })}` : "";
  const values = await ask({
    title: t(`ask.${action}`, { n: targets.length, where: scopesOf(targets).slice(0, 3).map(keyOf).join(", ") + (effect.length > 3 ? "…" : "") }),
    lines: [{ text: names + rest, kind: "names" }, { text: t(`effect.${action}`) }, ...effectLines(effect)],
    fields: FIELDS[action]?.(targets) ?? [],
    ok: `${t(action === "weight" ? "changeWeight" : action === "metadata" ? "editMetadata" : action)} ${number(targets.length)}`,
    danger: action === "deregister" || loses.length > 0,
    mustType: loses.length > 0 && action !== "enable" ? keyOf(loses[0].path) : undefined,
  });
  if (values === undefined) return false;
  const body = bodyOf(action, values);
  const send = ({ scope, instance }) => (action === "deregister"
    ? call("DELETE", pathOf(scope, instance.address))
    : call("PATCH", pathOf(scope, instance.address), body));
  const isBulk = selection && targets.length >= MANY && action !== "deregister";
  const done = isBulk ? await atOnce(targets, selection, body) : await toAll(targets, send);
  if (done.length === 0) return false;
  const text = t(`done.${action}`, { n: number(done.length) });
  if (action === "deregister") return Boolean(say("good", text));
  const message = say("good", text, {
    label: t("undo"),
    run: async () => {
      remove(message);
      const back = await toAll(done, ({ scope, instance }) => call("PATCH", pathOf(scope, instance.address), inverse(action, instance)));
      if (back.length > 0) say("good", t("undone"));
    },
  });
  message.isUndo = true;
  return true;
}

// Sends one request for all targets; returns those that were changed.
async function atOnce(targets, selection, change) {
  const message = say("busy", t("progress", { n: 0, all: number(targets.length) }));
  try {
    const { failures } = await call("PATCH", "v1/instances", { selection, change });
    const failed = new Set(failures.map(({ instance }) => instance));
    if (failures.length > 0) say("bad", t("failures", { failed: number(failures.length), all: number(targets.length), detail: failures[0].detail }));
    return targets.filter(({ scope, instance }) => !failed.has(`${scope}/instances/${instance.address}`));
  } catch (error) {
    sayError(detailOf(error));
    return [];
  } finally {
    remove(message);
  }
}

// Sends a request for each target, a few at a time; returns those that succeeded. The others are
// reported, and may be tried again.
async function toAll(targets, send) {
  const waiting = [...targets];
  const [done, failed] = [[], []];
  let isStopped = false;
  const message = targets.length >= MANY && say("busy", t("progress", { n: 0, all: number(targets.length) }), { label: t("stop"), run: () => { isStopped = true; } });
  const worker = async () => {
    for (let target = waiting.shift(); target && !isStopped; target = waiting.shift()) {
      try {
        await send(target);
        done.push(target);
      } catch (error) {
        failed.push({ target, error });
        // Without an answer the others would wait as long.
        if (!(error instanceof Refused)) isStopped = true;
      }
      if (message) changeMessage(message, { text: t("progress", { n: number(done.length), all: number(targets.length) }), value: done.length / targets.length });
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  if (message) remove(message);
  if (failed.length > 0) {
    const detail = [...new Set(failed.map(({ error }) => detailOf(error)))].slice(0, 2).join("; ");
    say("bad", targets.length === 1 ? t("failed", { detail }) : t("failures", { failed: number(targets.length - done.length), all: number(targets.length), detail }));
  } else if (isStopped) say("bad", t("stopped", { n: number(done.length), all: number(targets.length) }));
  return done;
}

async function attempt(request, text) {
  try {
    say("good", text(await request()));
    return true;
  } catch (error) {
    sayError(detailOf(error));
    return false;
  }
}

export async function release(registry) {
  const lose = [...registry.scopes.values()].filter(({ available, suspect }) => suspect > 0 && available <= suspect);
  const { suspect } = registry.overview;
  const affected = [...registry.scopes.values()].filter((scope) => scope.suspect > 0).length;
  const values = await ask({
    title: t("releaseTitle"), danger: true, ok: t("release").replace("…", ""), mustType: lose.length > 0 ? t("releaseWord") : undefined,
    lines: [
      { text: t("releaseText", { n: suspect, scopes: number(affected) }) },
      lose.length > 0 && { kind: "bad", text: t("releaseLose", { names: lose.slice(0, 8).map(({ key }) => key).join(", ") + (lose.length > 8 ? "…" : "") }) },
    ],
  });
  if (values) await attempt(() => call("POST", "v1/protection/release"), ({ released }) => t("released", { n: released }));
}

export async function declare(kind) {
  const values = await ask({ title: t("declare"), lines: [{ text: t("declareHint") }], ok: t("declare"), fields: [{ name: "key", label: t("newKey") }, { name: "name", label: t("newName") }] });
  if (!values?.key) return;
  const scope = `${kind}/${values.key}`;
  await attempt(() => call("PUT", `v1/${scope}`, values.name ? { name: values.name } : {}), () => t("declared", { scope }));
}

export async function rename({ path, name }) {
  const values = await ask({ title: t("rename"), lines: [], ok: t("rename"), fields: [{ name: "name", label: t("newName"), value: name }] });
  if (values?.name) await attempt(() => call("PUT", `v1/${path}`, { name: values.name }), () => t("declared", { scope: path }));
}

export async function removeScope({ path }) {
  const values = await ask({ title: `${t("remove")} ${path}?`, lines: [], ok: t("remove"), danger: true });
  return values && attempt(() => call("DELETE", `v1/${path}`), () => t("removed", { scope: path }));
}
