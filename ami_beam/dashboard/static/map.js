// The map: rows by windows on a canvas, of which only what can be seen is drawn.

import { colour, font, rem } from "./colours.js";
import { ApiError } from "./api.js";
import { facts, fill, h, setText } from "./dom.js";
import { clean, date, hourMinute, number, shortened } from "./format.js";
import { prefs } from "./prefs.js";
import { CODES, cellFacts, cellSentence, cellSummary } from "./words.js";

const LEAST_CELL = 7;
const SYMBOL_CELL = 9;
const HOVER_MS = 80;
const FALLBACK_MS = 400;
const CACHED = 200;
const REST_MS = 8_000;

/**
 * Draws a MapModel. The canvas has the size of what is seen and stays in place while a spacer of the size of everything
 * is scrolled under it: 5,000 rows cost as much as 40.
 *
 * options: label; metric() -> "voltage"|"receipt"; sort(); filter(); windowSeconds(); cell(rowId, window, signal) ->
 * promise of api/cell; open(rowId).
 *
 * For screen readers: a focusable group with a picture in it, and a live region that tells the cell under the cursor.
 */
export class HeatMap {
  lastRender = 0;
  order = [];
  #scope;
  #model;
  #options;
  #canvas = h("canvas", { id: "map", role: "img", "aria-label": "Map, not loaded yet" });
  #spacer;
  #tip = h("div", { class: "tip", role: "tooltip", hidden: true });
  #live = h("p", { id: "map-live", "aria-live": "polite" });
  #layout = { gutter: 0, top: 0, cellW: 0, cellH: 0, width: 0, height: 0 };
  #cursor = null;
  #hover = null;
  #touched = -Infinity;
  #orderOf = "";
  #asking = { cursor: null, hover: null };
  #timers = new Map();
  #cells = new Map();
  #hatch = null;
  #draw;

  constructor(scope, model, options) {
    this.#scope = scope;
    this.#model = model;
    this.#options = options;
    this.#spacer = h("div", { class: "map-spacer" }, this.#canvas);
    this.scroller = h(
      "div",
      {
        class: "map-scroll",
        role: "group",
        tabindex: "0",
        "aria-label": options.label,
        "aria-describedby": "map-live",
      },
      this.#spacer,
    );
    this.element = h("div", { class: "map" }, this.scroller, this.#tip, this.#live);
    setText(this.#live, "Arrow keys move over the map.");
    this.#draw = scope.frame(() => this.#paint());
    // In the next frame: a size that is set while sizes are told is an error of its own.
    const resized = scope.frame(() => this.#resized());
    scope.onResize(this.scroller, resized);
    scope.listen(window, "resize", resized);
    scope.listen(prefs, "theme", () => {
      this.#hatch = null;
      this.#paint();
    });
    const on = (type, handler) => scope.listen(this.scroller, type, handler);
    on("scroll", () => {
      this.#leave();
      this.#draw();
    });
    on("keydown", (event) => this.#key(event));
    on("focus", () => {
      if (!this.#cursor) this.#place(0, this.#model.windows.length - 1);
      this.#draw();
    });
    on("blur", () => this.#draw());
    // Before the focus comes: whoever presses a cell means that one, and nothing may move under the pointer.
    on("pointerdown", (event) => (this.#cursor = this.#hit(event) ?? this.#cursor));
    on("pointermove", (event) => this.#move(event));
    on("pointerleave", () => this.#leave());
    on("click", (event) => this.#click(event));
    scope.onClose(() => {
      this.#timers.forEach(clearTimeout);
      this.#asking.cursor?.abort();
      this.#asking.hover?.abort();
    });
  }

  /** The model has changed, or what is asked of it (`anew`: another order is wanted at once). */
  refresh(anew = false) {
    const { metric, sort, filter } = this.#options;
    const wanted = `${this.#model.rowsVersion}|${metric()}|${sort()}|${filter()}`;
    // Rows must not run away under somebody's hand: another order of the same rows waits until the map is left alone.
    const resting = performance.now() - this.#touched > REST_MS;
    if (anew || wanted !== this.#orderOf || resting) {
      this.order = this.#model.order(metric(), sort(), filter());
      this.#orderOf = wanted;
    } else {
      clearTimeout(this.#timers.get("order"));
      this.#timers.set(
        "order",
        setTimeout(() => this.refresh(), REST_MS),
      );
    }
    this.#measure();
    this.#describe();
    if (this.#cursor) this.#tell();
    this.#draw();
  }

  // ---- sizes

  #resized() {
    this.#measure();
    this.#paint();
  }

  #measure() {
    const rows = this.order.length;
    const windows = this.#model.windows.length;
    const size = rem();
    const width = this.scroller.clientWidth;
    const gutter = Math.min(Math.round(size * 13), Math.max(Math.round(size * 7), Math.round(width * 0.22)));
    const top = Math.round(size * 1.7);
    const right = Math.round(size * 0.4);
    const cellW = windows ? Math.max(LEAST_CELL, (width - gutter - right) / windows) : LEAST_CELL;
    const least = Math.round(size * 1.2);
    const room = this.#roomFor();
    const cellH = rows ? Math.max(least, Math.min(Math.round(size * 2.2), Math.floor((room - top) / rows))) : least;
    const atEnd = this.scroller.scrollLeft + width >= this.#layout.width - 2;
    const total = Math.ceil(gutter + windows * cellW + right);
    const height = top + rows * cellH + 2;
    this.#layout = { gutter, top, cellW, cellH, width: total, height };
    this.#spacer.style.width = total > width + 1 ? `${total}px` : "100%";
    this.#spacer.style.height = `${height}px`;
    this.scroller.style.height = `${Math.min(height + (total > width + 1 ? 16 : 2), room)}px`;
    // The newest windows are what counts: whoever looks at them goes on looking at them.
    if (atEnd && total > width) this.scroller.scrollLeft = total;
  }

  /** The height that the style sheet allows, in pixels. */
  #roomFor() {
    const most = parseFloat(getComputedStyle(this.scroller).maxHeight);
    return Number.isFinite(most) ? most : Math.round(innerHeight * 0.65);
  }

  // ---- drawing

  #paint() {
    if (this.#scope.closed) return;
    const began = performance.now();
    const { scroller } = this;
    const width = scroller.clientWidth;
    const height = scroller.clientHeight;
    if (!width || !height) return;
    const ratio = devicePixelRatio || 1;
    const canvas = this.#canvas;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
      this.#hatch = null;
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = colour("--cell-none");
    context.fillRect(0, 0, width, height);
    const { gutter, top, cellW, cellH } = this.#layout;
    const left = scroller.scrollLeft;
    const above = scroller.scrollTop;
    const firstRow = Math.max(0, Math.floor(above / cellH));
    const lastRow = Math.min(this.order.length, Math.ceil((above + height - top) / cellH));
    const firstWindow = Math.max(0, Math.floor(left / cellW));
    const lastWindow = Math.min(this.#model.windows.length, Math.ceil((left + width - gutter) / cellW));
    const view = { context, width, height, left, above, firstRow, lastRow, firstWindow, lastWindow };
    this.#paintCells(view);
    this.#paintMark(view);
    this.#paintNames(view);
    this.#paintTimes(view);
    this.lastRender = performance.now() - began;
  }

  #x(window, left) {
    return Math.round(this.#layout.gutter + window * this.#layout.cellW - left);
  }

  #y(place, above) {
    return Math.round(this.#layout.top + place * this.#layout.cellH - above);
  }

  #paintCells({ context, left, above, firstRow, lastRow, firstWindow, lastWindow }) {
    const { cellH } = this.#layout;
    const model = this.#model;
    const codes = CODES[this.#options.metric()];
    // By colour, so that each is set once: setting it is what costs.
    const byCode = new Map(codes.map(([code]) => [code, []]));
    const corners = [];
    for (let at = firstWindow; at < lastWindow; at++) {
      const window = model.windows[at];
      const column = model.column(window);
      const revised = model.revised(window);
      const x = this.#x(at, left);
      const wide = this.#x(at + 1, left) - x;
      for (let place = firstRow; place < lastRow; place++) {
        const row = this.order[place];
        const cell = { x, y: this.#y(place, above), wide };
        byCode.get(column[row] ?? ".")?.push(cell);
        if (revised?.has(row)) corners.push(cell);
      }
    }
    const gapX = this.#layout.cellW >= 5 ? 1 : 0;
    for (const [code, , , name] of codes) {
      if (code === ".") continue;
      context.fillStyle = code === "0" ? this.#hatched(context) : colour(`--cell-${name}`);
      for (const { x, y, wide } of byCode.get(code)) context.fillRect(x, y, wide - gapX, cellH - 1);
    }
    this.#paintSymbols(context, codes, byCode);
    const corner = Math.max(3, Math.min(6, Math.round(cellH / 3)));
    context.fillStyle = colour("--cell-revised");
    context.beginPath();
    for (const { x, y, wide } of corners) {
      const end = x + wide - gapX;
      context.moveTo(end - corner, y);
      context.lineTo(end, y);
      context.lineTo(end, y + corner);
      context.closePath();
    }
    context.fill();
  }

  #paintSymbols(context, codes, byCode) {
    const { cellW, cellH } = this.#layout;
    if (cellW < SYMBOL_CELL || cellH < SYMBOL_CELL) return;
    context.font = `${Math.round(Math.min(cellW, cellH) * 0.7)}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const [code, , mark, name] of codes) {
      if (!mark) continue;
      context.fillStyle = colour(`--on-${name}`);
      for (const { x, y, wide } of byCode.get(code)) context.fillText(mark, x + (wide - 1) / 2, y + cellH / 2);
    }
  }

  #hatched(context) {
    if (this.#hatch) return this.#hatch;
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6;
    const pen = tile.getContext("2d");
    pen.fillStyle = colour("--cell-silent");
    pen.fillRect(0, 0, 6, 6);
    pen.strokeStyle = colour("--cell-silent-line");
    pen.lineWidth = 1;
    pen.beginPath();
    for (const from of [-6, 0, 6]) {
      pen.moveTo(from, 6);
      pen.lineTo(from + 6, 0);
    }
    pen.stroke();
    this.#hatch = context.createPattern(tile, "repeat");
    return this.#hatch;
  }

  #paintMark({ context, left, above }) {
    const outline = (place, at, name, width) => {
      if (place < 0 || at < 0) return;
      const x = this.#x(at, left);
      context.strokeStyle = colour(name);
      context.lineWidth = width;
      context.strokeRect(x - 0.5, this.#y(place, above) - 0.5, this.#x(at + 1, left) - x, this.#layout.cellH);
    };
    if (this.#hover)
      outline(this.#placeOf(this.#hover.id), this.#model.windows.indexOf(this.#hover.window), "--text", 1);
    if (this.#cursor && this.scroller.matches(":focus")) {
      const place = this.#placeOf(this.#cursor.id);
      const at = this.#model.windows.indexOf(this.#cursor.window);
      outline(place, at, "--surface", 4);
      outline(place, at, "--focus", 2);
    }
  }

  #paintNames({ context, height, above, firstRow, lastRow }) {
    const { gutter, top, cellH } = this.#layout;
    context.fillStyle = colour("--surface");
    context.fillRect(0, 0, gutter - 1, height);
    context.textBaseline = "middle";
    const receipt = this.#options.metric() === "receipt";
    const nameFont = font(0.86);
    const boldFont = font(0.86, "600");
    for (let place = firstRow; place < lastRow; place++) {
      const row = this.order[place];
      const now = this.#model.now[row];
      const y = this.#y(place, above) + cellH / 2;
      const outside = now.below + now.above > 0;
      const note = receipt ? (now.receipt_pct === null ? "" : `${number(now.receipt_pct, 0)} %`) : this.#note(now);
      context.font = font(0.78);
      context.textAlign = "right";
      context.fillStyle = colour("--muted");
      context.fillText(note, gutter - 6, y);
      const room = gutter - 14 - (note ? context.measureText(note).width + 6 : 0);
      context.textAlign = "left";
      context.font = outside && !receipt ? boldFont : nameFont;
      context.fillStyle = colour("--text");
      context.fillText(fitted(context, this.#model.rows[row].id, room), 6, y);
    }
    context.fillStyle = colour("--surface");
    context.fillRect(0, 0, gutter - 1, top);
  }

  #note(now) {
    const parts = [];
    if (now.below) parts.push(`▼${number(now.below)}`);
    if (now.above) parts.push(`▲${number(now.above)}`);
    if (now.silent) parts.push(`✕${number(now.silent)}`);
    return parts.join(" ");
  }

  #paintTimes({ context, width, left, firstWindow, lastWindow }) {
    const { gutter, top, cellW } = this.#layout;
    context.fillStyle = colour("--surface");
    context.fillRect(gutter - 1, 0, width, top);
    context.font = font(0.78);
    context.fillStyle = colour("--muted");
    context.textBaseline = "middle";
    context.textAlign = "right";
    const { windows } = this.#model;
    const widest = Math.max(0, ...windows.slice(-12).map((end) => context.measureText(hourMinute(end)).width));
    const gap = Math.max(1, Math.ceil((widest + rem()) / cellW));
    // Counted from the newest, so that it always has its time; the labels are ends of windows.
    for (let at = windows.length - 1; at >= firstWindow; at -= gap) {
      if (at >= lastWindow) continue;
      const x = this.#x(at + 1, left);
      if (x - widest < gutter) break;
      context.fillText(hourMinute(windows[at]), x, top / 2);
      context.fillRect(x - 1, top - 4, 1, 4);
    }
    context.textAlign = "left";
    if (windows.length) context.fillText(date(windows.at(-1)), 6, top / 2);
  }

  // ---- cursor and pointer

  #placeOf(id) {
    return this.order.indexOf(this.#model.number(id));
  }

  #place(place, at) {
    if (!this.order.length || !this.#model.windows.length) return;
    const row = this.order[Math.min(Math.max(place, 0), this.order.length - 1)];
    const window = this.#model.windows[Math.min(Math.max(at, 0), this.#model.windows.length - 1)];
    this.#cursor = { id: this.#model.rows[row].id, window };
    this.#reveal();
    this.#tell();
    this.#draw();
  }

  #reveal() {
    const { gutter, top, cellW, cellH } = this.#layout;
    const { scroller } = this;
    const y = this.#placeOf(this.#cursor.id) * cellH;
    const x = this.#model.windows.indexOf(this.#cursor.window) * cellW;
    const roomY = scroller.clientHeight - top;
    const roomX = scroller.clientWidth - gutter;
    if (y < scroller.scrollTop) scroller.scrollTop = y;
    else if (y + cellH > scroller.scrollTop + roomY) scroller.scrollTop = y + cellH - roomY;
    if (x < scroller.scrollLeft) scroller.scrollLeft = x;
    else if (x + cellW > scroller.scrollLeft + roomX) scroller.scrollLeft = x + cellW - roomX;
  }

  #key(event) {
    if (event.altKey || event.metaKey || event.target !== this.scroller) return;
    this.#touched = performance.now();
    if (event.key === "Escape") {
      this.#leave();
      return;
    }
    if (event.key === "Enter") {
      if (this.#cursor) this.#options.open(this.#cursor.id);
      return;
    }
    const page = Math.max(1, Math.floor((this.scroller.clientHeight - this.#layout.top) / this.#layout.cellH) - 1);
    const lastWindow = this.#model.windows.length - 1;
    const place = this.#cursor ? Math.max(0, this.#placeOf(this.#cursor.id)) : 0;
    const at = this.#cursor ? Math.max(0, this.#model.windows.indexOf(this.#cursor.window)) : lastWindow;
    const all = event.ctrlKey;
    const moves = {
      ArrowUp: [place - 1, at],
      ArrowDown: [place + 1, at],
      ArrowLeft: [place, at - 1],
      ArrowRight: [place, at + 1],
      PageUp: [place - page, at],
      PageDown: [place + page, at],
      Home: [all ? 0 : place, 0],
      End: [all ? this.order.length - 1 : place, lastWindow],
    };
    const move = moves[event.key];
    if (!move || (all && !["Home", "End"].includes(event.key))) return;
    event.preventDefault();
    this.#place(...move);
  }

  /** The row and window at a point of the page; null beside the cells. A row's name is its newest window. */
  #hit(event) {
    const box = this.scroller.getBoundingClientRect();
    const { gutter, top, cellW, cellH } = this.#layout;
    const x = event.clientX - box.left;
    const y = event.clientY - box.top;
    if (x > this.scroller.clientWidth || y > this.scroller.clientHeight || y < top) return null;
    const row = this.order[Math.floor((y - top + this.scroller.scrollTop) / cellH)];
    const { windows } = this.#model;
    const window = x < gutter ? windows.at(-1) : windows[Math.floor((x - gutter + this.scroller.scrollLeft) / cellW)];
    if (row === undefined || window === undefined) return null;
    return { id: this.#model.rows[row].id, window };
  }

  #click(event) {
    const hit = this.#hit(event);
    if (hit) this.#options.open(hit.id);
  }

  #move(event) {
    this.#touched = performance.now();
    const hit = this.#hit(event);
    if (!hit) {
      this.#leave();
      return;
    }
    this.#moveTip(event);
    if (this.#hover && hit.id === this.#hover.id && hit.window === this.#hover.window) return;
    this.#hover = hit;
    this.scroller.style.cursor = "pointer";
    this.#draw();
    this.#later("hover", HOVER_MS, async () => {
      const cell = await this.#ask("hover", hit);
      if (this.#hover !== hit || cell === null) return;
      const words = typeof cell === "string" ? [h("p", {}, cell)] : [facts(cellFacts(cell))];
      fill(this.#tip, h("strong", {}, shortened(hit.id)), words);
      this.#tip.hidden = false;
      this.#moveTip(event);
    });
  }

  #moveTip(event) {
    if (this.#tip.hidden) return;
    const width = this.#tip.offsetWidth;
    const height = this.#tip.offsetHeight;
    const right = event.clientX + 18 + width < innerWidth;
    const below = event.clientY + 14 + height < innerHeight;
    this.#tip.style.left = `${Math.max(4, right ? event.clientX + 16 : event.clientX - width - 12)}px`;
    this.#tip.style.top = `${Math.max(4, below ? event.clientY + 12 : event.clientY - height - 10)}px`;
  }

  #leave() {
    clearTimeout(this.#timers.get("hover"));
    this.#asking.hover?.abort();
    this.#tip.hidden = true;
    this.scroller.style.cursor = "";
    if (this.#hover) {
      this.#hover = null;
      this.#draw();
    }
  }

  #later(name, millis, action) {
    clearTimeout(this.#timers.get(name));
    this.#timers.set(name, setTimeout(action, millis));
  }

  /** Tells the cell under the cursor: what its code says where the details do not come soon. */
  #tell() {
    const cursor = this.#cursor;
    if (this.#model.number(cursor.id) === undefined || !this.#model.windows.includes(cursor.window)) {
      this.#cursor = null;
      return;
    }
    const key = this.#cellKey(cursor);
    const known = this.#cells.get(key);
    const metric = this.#options.metric();
    clearTimeout(this.#timers.get("fallback"));
    if (known) {
      clearTimeout(this.#timers.get("cursor"));
      setText(this.#live, typeof known === "string" ? this.#coded(cursor) : cellSentence(known, metric));
      return;
    }
    this.#later("fallback", FALLBACK_MS, () => setText(this.#live, this.#coded(cursor)));
    this.#later("cursor", HOVER_MS, async () => {
      const cell = await this.#ask("cursor", cursor);
      if (this.#cursor !== cursor || cell === null) return;
      clearTimeout(this.#timers.get("fallback"));
      setText(this.#live, typeof cell === "string" ? this.#coded(cursor) : cellSentence(cell, this.#options.metric()));
    });
  }

  #coded({ id, window }) {
    const end = Date.parse(window);
    const seconds = this.#options.windowSeconds();
    const code = this.#model.code(this.#model.number(id), window);
    return cellSummary(id, seconds === null ? null : end - seconds * 1000, end, this.#options.metric(), code);
  }

  #cellKey({ id, window }) {
    return `${this.#model.stamp(window)} ${window} ${id}`;
  }

  /** The answer of api/cell, a text where there is none, null where it is not wanted any more. */
  async #ask(who, spot) {
    const key = this.#cellKey(spot);
    const known = this.#cells.get(key);
    if (known) return known;
    this.#asking[who]?.abort();
    const asking = (this.#asking[who] = new AbortController());
    let cell;
    try {
      cell = await this.#options.cell(spot.id, spot.window, asking.signal);
    } catch (error) {
      if (!(error instanceof ApiError)) return null;
      // Only what is known not to be there is worth remembering.
      if (error.status !== 404) return `The details cannot be loaded: ${error.message}`;
      cell = "No row of this window.";
    }
    if (this.#cells.size >= CACHED) this.#cells.delete(this.#cells.keys().next().value);
    this.#cells.set(key, cell);
    return cell;
  }

  /** What the picture shows, for those who do not see it. */
  #describe() {
    const { windows } = this.#model;
    const metric = this.#options.metric();
    const counts = this.#model.newest(metric);
    const limit = metric === "receipt" ? "below the least receipt rate" : "outside the voltage limits";
    const text = windows.length
      ? `${number(this.order.length)} rows by ${number(windows.length)} windows up to ${hourMinute(windows.at(-1))}. ` +
        `In the newest: ${number(counts.violation)} ${limit}, ${number(counts.silent)} silent.`
      : "Map without windows yet";
    if (this.#canvas.getAttribute("aria-label") !== text) this.#canvas.setAttribute("aria-label", text);
  }
}

/** As much of an untrusted name as has room, the end kept: names differ there. */
function fitted(context, id, room) {
  const text = clean(id).slice(0, 80);
  const width = context.measureText(text).width;
  if (width <= room) return text;
  const letters = Math.max(3, Math.floor((text.length * room) / width) - 1);
  const head = Math.ceil(letters / 3);
  return `${text.slice(0, head)}…${text.slice(text.length - (letters - head))}`;
}
