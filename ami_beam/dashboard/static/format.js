// How instants, numbers, durations and names are written. No DOM here; nothing but `prefs.zone` is remembered.

import { prefs } from "./prefs.js";

export const NONE = "–";

// C0, C1 and the marks that turn the direction of text: a name must not be able to disguise another or break a line.
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** Untrusted text in one line; what cannot be seen is shown as �, a tab or an end of line as a space. */
export function clean(text) {
  return String(text)
    .replace(/[\t\r\n]+/g, " ")
    .replace(UNPRINTABLE, "�");
}

/** At most `length` characters of untrusted text. */
export function shortened(text, length = 60) {
  const printable = clean(text);
  return printable.length > length ? `${printable.slice(0, length - 1)}…` : printable;
}

/** Milliseconds of an RFC 3339 instant; null where there is none or it is not one. */
export function instant(text) {
  if (text === null || text === undefined) return null;
  const millis = Date.parse(text);
  return Number.isNaN(millis) ? null : millis;
}

export const localZone = (() => {
  try {
    return Intl.DateTimeFormat().resolvedOptions().timeZone || "local";
  } catch {
    return "local";
  }
})();

const localParts = new Intl.DateTimeFormat("en-GB", {
  year: "numeric",
  month: "2-digit",
  day: "2-digit",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});

/** {date: "2026-03-03", time: "10:15:00"} in the chosen zone. */
function parts(millis) {
  const at = new Date(millis);
  if (prefs.zone === "UTC") {
    const text = at.toISOString();
    return { date: text.slice(0, -14), time: text.slice(-13, -5) };
  }
  const by = {};
  for (const { type, value } of localParts.formatToParts(at)) by[type] = value;
  return { date: `${by.year}-${by.month}-${by.day}`, time: `${by.hour}:${by.minute}:${by.second}` };
}

/** "UTC", or the name of the browser's zone. */
export function zoneName() {
  return prefs.zone === "UTC" ? "UTC" : localZone;
}

const millisOf = (at) => (typeof at === "number" ? at : instant(at));

/** "10:15" of milliseconds or an RFC 3339 text; "10:15:05" where it is no whole minute: windows may be that short. */
export function hourMinute(at) {
  const millis = millisOf(at);
  if (millis === null) return NONE;
  const { time } = parts(millis);
  return time.endsWith(":00") ? time.slice(0, 5) : time;
}

/** "10:15:00Z"; in another zone without the Z. */
export function clock(at) {
  const millis = millisOf(at);
  return millis === null ? NONE : parts(millis).time + (prefs.zone === "UTC" ? "Z" : "");
}

/** "2026-03-03 10:15:00". */
export function dateTime(at) {
  const millis = millisOf(at);
  if (millis === null) return NONE;
  const { date, time } = parts(millis);
  return `${date} ${time}`;
}

/** "2026-03-03". */
export function date(at) {
  const millis = millisOf(at);
  return millis === null ? NONE : parts(millis).date;
}

/** "10:00–10:15", from the start to the end of a window; with the date where `day` is another. */
export function span(start, end) {
  return start === null ? hourMinute(end) : `${hourMinute(start)}–${hourMinute(end)}`;
}

const formats = new Map();

/** A number with `digits` decimals and thousands apart; "–" for null. */
export function number(value, digits = 0) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  if (!formats.has(digits)) {
    formats.set(
      digits,
      new Intl.NumberFormat("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits }),
    );
  }
  return formats.get(digits).format(value);
}

const compactFormat = new Intl.NumberFormat("en-GB", { notation: "compact", maximumFractionDigits: 1 });

/** A number for an axis: at most about five characters. */
export function compact(value) {
  if (Math.abs(value) >= 10000) return compactFormat.format(value);
  return String(Math.round(value * 1000) / 1000);
}

/** A number with its unit; "–" for null. */
export function quantity(value, unit, digits = 1) {
  const text = number(value, digits);
  return text === NONE || !unit ? text : `${text} ${unit}`;
}

/** "1 window", "3 windows". */
export function counted(count, one, several = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : several}`;
}

/** "42 s", "4 min", "3 h 5 min", "2 d 4 h" of seconds. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  if (seconds < 0) return `−${duration(-seconds)}`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${Math.floor(hours / 24)} d`;
}

/** "Low voltage group" of LOW_VOLTAGE_GROUP: for types that the server has no words for. */
export function humanized(name) {
  const words = clean(name).replaceAll("_", " ").trim().toLowerCase();
  return words ? words[0].toUpperCase() + words.slice(1) : NONE;
}

const collator = new Intl.Collator("en", { numeric: true });

/** Orders names as people do: F2 before F10. */
export const byName = (one, other) => collator.compare(one, other);
