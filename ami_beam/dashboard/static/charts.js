// Charts over time: uPlot with our colours, a legend that says values, and the same numbers as a table.

import { colour, font, rem } from "./colours.js";
import { h, setText } from "./dom.js";
import { clock, compact, date, dateTime, hourMinute, instant, number, quantity, zoneName } from "./format.js";
import { prefs } from "./prefs.js";
import { plainTable } from "./table.js";
import uPlot from "./vendor/uPlot.esm.js";

/**
 * Breaks lines where windows are missing: between two that are further apart than a step and a half there is one of
 * nulls. {xs: seconds, columns, at: for each the number of its window, or -1}.
 */
export function withGaps(millis, columns) {
  let step = Infinity;
  for (let at = 1; at < millis.length; at++) step = Math.min(step, millis[at] - millis[at - 1]);
  const places = [];
  const xs = [];
  millis.forEach((x, at) => {
    if (at && x - millis[at - 1] > 1.5 * step) {
      xs.push((millis[at - 1] + step) / 1000);
      places.push(-1);
    }
    xs.push(x / 1000);
    places.push(at);
  });
  return {
    xs,
    at: places,
    columns: columns.map((column) => places.map((place) => (place < 0 ? null : (column[place] ?? null)))),
  };
}

/** Heights of a stack: each column has those before it under it. */
export function stacked(columns) {
  const sums = [];
  for (const column of columns) {
    const below = sums.at(-1);
    sums.push(column.map((value, at) => (value ?? 0) + (below ? below[at] : 0)));
  }
  return sums;
}

/**
 * A chart. options: title; unit; series [{label, colour (custom property), dash?, fill?, digits?, unit?, band? to the
 * series before, which is the higher one}]; height? in rem; stack? bars upon one another; from? and
 * to? what the scale shows at least.
 *
 * The picture has a sentence of what it shows, the legend the values of the newest window or of the one under the
 * pointer, and a table can be opened.
 */
export class Chart {
  #options;
  #plot = null;
  #plotBox;
  #values = [];
  #at;
  #table;
  #data = null;
  #marked = [];

  constructor(scope, options) {
    this.#options = options;
    const id = `chart-${options.title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
    this.#plotBox = h("div", { class: "plot", role: "img", "aria-label": `${options.title}: no data yet` });
    this.#plotBox.style.height = `${options.height ?? 13}rem`;
    this.#at = h("span", { class: "at" });
    const legend = h(
      "ul",
      { class: "legend values" },
      h("li", {}, this.#at),
      options.series.map((series) => this.#legendItem(series)),
    );
    this.#table = h(
      "details",
      { on: { toggle: () => this.#fillTable() } },
      h("summary", {}, `${options.title} as a table`),
    );
    this.empty = h("p", { class: "empty", hidden: true });
    this.element = h(
      "figure",
      { class: "chart", "aria-labelledby": id },
      h("figcaption", { id }, options.title, options.unit ? h("span", { class: "unit" }, ` ${options.unit}`) : null),
      legend,
      this.empty,
      this.#plotBox,
      this.#table,
    );
    scope.onResize(
      this.#plotBox,
      scope.frame(() => this.#resize()),
    );
    scope.listen(prefs, "theme", () => {
      this.#plot?.redraw(true, true);
      this.#paintLegend();
    });
    scope.onClose(() => this.#plot?.destroy());
    this.#paintLegend();
  }

  /**
   * `windows` RFC 3339, oldest first; a column of numbers or nulls for each series; `marked`: which were revised.
   */
  set(windows, columns, marked = []) {
    const millis = windows.map(instant);
    const drawn = withGaps(millis, this.#options.stack ? stacked(columns) : columns);
    this.#data = { windows, millis, columns, drawn };
    this.#marked = drawn.at.map((place) => place >= 0 && Boolean(marked[place]));
    const has = windows.length > 0;
    this.#plotBox.hidden = !has;
    this.empty.hidden = has;
    setText(this.empty, has ? "" : "No windows yet.");
    if (!has) return;
    if (this.#plot) this.#plot.setData(this.#uData());
    else this.#make();
    this.#show(null);
    this.#describe();
    this.#fillTable();
  }

  #uData() {
    const { xs, columns } = this.#data.drawn;
    // Of a stack the highest is drawn first, so that each covers what is not its own.
    return [xs, ...(this.#options.stack ? [...columns].reverse() : columns)];
  }

  #legendItem(series) {
    const swatch = h("span", { class: series.dash ? "line dashed" : "line", "aria-hidden": "true" });
    const value = h("span", { class: "value" });
    this.#values.push({ series, swatch, value });
    return h("li", {}, swatch, series.label, " ", value);
  }

  #paintLegend() {
    for (const { series, swatch } of this.#values) swatch.style.borderColor = colour(series.colour);
  }

  #make() {
    const width = this.#plotBox.clientWidth;
    if (!width) return; // not laid out yet: the observer calls again
    const options = this.#options;
    const size = rem();
    const axis = {
      stroke: () => colour("--muted"),
      grid: { stroke: () => colour("--grid"), width: 1 },
      ticks: { stroke: () => colour("--grid"), width: 1, size: 4 },
      font: font(0.82),
    };
    const series = options.series.map((each) => this.#series(each));
    if (options.stack) series.reverse();
    const bands = options.series.flatMap((each, at) =>
      each.band ? [{ series: [at, at + 1], fill: () => colour(each.band) }] : [],
    );
    this.#plot = new uPlot(
      {
        width,
        height: this.#plotBox.clientHeight,
        padding: [size * 0.6, size * 0.8, 0, 0],
        tzDate: (seconds) =>
          prefs.zone === "UTC" ? uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC") : new Date(seconds * 1000),
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, y: false, points: { show: !options.stack } },
        scales: { y: { range: (_, least, most) => this.#range(least, most) } },
        axes: [
          { ...axis, space: size * 4.5, size: size * 2.6, values: (_, splits) => splits.map(timeLabel) },
          { ...axis, size: size * 4, values: (_, splits) => splits.map(compact) },
        ],
        series: [{}, ...series],
        bands,
        hooks: { setCursor: [(plot) => this.#show(plot.cursor.idx)], draw: [(plot) => this.#paintMarks(plot)] },
      },
      this.#uData(),
      this.#plotBox,
    );
  }

  #series(each) {
    const line = {
      label: each.label,
      stroke: () => colour(each.colour),
      width: each.width ?? 1.5,
      dash: each.dash,
      points: { show: each.points ?? false },
    };
    if (this.#options.stack)
      return {
        ...line,
        width: 0,
        fill: () => colour(each.colour),
        paths: uPlot.paths.bars({ size: [0.85, 60], align: 0 }),
      };
    return each.fill ? { ...line, fill: () => colour(each.fill) } : line;
  }

  #range(least, most) {
    if (least === null || most === null) return [0, 1];
    const { from, to } = this.#options;
    const low = from === undefined ? least : Math.min(from, least);
    const high = to === undefined ? most : Math.max(to, most);
    const room = (high - low || Math.abs(high) * 0.02 || 1) * 0.06;
    return [
      from !== undefined && low === from ? low : low - room,
      to !== undefined && high === to ? high : high + room,
    ];
  }

  #resize() {
    const width = this.#plotBox.clientWidth;
    const height = this.#plotBox.clientHeight;
    if (!width || !height || !this.#data?.windows.length) return;
    if (!this.#plot) this.#make();
    else if (this.#plot.width !== width || this.#plot.height !== height) this.#plot.setSize({ width, height });
  }

  // Windows that were published again: a mark at the top, as in the map.
  #paintMarks(plot) {
    if (!this.#marked.some(Boolean)) return;
    const { ctx: context } = plot;
    const size = 5 * (devicePixelRatio || 1);
    context.save();
    context.fillStyle = colour("--revised");
    context.beginPath();
    this.#marked.forEach((marked, at) => {
      if (!marked) return;
      const x = plot.valToPos(plot.data[0][at], "x", true);
      const y = plot.bbox.top;
      context.moveTo(x - size, y);
      context.lineTo(x, y);
      context.lineTo(x, y + size);
      context.closePath();
    });
    context.fill();
    context.restore();
  }

  /** Values in the legend: of the place under the pointer, else of the newest window. */
  #show(index) {
    if (!this.#data) return;
    const { windows, columns, drawn } = this.#data;
    const pointed = index === null || index === undefined ? -1 : (drawn.at[index] ?? -1);
    const at = pointed >= 0 ? pointed : windows.length - 1;
    if (at < 0) return;
    setText(this.#at, `${pointed >= 0 ? "at" : "newest"} ${clock(windows[at])}`);
    this.#values.forEach(({ series, value }, column) => {
      setText(value, quantity(columns[column][at] ?? null, series.unit ?? this.#options.unit, series.digits ?? 1));
    });
  }

  #describe() {
    const { windows, columns } = this.#data;
    const { title, series, unit } = this.#options;
    const parts = series.map((each, at) => {
      const known = columns[at].filter((value) => value !== null && value !== undefined);
      if (!known.length) return `${each.label}: none`;
      const last = quantity(known.at(-1), each.unit ?? unit, each.digits ?? 1);
      let least = Infinity;
      let most = -Infinity;
      for (const value of known) {
        least = Math.min(least, value);
        most = Math.max(most, value);
      }
      const digits = each.digits ?? 1;
      return `${each.label}: last ${last}, from ${number(least, digits)} to ${number(most, digits)}`;
    });
    const text = `${title}, ${clock(windows[0])} to ${clock(windows.at(-1))}. ${parts.join("; ")}.`;
    if (this.#plotBox.getAttribute("aria-label") !== text) this.#plotBox.setAttribute("aria-label", text);
  }

  #fillTable() {
    if (!this.#table.open || !this.#data) return;
    const { windows, columns } = this.#data;
    const { title, series, unit } = this.#options;
    const titles = [`Window end (${zoneName()})`, ...series.map((each) => each.label)];
    const rows = windows
      .map((window, at) => [
        dateTime(window),
        ...series.map((each, n) => quantity(columns[n][at] ?? null, each.unit ?? unit, each.digits ?? 1)),
      ])
      .reverse();
    const fresh = plainTable(`${title}, values`, titles, rows);
    // Only what is in the region: where somebody has scrolled to in it stays.
    const region = this.#table.querySelector(".scroll");
    if (region) region.replaceChildren(...fresh.childNodes);
    else this.#table.append(fresh);
  }
}

function timeLabel(seconds) {
  const text = hourMinute(seconds * 1000);
  return text === "00:00" ? `${text}\n${date(seconds * 1000).slice(5)}` : text;
}
