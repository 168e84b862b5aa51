// What api/map has told, and the order in which it is shown. Pure: no DOM, no requests.

import { byName } from "./format.js";

const VIOLATION = new Set(["1", "5", "6"]);

/** Rows by windows of one metric. Rows have numbers; an answer with `full` gives them anew. */
export class MapModel {
  /** What the codes that are known are of. */
  metric = null;
  rows = [];
  now = [];
  windows = [];
  thresholds = null;
  omitted = 0;
  rowsVersion = null;
  version = null;
  #columns = new Map();
  #revised = new Map();
  #stamps = new Map();
  #stamp = 0;
  #numbers = new Map();
  #ranks = null;

  /** Takes an answer over. Throws where it does not fit what is known: then `forget` and ask for everything. */
  apply(answer) {
    if (answer.full) {
      this.rows = answer.rows;
      this.omitted = answer.omitted ?? 0;
      this.#numbers = new Map(answer.rows.map((row, at) => [row.id, at]));
      this.#ranks = null;
      this.#columns.clear();
      this.#revised.clear();
      this.#stamps.clear();
    } else if (this.rowsVersion === null || answer.rows_version !== this.rowsVersion) {
      throw new Error("changes of a map that is not known");
    }
    this.metric = answer.metric;
    const now = answer.now ?? this.rows.map((row) => row.now);
    if (now.length !== this.rows.length) throw new Error("a map with more or less rows than it says");
    this.now = now;
    this.windows = answer.windows;
    this.thresholds = answer.thresholds ?? this.thresholds;
    this.#stamp += 1;
    for (const [window, codes] of Object.entries(answer.columns)) {
      this.#columns.set(window, codes);
      this.#stamps.set(window, this.#stamp);
      const revised = answer.revised?.[window];
      if (revised?.length) this.#revised.set(window, new Set(revised));
      else this.#revised.delete(window);
    }
    const held = new Set(this.windows);
    for (const window of this.#columns.keys()) {
      if (held.has(window)) continue;
      this.#columns.delete(window);
      this.#revised.delete(window);
      this.#stamps.delete(window);
    }
    this.rowsVersion = answer.rows_version;
    this.version = answer.version;
  }

  /** As if nothing were known, but what is shown stays until the next answer. */
  forget() {
    this.rowsVersion = null;
    this.version = null;
  }

  code(row, window) {
    return this.#columns.get(window)?.[row] ?? ".";
  }

  /** The codes of a window, one character a row; "" where there are none. */
  column(window) {
    return this.#columns.get(window) ?? "";
  }

  /** Numbers of the rows that were revised in a window; undefined where there are none. */
  revised(window) {
    return this.#revised.get(window);
  }

  /** Changes whenever the column of a window does. */
  stamp(window) {
    return this.#stamps.get(window) ?? 0;
  }

  /** The number of a row; undefined where it is not there. */
  number(id) {
    return this.#numbers.get(id);
  }

  /**
   * Numbers of rows in the order in which they are shown. `sort`: "worst" or "name"; `filter`: part of the name.
   * Worst by voltage: the most outside the limits, then silent, then the lowest receipt rate; by receipt rate: the
   * lowest first, unknown ones last. The name decides between equals, so that rows do not change places for nothing.
   */
  order(metric, sort, filter = "") {
    if (!this.#ranks) {
      const named = this.rows.map((_, at) => at).sort((one, other) => byName(this.rows[one].id, this.rows[other].id));
      this.#ranks = new Int32Array(this.rows.length);
      named.forEach((row, rank) => (this.#ranks[row] = rank));
    }
    const wanted = filter.trim().toLowerCase();
    const shown = [];
    for (let row = 0; row < this.rows.length; row++) {
      if (!wanted || this.rows[row].id.toLowerCase().includes(wanted)) shown.push(row);
    }
    const ranks = this.#ranks;
    if (sort === "name") return shown.sort((one, other) => ranks[one] - ranks[other]);
    const weights = Float64Array.from(this.now, metric === "receipt" ? lowestReceipt : mostOutside);
    return shown.sort((one, other) => weights[one] - weights[other] || ranks[one] - ranks[other]);
  }

  /** How many rows are in violation in the newest window, and silent: for the summary in words. */
  newest(metric) {
    const window = this.windows.at(-1);
    const counts = { violation: 0, silent: 0, heard: 0 };
    if (window === undefined) return counts;
    for (const code of this.column(window)) {
      if (code === ".") continue;
      if (code === "0") counts.silent += 1;
      else if (metric === "receipt" ? code === "1" : VIOLATION.has(code)) counts.violation += 1;
      else counts.heard += 1;
    }
    return counts;
  }
}

const lowestReceipt = (now) => now.receipt_pct ?? 1000;

function mostOutside(now) {
  return -(now.below + now.above) * 1e9 - now.silent * 1e3 + (now.receipt_pct ?? 0);
}
