// Charts of the numbers of instances over time, drawn by uPlot, with the times of protection mode and
// marks of what operators did.

import { get, query } from "./api.js";
import { html } from "./html.js";
import { t } from "./words.js";

const READ_EVERY = 10_000;
const HEIGHT = 170;

const charts = new Map();

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// Returns the place of a chart. `parameters` select its numbers.
export function chart(id, parameters, registry) {
  const key = `${id} ${query(parameters)}`;
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  queueMicrotask(() => requestAnimationFrame(() => attach(id, key, parameters, registry, isDark)));
  return html`<div class="chart" id=${`chart-${id}`} role="img" aria-label=${t("chart")}></div>`;
}

function attach(id, key, parameters, registry, isDark) {
  const place = document.getElementById(`chart-${id}`);
  if (!place || registry.connection === "signed-out") return;
  let known = charts.get(id);
  if (!known || known.key !== key || known.place !== place || known.isDark !== isDark) {
    known?.plot?.destroy();
    known = { key, place, isDark, readAt: 0, events: [] };
    charts.set(id, known);
  }
  if (Date.now() - known.readAt < READ_EVERY || registry.isSilent()) return;
  known.readAt = Date.now();
  read(known, parameters).catch(() => { known.readAt = 0; });
}

async function read(known, parameters) {
  const { service, group, since } = parameters;
  const [counts, protection, actions] = await Promise.all([
    get(`v1/counts?${query(parameters)}`),
    get(`v1/history?${query({ event: ["protection.entered", "protection.left"], since })}`),
    get(`v1/actions?${query({ service, group, since })}`),
  ]);
  known.protection = periods(protection.events);
  known.actions = actions.actions.map(({ at }) => Date.parse(at) / 1000);
  const times = counts.online.map((_, index) => counts.start + index * counts.step_seconds);
  const data = [times, counts.instances, counts.online, counts.available];
  if (times.length < 2) {
    known.place.textContent = t("chartEmpty");
    known.plot = undefined;
    return;
  }
  if (known.plot) return void known.plot.setData(data);
  known.place.textContent = "";
  known.plot = plot(known, data);
}

// Returns the periods of protection mode, from the latest event to the oldest.
function periods(events) {
  const found = [];
  let end = Date.now() / 1000;
  for (const { event, at } of events) {
    const time = Date.parse(at) / 1000;
    if (event === "protection.left") end = time;
    else found.push([time, end]);
  }
  return found;
}

function plot(known, data) {
  const { place } = known;
  const axis = { stroke: colour("quiet"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  const paths = globalThis.uPlot.paths.stepped({ align: 1 });
  const line = (label, name, fill) => ({ label, stroke: colour(name), width: 1.5, fill, paths, points: { show: false }, value: (_, count) => count ?? "" });
  const made = new globalThis.uPlot({
    width: place.clientWidth || 400, height: HEIGHT, legend: { show: true, live: true }, cursor: { points: { size: 5 } },
    scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(1, high)] } },
    axes: [{ ...axis, values: (_, times) => times.map((time) => new Date(time * 1000).toTimeString().slice(0, 5)) }, { ...axis, size: 44 }],
    series: [
      { label: "", value: (_, time) => (time ? new Date(time * 1000).toTimeString().slice(0, 8) : "") },
      line(t("registered"), "offline"), line(t("online"), "held"), line(t("available"), "available", colour("available-fill")),
    ],
    hooks: { drawClear: [(u) => drawMarks(u, known)] },
  }, data, place);
  new ResizeObserver(() => made.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place);
  return made;
}

function drawMarks(u, { protection, actions }) {
  const { ctx, bbox } = u;
  const x = (time) => Math.min(bbox.left + bbox.width, Math.max(bbox.left, u.valToPos(time, "x", true)));
  ctx.save();
  ctx.fillStyle = colour("suspect-fill");
  for (const [begin, end] of protection) ctx.fillRect(x(begin), bbox.top, Math.max(2, x(end) - x(begin)), bbox.height);
  ctx.strokeStyle = colour("accent");
  ctx.setLineDash([3, 3]);
  for (const time of actions.filter((at) => at >= u.scales.x.min)) {
    ctx.beginPath();
    ctx.moveTo(x(time), bbox.top);
    ctx.lineTo(x(time), bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}
