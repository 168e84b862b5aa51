// Sentences about alarms, causes and cells of the map. No requests, no state of its own.

import { h, symbol } from "./dom.js";
import {
  NONE,
  byName,
  clean,
  counted,
  dateTime,
  duration,
  humanized,
  number,
  quantity,
  shortened,
  span,
} from "./format.js";
import { href } from "./router.js";
import { began, isAnnounced } from "./state.js";

/** The words for a type of alarm or alert: the server's, else its name made readable. */
export function typeWords(store, type) {
  const known = store.hello?.types;
  return known && Object.hasOwn(known, type) ? clean(known[type]) : humanized(type);
}

/** Types with their words, in the order of the words. */
export function typesOf(store, types) {
  return [...types].map((type) => [type, typeWords(store, type)]).sort(([, one], [, other]) => byName(one, other));
}

const SEVERITIES = { CRITICAL: ["critical", "⬤ ", "Critical"], WARNING: ["warning", "▲ ", "Warning"] };

/** A word with a symbol before it: colour is never alone. */
export function severity({ severity: name }) {
  const [kind, mark, words] = SEVERITIES[name] ?? ["other", "", humanized(name)];
  return h("span", { class: `severity ${kind}` }, symbol(mark), words);
}

const STATES = { ACTIVE: "Active", CLEARED: "Cleared", UNKNOWN: "Unknown" };

export function stateWords(alarm) {
  if (alarm.taken_back) return "Taken back";
  return STATES[alarm.state] ?? humanized(alarm.state);
}

/** What it is made of: "203.1 V, 3 windows, 2 meters, 1 missing". */
export function evidence(alarm) {
  const parts = [];
  if (alarm.value !== null) parts.push(quantity(alarm.value, alarm.unit, Number.isInteger(alarm.value) ? 0 : 1));
  if (alarm.windows_in_violation) parts.push(counted(alarm.windows_in_violation, "window"));
  if (alarm.meters_in_violation) {
    const of = alarm.meters_total === null ? "" : ` of ${number(alarm.meters_total)}`;
    parts.push(`${number(alarm.meters_in_violation)}${of} meter${alarm.meters_in_violation === 1 && !of ? "" : "s"}`);
  }
  if (alarm.meters_missing) parts.push(`${number(alarm.meters_missing)} missing`);
  if (alarm.momentary) parts.push("momentary");
  return parts.length ? parts.join(", ") : NONE;
}

const KINDS = {
  PLANNED: "Planned outage",
  KNOWN: "Known outage",
  EXCHANGE: "Exchange of meters",
  DISCONNECT: "Disconnection",
  TEST: "Test",
};

/** The words for a kind of announcement. */
export function announcementKind(kind) {
  return KINDS[kind] ?? humanized(kind);
}

/** The name of what an alarm is about, with a link where there is a view of it. */
export function entityLink(alarm, kind = alarm.entity_kind) {
  const text = h("bdi", {}, alarm.entity_id);
  if (kind === "transformer" || kind === "feeder") return h("a", { href: href(kind, alarm.entity_id) }, text);
  return h("span", {}, kind && kind !== "meter" ? `${kind} ` : kind === "meter" ? "meter " : "", text);
}

export function feederLink(feeder) {
  return feeder === null || feeder === undefined
    ? NONE
    : h("a", { href: href("feeder", feeder) }, h("bdi", {}, feeder));
}

/** A link to what explains an alarm: another alarm, or what was announced. */
export function causeLink(store, cause) {
  if (cause === null) return NONE;
  if (isAnnounced(cause)) return h("a", { href: href("outages") }, "announced: ", h("bdi", {}, shortened(cause, 40)));
  const alarm = store.alarms.get(cause);
  const words = alarm ? `${typeWords(store, alarm.type)}: ${shortened(alarm.entity_id, 40)}` : shortened(cause, 40);
  return h("a", { href: href("alarm", cause) }, words);
}

/** "Acknowledged by NAME at …", short. */
export function acknowledged(ack) {
  if (ack === null || ack === undefined) return NONE;
  const note = ack.comment ? `: ${shortened(ack.comment, 60)}` : "";
  return h(
    "span",
    { title: `${dateTime(ack.at)}${ack.comment ? ` – ${clean(ack.comment)}` : ""}` },
    symbol("✓ "),
    h("bdi", {}, shortened(ack.user, 30)),
    note,
  );
}

/** The mark of what was published again after it first came. */
export function revisedMark(revised, revision) {
  if (!revised) return "";
  return h(
    "span",
    { class: "revised", title: `published again after it first came, revision ${revision}` },
    symbol("◥ "),
    `revision ${number(revision)}`,
  );
}

/** How long something has lasted; `refreshAges` keeps it true. */
export function age(store, since, until = null) {
  const from = Date.parse(since);
  if (!Number.isFinite(from)) return h("span", {}, NONE);
  if (until !== null) return h("span", {}, duration((Date.parse(until) - from) / 1000));
  return h("span", { class: "age", "data-from": from }, duration((store.now() - from) / 1000));
}

/** Renews what `age` has made, every 10 s while the page is seen. */
export function refreshAges(scope, store, root) {
  scope.every(10_000, () => {
    for (const element of root.querySelectorAll(".age")) {
      const text = duration((store.now() - Number(element.dataset.from)) / 1000);
      if (element.textContent !== text) element.textContent = text;
    }
  });
}

/** When an alarm began, as a `<time>`. */
export function since(alarm) {
  const at = began(alarm);
  return at ? h("time", { datetime: at }, dateTime(at)) : NONE;
}

/** What the codes of a metric mean: [code, words, symbol, name of the colour]. */
export const CODES = {
  voltage: [
    ["1", "below the limit", "▼", "below"],
    ["2", "near the low limit", "", "near-low"],
    ["3", "normal", "", "normal"],
    ["4", "near the high limit", "", "near-high"],
    ["5", "above the limit", "▲", "above"],
    ["6", "both below and above", "◆", "both"],
    ["0", "silent: nothing heard, or 0 V", "✕", "silent"],
    [".", "no row", "", "none"],
  ],
  receipt: [
    ["1", "below the least rate", "▼", "receipt-low"],
    ["2", "near the least rate", "", "receipt-near"],
    ["3", "normal", "", "normal"],
    ["0", "nothing heard", "✕", "silent"],
    [".", "no row", "", "none"],
  ],
};

function codeWords(metric, code) {
  return CODES[metric].find(([each]) => each === code)?.[1] ?? "no row";
}

/** A sentence about a cell, of its code alone. */
export function cellSummary(id, start, end, metric, code) {
  return `${clean(id)}, window ${span(start, end)}: ${codeWords(metric, code)}`;
}

/** A sentence about a cell, of the answer of api/cell. */
export function cellSentence(cell, metric) {
  const window = span(cell.window_start, cell.window_end);
  const what = metric === "receipt" ? receiptWords(cell) : voltageWords(cell);
  return `${clean(cell.id)}, window ${window}: ${what}${cell.revised ? ", revised" : ""}`;
}

function receiptWords(cell) {
  if (cell.receipt_rate_pct === null) return "receipt rate unknown";
  const of = cell.total_meters === null ? "" : ` of ${number(cell.total_meters)}`;
  return `${number(cell.receipt_rate_pct, 1)} % of the reads received, ${number(cell.meters_reported)}${of} meters`;
}

function voltageWords(cell) {
  if (cell.kind !== "feeder") {
    if (cell.min_voltage_v === null) return "no voltage";
    return (
      `lowest ${withPct(cell.min_voltage_v, cell.min_pct)}, highest ${withPct(cell.max_voltage_v, cell.max_pct)}` +
      (cell.avg_voltage_v === null ? "" : `, average ${number(cell.avg_voltage_v, 1)} V`)
    );
  }
  const all = counted(cell.transformers, "transformer");
  const worst = cell.worst === null ? "" : `, ${clean(cell.worst)}`;
  const parts = [];
  if (cell.below)
    parts.push(`${number(cell.below)} of ${all} below the limit, lowest ${quantity(cell.min_voltage_v, "V")}`);
  if (cell.above)
    parts.push(`${number(cell.above)} of ${all} above the limit, highest ${quantity(cell.max_voltage_v, "V")}`);
  if (parts.length) parts[0] += worst;
  if (cell.silent) parts.push(`${number(cell.silent)} of ${all} silent`);
  if (parts.length) return parts.join("; ");
  if (cell.min_voltage_v === null) return `${all}, no voltage`;
  return `all of ${all} within the limits, ${number(cell.min_voltage_v, 1)} to ${number(cell.max_voltage_v, 1)} V`;
}

function withPct(volts, pct) {
  return quantity(volts, "V") + (pct === null || pct === undefined ? "" : ` (${number(pct, 1)} %)`);
}

/** The details of a cell for a tooltip: [term, text]. */
export function cellFacts(cell) {
  const range =
    cell.min_voltage_v === null
      ? "none heard"
      : `${number(cell.min_voltage_v, 1)} … ${number(cell.max_voltage_v, 1)} V`;
  const meters = `${number(cell.meters_reported)} of ${number(cell.total_meters)}`;
  return [
    ["Window", span(cell.window_start, cell.window_end)],
    ["Voltage", range],
    ["Average", cell.avg_voltage_v === null ? null : quantity(cell.avg_voltage_v, "V")],
    ["Of nominal", cell.min_pct === null ? null : `${number(cell.min_pct, 1)} … ${number(cell.max_pct, 1)} %`],
    ["Consumption", cell.consumption_kwh === null ? null : quantity(cell.consumption_kwh, "kWh", 2)],
    ["Meters heard", meters],
    ["Receipt rate", cell.receipt_rate_pct === null ? null : quantity(cell.receipt_rate_pct, "%")],
    ["Transformers", cell.kind === "feeder" ? number(cell.transformers) : null],
    [
      "Below / above / silent",
      cell.kind === "feeder" ? `${number(cell.below)} / ${number(cell.above)} / ${number(cell.silent)}` : null,
    ],
    ["Worst", cell.kind === "feeder" && cell.worst !== null ? shortened(cell.worst) : null],
    ["Revised", cell.revised ? "yes, after it was first published" : null],
  ];
}
