// A map with its controls, its legend and the table of the same rows.

import { Loader, query, request } from "./api.js";
import { h, labelled, select, setText, symbol } from "./dom.js";
import { NONE, clock, counted, number, quantity } from "./format.js";
import { MapModel } from "./map-model.js";
import { HeatMap } from "./map.js";
import { href } from "./router.js";
import { Table } from "./table.js";
import { CODES } from "./words.js";

const TABLE_ROWS = 200;

/** The map that is on the page, for the test hook; null where there is none. */
export let shownMap = null;

/**
 * options: store; feeder (null: rows are feeders); metric ("voltage"); fixedMetric? no choice of it; compact? neither
 * filter nor table; query? with metric, sort and filter; setQuery(values)? which keeps them in the address; label?;
 * onRows(model)? after every answer.
 */
export class MapPanel {
  model = new MapModel();
  metric;
  sort;
  filter;
  #scope;
  #options;
  #store;
  #loader;
  #asked = 0;
  #table = null;
  #tableBox = h("div", { hidden: true });
  #legend = h("div", { class: "legend-box" });
  #status = h("p", { class: "note" });
  #waiting = h("p", { class: "empty" }, "Loading the map…");

  constructor(scope, options) {
    this.#scope = scope;
    this.#options = options;
    this.#store = options.store;
    const { query: kept = new URLSearchParams() } = options;
    this.metric = options.metric ?? (kept.get("metric") === "receipt" ? "receipt" : "voltage");
    this.sort = kept.get("sort") === "name" ? "name" : "worst";
    this.filter = kept.get("filter") ?? "";
    const what = options.feeder === null ? "feeders" : "transformers";
    const name = options.fixedMetric && this.metric === "receipt" ? "Receipt rate map" : "Voltage map";
    this.map = new HeatMap(scope, this.model, {
      label: options.label ?? `${name}: ${what} by time; arrow keys move, Enter opens`,
      // That of what is shown: until the answer has come, the old codes keep their colours.
      metric: () => this.model.metric ?? this.metric,
      sort: () => this.sort,
      filter: () => this.filter,
      windowSeconds: () => this.#store.hello?.window_seconds ?? null,
      cell: (id, window, signal) => this.#cell(id, window, signal),
      open: (id) => (location.hash = href(options.feeder === null ? "feeder" : "transformer", id)),
    });
    this.#loader = new Loader(scope, {
      what: "the map",
      path: () => this.#path(),
      apply: (answer) => this.#apply(answer),
      onMissing: (message) => this.#missing(message),
      store: this.#store,
    });
    this.element = h(
      "div",
      { class: "map-panel" },
      this.#controls(what),
      this.#loader.element,
      this.#waiting,
      this.map.element,
      this.#legend,
      this.#status,
      this.#tableBox,
    );
    this.map.element.hidden = true;
    this.#showLegend();
    scope.listen(this.#store, "versions", () => this.#changed());
    shownMap = this;
    scope.onClose(() => {
      if (shownMap === this) shownMap = null;
    });
    this.#loader.load();
  }

  /** IDs in the order in which they are shown. */
  ids() {
    return this.map.order.map((row) => this.model.rows[row].id);
  }

  #path() {
    this.#asked = this.#store.versions.map;
    const known = this.model.rowsVersion === null ? {} : { rows: this.model.rowsVersion, since: this.model.version };
    return `api/map?${query({ metric: this.metric, feeder: this.#options.feeder, ...known })}`;
  }

  #changed() {
    // What was asked for after a change has it, whatever number the answer has: no request without end.
    if (this.model.version === null || this.#store.versions.map > Math.max(this.model.version, this.#asked))
      this.#loader.load();
  }

  #apply(answer) {
    if (answer.metric !== this.metric) return;
    try {
      this.model.apply(answer);
    } catch (error) {
      this.model.forget();
      throw error;
    }
    const empty = !this.model.rows.length || !this.model.windows.length;
    this.#waiting.hidden = !empty;
    this.map.element.hidden = empty;
    if (empty) setText(this.#waiting, this.#emptyWords());
    this.map.refresh();
    this.#showStatus();
    if (this.#table) this.#fillTable();
    this.#showLegend();
    this.#options.onRows?.(this.model);
  }

  #missing(message) {
    this.#waiting.hidden = false;
    this.map.element.hidden = true;
    setText(this.#waiting, message);
  }

  #emptyWords() {
    if (this.#options.feeder !== null)
      return "Nothing was published about transformers of this feeder in the windows that are kept. Is its name right?";
    return "No windows yet. The map fills when the pipeline publishes the first one to its topics of results.";
  }

  #cell(id, window, signal) {
    const feeder = this.#options.feeder;
    const where = feeder === null ? { feeder: id } : { feeder, transformer: id };
    return request(`api/cell?${query({ window, ...where })}`, { signal });
  }

  #controls(what) {
    const { compact, fixedMetric } = this.#options;
    const metrics = [
      ["voltage", "Voltage"],
      ["receipt", "Receipt rate"],
    ];
    const controls = [];
    if (!fixedMetric)
      controls.push(
        labelled(
          "Metric",
          select(metrics, this.metric, (metric) => this.#setMetric(metric)),
        ),
      );
    if (!compact) {
      const sorts = [
        ["worst", "Worst now"],
        ["name", "Name"],
      ];
      const filter = h("input", {
        type: "search",
        autocomplete: "off",
        spellcheck: "false",
        value: this.filter,
        placeholder: `part of a name of ${what}`,
        on: { input: () => this.#setFilter(filter.value) },
      });
      const button = h(
        "button",
        { type: "button", "aria-expanded": "false", on: { click: () => this.#toggleTable(button) } },
        "Show as table",
      );
      controls.push(
        labelled(
          "Sort rows by",
          select(sorts, this.sort, (sort) => this.#set("sort", sort)),
        ),
        labelled("Filter rows", filter),
        button,
      );
    }
    return controls.length ? h("div", { class: "controls-row" }, controls) : null;
  }

  #set(name, value) {
    this[name] = value;
    this.#keep();
    this.map.refresh(true);
    this.#showStatus();
    if (this.#table) this.#fillTable();
  }

  #setFilter(text) {
    this.#set("filter", text);
  }

  #setMetric(metric) {
    this.metric = metric;
    this.model.forget();
    this.#keep();
    this.#loader.restart();
  }

  #keep() {
    this.#options.setQuery?.({
      metric: this.metric === "voltage" ? "" : this.metric,
      sort: this.sort === "worst" ? "" : this.sort,
      filter: this.filter,
    });
  }

  #toggleTable(button) {
    const open = this.#tableBox.hidden;
    this.#tableBox.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    if (open && !this.#table) {
      this.#table = this.#makeTable();
      this.#tableBox.append(this.#table.element);
    }
    if (open) this.#fillTable();
  }

  #makeTable() {
    const view = this.#options.feeder === null ? "feeder" : "transformer";
    const count = (key) => (each) => number(each.now[key]);
    const columns = [
      {
        key: "id",
        title: view === "feeder" ? "Feeder" : "Transformer",
        cell: (each) => h("a", { href: href(view, each.id) }, h("bdi", {}, each.id)),
        className: "name",
      },
      { key: "below", title: "Below now", cell: count("below"), className: "num" },
      { key: "above", title: "Above now", cell: count("above"), className: "num" },
      { key: "silent", title: "Silent now", cell: count("silent"), className: "num" },
      {
        key: "receipt",
        title: "Receipt rate now",
        cell: (each) => quantity(each.now.receipt_pct, "%"),
        className: "num",
      },
    ];
    if (view === "feeder")
      columns.splice(1, 0, {
        key: "transformers",
        title: "Transformers",
        cell: (each) => number(each.transformers ?? null),
        className: "num",
      });
    return new Table(this.#scope, {
      label: "Rows of the map",
      caption: `Rows of the map, in its order, at most ${TABLE_ROWS}`,
      columns,
      rowHeads: true,
      key: (each) => each.id,
      version: (each) => JSON.stringify([each.transformers, each.now]),
      link: (each) => href(view, each.id),
      limit: TABLE_ROWS,
    });
  }

  #fillTable() {
    if (this.#tableBox.hidden) return;
    const rows = this.map.order.slice(0, TABLE_ROWS).map((row) => {
      const { id, transformers } = this.model.rows[row];
      return { id, transformers, now: this.model.now[row] };
    });
    this.#table.update(rows, "No rows.");
  }

  #showStatus() {
    const shown = this.map.order.length;
    const parts = [
      shown === this.model.rows.length
        ? counted(shown, "row")
        : `${number(shown)} of ${counted(this.model.rows.length, "row")}`,
    ];
    if (this.model.omitted) parts.push(`${number(this.model.omitted)} more are not sent, they are the best ones`);
    if (this.model.windows.length) parts.push(`newest window ${clock(this.model.windows.at(-1))}`);
    setText(this.#status, `${parts.join(", ")}.`);
    if (!shown && this.filter) setText(this.#status, `No row has “${this.filter}” in its name.`);
  }

  // Words, colours and symbols; the limits where they are known.
  #showLegend() {
    const limits = this.#limits();
    const items = CODES[this.metric]
      .filter(([code]) => code !== ".")
      .map(([, words, mark, name]) =>
        h(
          "li",
          {},
          h("span", { class: `swatch cell-${name}`, "aria-hidden": "true" }, mark),
          words + (limits[name] ? ` (${limits[name]})` : ""),
        ),
      );
    items.push(h("li", {}, symbol("◥", "swatch corner"), "revised after it was first published"));
    const key = JSON.stringify([this.metric, limits]);
    if (this.#legend.dataset.key === key) return;
    this.#legend.dataset.key = key;
    this.#legend.replaceChildren(h("ul", { class: "legend", "aria-label": "Legend of the map" }, items));
  }

  #limits() {
    const t = this.model.thresholds;
    if (!t) return {};
    const volts = (pct) =>
      t.nominal_voltage === null || pct === null ? NONE : `${number((t.nominal_voltage * pct) / 100, 1)} V`;
    if (this.metric === "receipt") {
      return {
        "receipt-low": `< ${number(t.min_receipt_rate_pct)} %`,
        "receipt-near": `< ${number(t.near_receipt_pct)} %`,
      };
    }
    return {
      below: `< ${volts(t.low_voltage_pct)}`,
      "near-low": `< ${volts(t.near_low_pct)}`,
      "near-high": `> ${volts(t.near_high_pct)}`,
      above: `> ${volts(t.high_voltage_pct)}`,
    };
  }
}

/** Numbers of the rows with the lowest receipt rate now, the lowest first. */
export function lowestReceipt(model, count) {
  const ordered = model.order("receipt", "worst");
  return ordered.slice(0, count).filter((row) => model.now[row].receipt_pct !== null);
}
