// One transformer over time, its alarms, and the reads of its meters on demand.

import { alarmTable } from "./alarm-table.js";
import { alertTable } from "./alarm.js";
import { ApiError, Loader, query, request } from "./api.js";
import { Chart } from "./charts.js";
import { facts, fill, h, labelled, select, setText } from "./dom.js";
import { NONE, clock, counted, dateTime, number, quantity, shortened, span, zoneName } from "./format.js";
import { onMapChange } from "./map-view.js";
import { encoded, href } from "./router.js";
import { Table } from "./table.js";
import { heading, newestWords, section, trail } from "./view.js";
import { feederLink, refreshAges } from "./words.js";

const READS_TIMEOUT_MS = 180_000;

export default function transformer({ store, scope, id }) {
  const head = h("div", {});
  const links = trail(h("a", { href: href("map") }, "Voltage map"));
  const missing = h("p", { class: "empty", hidden: true });
  const voltage = new Chart(scope, {
    title: "Voltage",
    unit: "V",
    height: 16,
    series: [
      { label: "highest", colour: "--series-above" },
      { label: "average", colour: "--series-1", width: 2, band: "--band" },
      { label: "lowest", colour: "--series-below", band: "--band" },
      { label: "high limit", colour: "--limit", dash: [8, 5] },
      { label: "low limit", colour: "--limit", dash: [3, 4] },
    ],
  });
  const consumption = new Chart(scope, {
    title: "Consumption",
    unit: "kWh",
    from: 0,
    series: [{ label: "consumed", colour: "--series-1", fill: "--series-1-soft", digits: 2 }],
  });
  const receipt = new Chart(scope, {
    title: "Receipt rate",
    unit: "%",
    from: 0,
    to: 100,
    series: [{ label: "received", colour: "--series-2" }],
  });
  const revised = h("p", { class: "note" });
  const alarms = alarmTable(
    scope,
    store,
    "Alarms of the transformer",
    ["severity", "type", "since", "lasts", "evidence", "state", "cause", "revised", "ack"],
    { limit: 50 },
  );
  const alerts = alertTable(scope, store, "Alerts of the transformer");
  const body = h("div", { hidden: true });

  const loader = new Loader(scope, {
    what: "the transformer",
    path: () => `api/transformers/${encoded(id)}`,
    apply: (answer) => {
      missing.hidden = true;
      body.hidden = false;
      show(answer);
    },
    onMissing: (message) => {
      body.hidden = true;
      missing.hidden = false;
      setText(missing, message);
    },
    store,
  });

  function show(answer) {
    const { windows } = answer;
    fill(
      links,
      h("a", { href: href("map") }, "Voltage map"),
      answer.feeders.length ? " › " : "",
      answer.feeders.flatMap((feeder, at) => [at ? ", " : "", feederLink(feeder)]),
    );
    fill(
      head,
      facts(
        [
          [
            "Feeder",
            answer.feeders.length ? answer.feeders.flatMap((feeder, at) => [at ? ", " : "", feederLink(feeder)]) : NONE,
          ],
          ["Nominal voltage", quantity(answer.nominal_voltage_v, "V")],
          ["Low limit", quantity(answer.low_voltage_v, "V")],
          ["High limit", quantity(answer.high_voltage_v, "V")],
          ["Newest window", windows.length ? `${dateTime(windows.at(-1))} ${zoneName()}` : NONE],
          [
            "Meters heard",
            windows.length ? `${number(answer.meters_reported.at(-1))} of ${number(answer.total_meters.at(-1))}` : null,
          ],
        ],
        "facts across",
      ),
    );
    const line = (value) => windows.map(() => value);
    voltage.set(
      windows,
      [
        answer.max_voltage_v,
        answer.avg_voltage_v,
        answer.min_voltage_v,
        line(answer.high_voltage_v),
        line(answer.low_voltage_v),
      ],
      answer.revised,
    );
    consumption.set(windows, [answer.consumption_kwh], answer.revised);
    receipt.set(windows, [answer.receipt_pct], answer.revised);
    const again = windows.filter((_, at) => answer.revised[at]);
    setText(
      revised,
      again.length
        ? `◥ marks windows that were revised after they were first published: ${revisedWords(again)}.`
        : "No window was revised after it was first published.",
    );
    alarms.update(answer.alarms, `No alarms of this transformer. ${newestWords(store, clock)}`);
    alerts.update([...answer.alerts].reverse(), "No alerts of this transformer.");
  }

  onMapChange(scope, store, () => loader.load());
  scope.listen(store, "alarms", ({ detail }) => {
    if (detail.full || [...detail.ids].some((each) => store.alarms.get(each)?.entity_id === id)) loader.load();
  });
  loader.load();
  const reads = new Reads(scope, store, id);
  const list = section("Alarms", alarms.element);
  body.append(
    head,
    h("div", { class: "charts" }, voltage.element, consumption.element, receipt.element),
    revised,
    list,
    section("Alerts", alerts.element),
    section("Reads of its meters", reads.element),
  );
  refreshAges(scope, store, list);
  return {
    title: `Transformer ${shortened(id)}`,
    nodes: [links, heading(["Transformer ", h("bdi", {}, id)]), loader.element, missing, body],
  };
}

function revisedWords(windows) {
  const times = windows.slice(-6).map((window) => clock(window));
  return windows.length > times.length
    ? `${counted(windows.length, "window")}, the last ones ${times.join(", ")}`
    : times.join(", ");
}

/** Asks the topic of reads, once per press of the button: it may take long, and nobody asks for it again by itself. */
class Reads {
  #scope;
  #store;
  #id;
  #asking = null;
  #button = h("button", { type: "button", on: { click: () => this.#toggle() } }, "Load its meters' reads");
  #windows = "4";
  #status = h("p", { class: "note", role: "status" });
  #error = h("p", { class: "error", role: "alert" });
  #table = null;
  #box = h("div", {});

  constructor(scope, store, id) {
    this.#scope = scope;
    this.#store = store;
    this.#id = id;
    const choices = ["4", "12", "96"].map((count) => [count, count]);
    this.element = h(
      "div",
      {},
      h(
        "div",
        { class: "controls-row" },
        labelled(
          "Windows",
          select(choices, this.#windows, (count) => (this.#windows = count)),
        ),
        this.#button,
      ),
      this.#status,
      this.#error,
      this.#box,
    );
    scope.onClose(() => this.#asking?.abort());
  }

  #toggle() {
    if (this.#asking) this.#asking.abort();
    else this.#load();
  }

  async #load() {
    const asking = (this.#asking = new AbortController());
    setText(this.#button, "Stop looking");
    setText(this.#error, "");
    setText(this.#status, "Looking through the topic of reads; this may take some seconds.");
    try {
      const path = `api/transformers/${encoded(this.#id)}/reads?${query({ windows: this.#windows })}`;
      this.#show(await request(path, { signal: asking.signal, timeout: READS_TIMEOUT_MS }));
    } catch (problem) {
      setText(this.#status, "");
      if (!asking.signal.aborted) setText(this.#error, readsProblem(problem));
      else setText(this.#status, "Stopped.");
    } finally {
      this.#asking = null;
      setText(this.#button, "Load its meters' reads");
    }
  }

  #show(answer) {
    if (this.#scope.closed) return;
    const parts = [
      `${counted(answer.searched, "record")} looked through`,
      `${counted(answer.reads.length, "read")} from ${dateTime(answer.from)} to ${dateTime(answer.to)} ${zoneName()}`,
    ];
    if (answer.omitted) parts.push(`${number(answer.omitted)} more are not shown`);
    if (!answer.complete) parts.push(`not all of them${answer.why ? `: ${answer.why}` : ""}`);
    setText(this.#status, `${parts.join("; ")}.`);
    if (!this.#table) {
      this.#table = readTable(this.#scope, this.#store);
      this.#box.append(this.#table.element);
    }
    this.#table.update(answer.reads, "No reads of its meters in these windows.");
    this.#table.release();
  }
}

function readsProblem(problem) {
  if (!(problem instanceof ApiError)) return "The reads cannot be shown.";
  if (problem.status === 429)
    return `${problem.message} Somebody else is looking through the topic at the moment: try again soon.`;
  return `The reads cannot be loaded: ${problem.message}`;
}

function readTable(scope, store) {
  const number_ = (key, unit, digits) => (read) => quantity(read[key], unit, digits);
  const columns = [
    { key: "meter", title: "Meter", cell: (read) => h("bdi", {}, read.meter_id), className: "name" },
    {
      key: "interval",
      title: `Interval (${zoneName()})`,
      cell: (read) => `${dateTime(read.interval_start).slice(0, 10)} ${span(read.interval_start, read.interval_end)}`,
      className: "tight",
    },
    { key: "consumption", title: "Consumption", cell: number_("consumption_kwh", "kWh", 3), className: "num" },
    { key: "delivered", title: "Delivered", cell: number_("delivered_kwh", "kWh", 3), className: "num" },
    { key: "received", title: "Received", cell: number_("received_kwh", "kWh", 3), className: "num" },
    { key: "voltage", title: "Voltage", cell: number_("voltage_v", "V", 1), className: "num" },
    { key: "estimated", title: "Estimated", cell: (read) => (read.estimated ? "yes" : "no"), className: "tight" },
    { key: "read_ts", title: "Read at", cell: (read) => dateTime(read.read_ts), className: "tight" },
    { key: "record_time", title: "Arrived at", cell: (read) => dateTime(read.record_time), className: "tight" },
    { key: "place", title: "Partition/offset", cell: (read) => `${read.partition}/${read.offset}`, className: "tight" },
  ];
  if (store.hello?.show_customers)
    columns.splice(1, 0, {
      key: "customer",
      title: "Customer",
      cell: (read) => h("bdi", {}, read.customer_id ?? NONE),
      className: "name",
    });
  return new Table(scope, {
    label: "Reads",
    columns,
    key: (read) => `${read.partition}/${read.offset}/${read.interval_end}`,
    limit: 200,
    className: "tall",
  });
}
