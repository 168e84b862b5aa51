// The overview: what an operator sees all day, and a wall screen.

import { alarmTable } from "./alarm-table.js";
import { Loader } from "./api.js";
import { h, setText } from "./dom.js";
import { clock, counted, number, quantity } from "./format.js";
import { MapPanel } from "./map-panel.js";
import { href } from "./router.js";
import { needsOperator } from "./state.js";
import { heading, newestWords, section } from "./view.js";
import { refreshAges } from "./words.js";

const LISTED = 40;
const HOUR_SECONDS = 3600;

export default function overview({ store, scope }) {
  const tiles = new Tiles(store);
  const series = new Loader(scope, {
    what: "the numbers of the system",
    path: () => "api/series",
    apply: (answer) => tiles.showSeries(answer),
    store,
  });
  const letters = new Loader(scope, {
    what: "the dead letters",
    path: () => "api/letters",
    apply: (answer) => tiles.showLetters(answer),
    store,
  });
  const panel = new MapPanel(scope, { store, feeder: null, compact: true });
  const table = alarmTable(
    scope,
    store,
    "Alarms that need an operator",
    ["severity", "type", "entity", "lasts", "evidence", "ack"],
    { limit: LISTED, className: "compact" },
  );
  const count = h("p", { class: "note", role: "status" });

  const showAlarms = scope.frame(() => {
    tiles.showAlarms();
    const open = [...store.alarms.values()].filter(needsOperator);
    const empty = store.alarmsKnown
      ? `No alarm needs an operator. ${newestWords(store, clock)}`
      : "Loading the alarms…";
    table.update(open, empty);
    const { explained } = store.counts();
    setText(
      count,
      `${counted(open.length, "alarm")} without a cause${explained ? `, ${number(explained)} with one` : ""}.`,
    );
  });
  let known = { ...store.versions };
  scope.listen(store, "alarms", showAlarms);
  // Also where there is none: which window that is said of moves on.
  scope.listen(store, "health", () => {
    tiles.showHealth();
    showAlarms();
  });
  scope.listen(store, "versions", () => {
    const { map, letters: dead } = store.versions;
    if (map !== known.map) series.load();
    if (dead !== known.letters) letters.load();
    known = { ...store.versions };
  });
  // Letters of an hour ago leave the last hour although nothing new has come.
  scope.every(60_000, () => letters.load());
  series.load();
  letters.load();
  tiles.showHealth();
  showAlarms();

  const alarms = section(
    "Alarms that need an operator",
    count,
    table.element,
    h("p", { class: "note" }, h("a", { href: href("alarms") }, "All alarms")),
  );
  const map = section("Voltage map of feeders", panel.element);
  alarms.classList.add("side");
  refreshAges(scope, store, alarms);
  return {
    title: "Overview",
    nodes: [
      h(
        "div",
        { class: "overview" },
        heading("Overview"),
        h("div", { class: "tiles-box" }, tiles.element, series.element, letters.element),
        h("div", { class: "columns" }, map, alarms),
      ),
    ],
  };
}

/** The large numbers. Each has its data-tile, each part of one its data-part. */
class Tiles {
  #store;
  #parts = new Map();

  constructor(store) {
    this.#store = store;
    this.element = h(
      "dl",
      { class: "tiles" },
      this.#tile("alarms", "Active alarms", href("alarms", null, { explained: "1" }), [
        ["critical", "critical"],
        ["warning", "warning"],
        ["explained", "explained by others"],
      ]),
      this.#tile("outages", "Outages now", href("outages"), [["announced", "announced"]]),
      this.#tile("receipt", "Receipt rate", href("receipt"), [["window", ""]]),
      this.#tile("below", "Below the limit", href("map"), [["of", ""]]),
      this.#tile("above", "Above the limit", href("map"), [["of", ""]]),
      this.#tile("letters", "Dead letters, last hour", href("letters"), [["reason", ""]]),
      this.#tile("reads", "Reads per second", href("health"), [["rows", "rows per second"]]),
    );
  }

  #tile(name, title, link, parts) {
    const value = h("span", { class: "big" }, "–");
    this.#parts.set(name, value);
    const more = parts.map(([key, words]) => {
      const number_ = h("span", { "data-part": key });
      this.#parts.set(`${name}.${key}`, number_);
      return h("span", { class: `part ${key}` }, number_, words ? ` ${words}` : "");
    });
    return h(
      "div",
      { class: "tile", "data-tile": name },
      h("dt", {}, h("a", { href: link }, title)),
      h("dd", {}, value, h("span", { class: "parts" }, more)),
    );
  }

  #set(name, text, urgent = null) {
    const element = this.#parts.get(name);
    setText(element, text);
    if (urgent !== null) element.closest(".tile").classList.toggle("urgent", urgent);
  }

  showAlarms() {
    const counts = this.#store.counts();
    this.#set("alarms", number(counts.active), counts.critical > 0);
    for (const key of ["critical", "warning", "explained"]) this.#set(`alarms.${key}`, number(counts[key]));
    this.#set("outages", number(counts.outages), counts.outages > 0);
    this.#set("outages.announced", number(counts.held));
  }

  showSeries(answer) {
    const last = (column) => answer[column].at(-1) ?? null;
    const of = answer.windows.length ? `of ${counted(last("transformers") ?? 0, "transformer")}` : "";
    this.#set("receipt", quantity(last("receipt_pct"), "%"));
    this.#set("receipt.window", answer.windows.length ? `window ${clock(answer.windows.at(-1))}` : "no window yet");
    for (const side of ["below", "above"]) {
      this.#set(side, number(last(side)), (last(side) ?? 0) > 0);
      this.#set(`${side}.of`, of);
    }
  }

  showLetters(answer) {
    const [count, reason] = lastHour(answer);
    this.#set("letters", number(count));
    this.#set("letters.reason", reason === null ? "" : `most: ${reason}`);
  }

  showHealth() {
    const { health } = this.#store;
    this.#set("reads", health ? number(health.reads_per_second, rateDigits(health.reads_per_second)) : "–");
    this.#set("reads.rows", health ? number(health.rows_per_second, rateDigits(health.rows_per_second)) : "–");
  }
}

const rateDigits = (rate) => (rate !== null && rate < 10 ? 1 : 0);

/** [letters of the last hour, the reason that most of them have or null]. */
export function lastHour({ minutes, step_seconds: step, reasons }) {
  const from = Math.max(0, minutes.length - Math.ceil(HOUR_SECONDS / step));
  let total = 0;
  let most = 0;
  let name = null;
  for (const { reason, counts } of reasons) {
    let sum = 0;
    for (let at = from; at < counts.length; at++) sum += counts[at];
    total += sum;
    if (sum > most) [most, name] = [sum, reason];
  }
  return [total, name];
}
