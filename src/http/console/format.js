// Numbers, times and durations, in the language of the page.

import { language, t } from "./words.js";

// One per language: making one takes longer than drawing a row.
const formats = new Map();

export function number(count) {
  const format = formats.get(language()) ?? new Intl.NumberFormat(language());
  formats.set(language(), format);
  return format.format(count);
}

// Returns a duration in its largest unit, without a jump: 59 s, 1 min, 59 min, 1 h, 47 h, 2 d.
export function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return t("seconds", { n: seconds });
  if (seconds < 3600) return t("minutes", { n: Math.floor(seconds / 60) });
  if (seconds < 48 * 3600) return t("hours", { n: Math.floor(seconds / 3600) });
  return t("days", { n: Math.floor(seconds / 86400) });
}

export const ago = (time) => t("ago", { time: duration(Date.now() - Date.parse(time)) });

// Returns the time of the day, with the date if it is another one.
export function clock(time) {
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  const text = date.toLocaleTimeString("en-GB");
  return isToday ? text : `${date.toLocaleDateString("sv-SE")} ${text}`;
}

// Both times, to compare with a log.
export const exact = (time) => `${new Date(time).toLocaleString("sv-SE")} (${t("local")}), ${new Date(time).toISOString()}`;

// Sorts texts with the numbers in them as numbers.
const natural = new Intl.Collator("en", { numeric: true });
export const compare = (a, b) => natural.compare(a, b);
