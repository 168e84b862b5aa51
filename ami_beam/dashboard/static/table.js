// Tables of many rows that change while somebody reads them.

import { add, fill, h, setText, symbol } from "./dom.js";
import { number } from "./format.js";

const TOUCHED_MS = 3_000;
const MOST_MARKED = 20;

/**
 * A real `<table>` whose rows have keys: a change touches the cells of the rows that changed and nothing else, at most
 * `limit` rows are there at a time, the focus stays where it is.
 *
 * Nothing jumps: while somebody is at the table (moved the pointer or typed in it within 3 s) its rows stay where they
 * are, only their cells change; what has come and gone is said, and taken over afterwards or by a button.
 *
 * options: label; columns [{key, title, cell(row) -> node, text or array, order(one, other)?, className?}]; key(row);
 * version(row)? what has to differ for a row to be built again (the row itself); link(row)? where a click on it goes;
 * rowClass(row)?; rowHeads? whether the first cell of a row is its head; order(one, other)? when no column is chosen;
 * limit? 200; caption?; className?; marks? whether a row that changes lights up shortly.
 */
export class Table {
  #options;
  #scope;
  #body = h("tbody", {});
  #more;
  #held;
  #heldText = h("span", {});
  #empty = h("p", { class: "empty", hidden: true });
  #scroll;
  #shown = new Map();
  #rows = [];
  #limit;
  #sort = null;
  #touched = -Infinity;
  #timer = 0;
  #heads = new Map();
  #changed = [];

  constructor(scope, options) {
    this.#scope = scope;
    this.#options = options;
    this.#limit = options.limit ?? 200;
    this.#more = h("button", { type: "button", class: "more", hidden: true, on: { click: () => this.#showMore() } });
    this.#held = h(
      "p",
      { class: "held", hidden: true },
      this.#heldText,
      " ",
      h("button", { type: "button", on: { click: () => this.release() } }, "Show now"),
    );
    const heads = options.columns.map((column) => this.#head(column));
    const caption = options.caption ? h("caption", {}, options.caption) : null;
    const table = h(
      "table",
      { "aria-label": options.caption ? null : options.label },
      caption,
      h("thead", {}, h("tr", {}, heads)),
      this.#body,
    );
    this.#scroll = h(
      "div",
      { class: "scroll", role: "group", tabindex: "0", "aria-label": `${options.label}, can be scrolled` },
      table,
    );
    this.element = h(
      "div",
      { class: options.className ? `table ${options.className}` : "table" },
      this.#held,
      this.#scroll,
      this.#empty,
      this.#more,
    );
    const touch = () => (this.#touched = performance.now());
    for (const type of ["pointermove", "pointerdown", "keydown", "wheel"])
      scope.listen(this.#scroll, type, touch, { passive: true });
    if (options.link) this.#body.addEventListener("click", (event) => this.#follow(event));
    scope.onClose(() => clearTimeout(this.#timer));
  }

  /** All rows, in any order where there is an `order`; `empty` says what is missing where there are none. */
  update(rows, empty = "") {
    this.#rows = rows;
    setText(this.#empty, empty);
    this.#render();
  }

  #head(column) {
    if (!column.order) return h("th", { scope: "col", class: column.className }, column.title);
    const arrow = symbol("", "arrow");
    const button = h(
      "button",
      { type: "button", class: "sort", on: { click: () => this.#sortBy(column) } },
      column.title,
      arrow,
    );
    const head = h("th", { scope: "col", class: column.className }, button);
    this.#heads.set(column.key, [head, arrow]);
    return head;
  }

  #sortBy(column) {
    const same = this.#sort?.column === column;
    this.#sort = same && this.#sort.down ? null : { column, down: same };
    for (const [key, [head, arrow]] of this.#heads) {
      const chosen = this.#sort?.column.key === key;
      if (chosen) head.setAttribute("aria-sort", this.#sort.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
      arrow.textContent = chosen ? (this.#sort.down ? " ▼" : " ▲") : "";
    }
    this.release();
  }

  #ordered() {
    const order = this.#sort ? this.#sort.column.order : this.#options.order;
    if (!order) return this.#rows;
    const sorted = [...this.#rows].sort(order);
    return this.#sort?.down ? sorted.reverse() : sorted;
  }

  #render(force = false) {
    clearTimeout(this.#timer);
    const ordered = this.#ordered();
    const wanted = ordered.slice(0, this.#limit);
    const left = ordered.length - wanted.length;
    this.#empty.hidden = ordered.length > 0;
    this.#more.hidden = left === 0;
    if (left)
      setText(this.#more, `Show more: ${number(Math.min(left, this.#options.limit ?? 200))} of ${number(left)} left`);
    const wait = this.#touched + TOUCHED_MS - performance.now();
    if (!force && wait > 0 && this.#shown.size) this.#hold(wanted, wait);
    else this.#place(wanted);
    this.#scroll.hidden = this.#shown.size === 0;
    if (this.#changed.length) this.#flash();
  }

  // Somebody is at it: cells change, rows stay.
  #hold(wanted, wait) {
    const { key } = this.#options;
    const known = new Map(this.#rows.map((row) => [key(row), row]));
    let gone = 0;
    for (const [id, entry] of this.#shown) {
      const row = known.get(id);
      if (row === undefined) gone += 1;
      else this.#fill(entry, row);
      entry.element.classList.toggle("gone", row === undefined);
    }
    const come = wanted.filter((row) => !this.#shown.has(key(row))).length;
    const moved =
      !come && !gone && wanted.some((row, at) => this.#body.children[at] !== this.#shown.get(key(row))?.element);
    if (come || gone || moved) {
      const parts = [come ? `${number(come)} new` : "", gone ? `${number(gone)} gone` : ""].filter(Boolean);
      setText(this.#heldText, `${parts.length ? parts.join(", ") : "Another order"}; the rows stay while you read.`);
      this.#timer = setTimeout(() => this.#render(), wait + 50);
    }
    this.#held.hidden = !(come || gone || moved);
  }

  /** Takes over at once what has come and gone while somebody was at the table. */
  release() {
    this.#touched = -Infinity;
    this.#render(true);
  }

  #place(wanted) {
    const { key } = this.#options;
    this.#held.hidden = true;
    const active = this.#body.contains(document.activeElement) ? document.activeElement : null;
    const activeRow = active?.closest("tr");
    const position = activeRow ? [...this.#body.children].indexOf(activeRow) : -1;
    const keys = new Set(wanted.map(key));
    for (const [id, entry] of this.#shown) {
      if (keys.has(id)) continue;
      entry.element.remove();
      this.#shown.delete(id);
    }
    let at = this.#body.firstElementChild;
    for (const row of wanted) {
      const id = key(row);
      let entry = this.#shown.get(id);
      if (!entry) {
        entry = { element: h("tr", {}), version: undefined, row };
        this.#shown.set(id, entry);
      }
      this.#fill(entry, row);
      entry.element.classList.remove("gone");
      if (entry.element === at) at = at.nextElementSibling;
      else this.#body.insertBefore(entry.element, at);
    }
    if (active && document.activeElement !== active) this.#refocus(active, activeRow, position);
  }

  #refocus(active, row, position) {
    if (active.isConnected) {
      active.focus({ preventScroll: true });
      return;
    }
    const next = row.isConnected ? row : this.#body.children[Math.min(position, this.#body.children.length - 1)];
    (next?.querySelector("a, button") ?? this.#scroll).focus({ preventScroll: true });
  }

  #fill(entry, row) {
    const version = this.#options.version ? this.#options.version(row) : row;
    if (entry.version === version) return;
    const focused = entry.element.contains(document.activeElement)
      ? [...entry.element.querySelectorAll("a, button")].indexOf(document.activeElement)
      : -1;
    const fresh = entry.version === undefined;
    entry.version = version;
    entry.row = row;
    const cells = this.#options.columns.map((column, at) =>
      add(
        at === 0 && this.#options.rowHeads
          ? h("th", { scope: "row", class: column.className })
          : h("td", { class: column.className }),
        [column.cell(row)],
      ),
    );
    fill(entry.element, cells);
    entry.element.className = this.#options.rowClass?.(row) ?? "";
    if (this.#options.link) entry.element.classList.add("linked");
    if (!fresh && this.#options.marks) this.#changed.push(entry.element);
    if (focused >= 0) entry.element.querySelectorAll("a, button")[focused]?.focus({ preventScroll: true });
  }

  // A short mark on what has changed, but not where everything has, and not where less motion is asked for.
  #flash() {
    const changed = this.#changed.splice(0);
    if (changed.length > MOST_MARKED || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    const colour = getComputedStyle(document.documentElement).getPropertyValue("--changed");
    for (const element of changed)
      element.animate([{ backgroundColor: colour }, {}], { duration: 2_000, easing: "ease-out" });
  }

  #follow(event) {
    if (event.defaultPrevented || event.button !== 0 || event.target.closest("a, button, input")) return;
    if (String(getSelection())) return;
    const row = event.target.closest("tr");
    for (const entry of this.#shown.values()) {
      if (entry.element === row) location.hash = this.#options.link(entry.row);
    }
  }

  #showMore() {
    const before = this.#shown.size;
    this.#limit += this.#options.limit ?? 200;
    this.release();
    this.#body.children[before]?.querySelector("a, button")?.focus();
  }
}

/** A small table that is built once: [title, …] and rows of cells. */
export function plainTable(label, titles, rows, caption = null) {
  return h(
    "div",
    { class: "scroll", role: "group", tabindex: "0", "aria-label": `${label}, can be scrolled` },
    h(
      "table",
      { "aria-label": caption ? null : label },
      caption ? h("caption", {}, caption) : null,
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          titles.map((title) => h("th", { scope: "col" }, title)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((cells) =>
          h(
            "tr",
            {},
            cells.map((cell) => add(h("td", {}), [cell])),
          ),
        ),
      ),
    ),
  );
}
