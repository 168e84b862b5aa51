// The pipeline itself: whether it goes on, how far it is, how long things take.

import { Loader } from "./api.js";
import { facts, fill, h, liveFacts, setText } from "./dom.js";
import { NONE, dateTime, duration, humanized, number, quantity, zoneName } from "./format.js";
import { onMapChange } from "./map-view.js";
import { Table } from "./table.js";
import { heading, section } from "./view.js";

const STATUS = { ok: "Live", stale: "Stale", starting: "Starting", disconnected: "Kafka does not answer" };

export default function health({ store, scope }) {
  const status = h("strong", {});
  const why = h("span", {});
  const numbers = liveFacts([
    "Newest window",
    "Age of the newest window",
    "Result delay (median)",
    "As of",
    "Watermark lag",
    "Reads per second",
    "Rows per second",
    "Feeders",
    "Transformers",
    "Windows kept",
    "Memory of the server",
    "Version",
  ]);
  const flink = liveFacts(["Job", "State", "Age of the last checkpoint"]);
  const noFlink = h(
    "p",
    { class: "empty" },
    "No Flink cluster is asked. With --flink=HOST:PORT the server shows how its job is.",
  );
  const topics = topicTable(scope);
  const delays = new Delays();
  const loader = new Loader(scope, {
    what: "the delays",
    path: () => "api/health",
    apply: (answer) => delays.show(answer.delays),
    store,
  });
  const moment = (at) => (at === null ? NONE : `${dateTime(at)} ${zoneName()}`);

  const show = scope.frame(() => {
    const now = store.health;
    setText(status, now ? (STATUS[now.status] ?? humanized(now.status)) : "Not known yet");
    setText(
      why,
      now
        ? `${now.message ? `: ${now.message}` : ""}${now.since ? ` Since ${moment(now.since)}.` : ""}`
        : ": the server has not said how the pipeline is.",
    );
    if (!now) return;
    numbers.set([
      moment(now.newest_window_end),
      duration(now.window_age_seconds),
      duration(now.result_delay_seconds),
      moment(now.as_of),
      duration(now.watermark_lag_seconds),
      number(now.reads_per_second, 1),
      number(now.rows_per_second, 1),
      number(now.feeders),
      number(now.transformers),
      number(now.windows),
      quantity(now.memory_mb, "MB", 0),
      store.hello?.version ?? NONE,
    ]);
    topics.update(now.topics, "No topics are read yet.");
    noFlink.hidden = now.flink !== null;
    flink.element.hidden = now.flink === null;
    if (now.flink) flink.set([now.flink.job, now.flink.state, duration(now.flink.checkpoint_age_seconds)]);
  });
  scope.listen(store, "health", show);
  scope.listen(store, "hello", show);
  onMapChange(scope, store, () => loader.load());
  loader.load();
  show();
  return {
    title: "Pipeline",
    nodes: [
      heading("Pipeline"),
      h("p", { class: "status-line" }, status, why),
      numbers.element,
      section("Topics", topics.element),
      section("Flink job", noFlink, flink.element),
      section(
        "Collection delay",
        h(
          "p",
          { class: "note" },
          "How long after the end of the newest window the last read that counts has arrived, by transformers.",
        ),
        loader.element,
        delays.element,
      ),
    ],
  };
}

function topicTable(scope) {
  return new Table(scope, {
    label: "Topics",
    columns: [
      { key: "topic", title: "Topic", cell: ({ topic }) => h("bdi", {}, topic), className: "name" },
      { key: "partitions", title: "Partitions", cell: ({ partitions }) => number(partitions), className: "num" },
      { key: "behind", title: "Records not read yet", cell: ({ behind }) => number(behind), className: "num" },
      {
        key: "problem",
        title: "Problem",
        cell: ({ problem }) => (problem === null ? "none" : h("span", { class: "error" }, problem)),
      },
    ],
    key: ({ topic }) => topic,
    version: JSON.stringify,
    rowHeads: true,
  });
}

/** A histogram as a table with bars: its numbers can be read by everybody. */
class Delays {
  #percentiles = h("div", {});
  #table = h("tbody", {});
  #rows = [];
  #empty = h("p", { class: "empty" }, "No window yet.");
  #scroll = h(
    "div",
    { class: "scroll", role: "group", tabindex: "0", "aria-label": "Collection delay, can be scrolled", hidden: true },
    h(
      "table",
      { class: "histogram", "aria-label": "Collection delay" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "Delay"),
          h("th", { scope: "col", class: "num" }, "Transformers"),
          h("th", { scope: "col" }, "Share"),
        ),
      ),
      this.#table,
    ),
  );
  element = h("div", {}, this.#percentiles, this.#empty, this.#scroll);

  show(delays) {
    const total = delays ? delays.counts.reduce((sum, count) => sum + count, 0) : 0;
    this.#empty.hidden = total > 0;
    this.#scroll.hidden = total === 0;
    fill(this.#percentiles);
    if (!total) return;
    const { bounds_seconds: bounds, counts } = delays;
    this.#percentiles.append(
      facts(
        ["p50", "p90", "p99"].map((key) => [key, duration(delays[key])]),
        "facts across",
      ),
    );
    const most = Math.max(...counts);
    if (this.#rows.length !== counts.length) this.#make(counts.length);
    counts.forEach((count, at) => {
      const { range, number: cell, bar, share } = this.#rows[at];
      setText(range, bound(bounds[at], bounds[at + 1]));
      setText(cell, number(count));
      setText(share, `${number((100 * count) / total, 1)} %`);
      bar.style.width = `${(100 * count) / most}%`;
    });
  }

  #make(count) {
    this.#rows = Array.from({ length: count }, () => {
      const row = {
        range: h("th", { scope: "row" }),
        number: h("td", { class: "num" }),
        bar: h("span", { class: "bar-fill" }),
        share: h("span", { class: "bar-text" }),
      };
      row.element = h("tr", {}, row.range, row.number, h("td", { class: "bar-cell" }, row.bar, row.share));
      return row;
    });
    this.#table.replaceChildren(...this.#rows.map(({ element }) => element));
  }
}

function bound(from, to) {
  if (from === null || from === undefined) return `up to ${duration(to)}`;
  if (to === null || to === undefined) return `${duration(from)} or more`;
  return `${duration(from)} to ${duration(to)}`;
}
