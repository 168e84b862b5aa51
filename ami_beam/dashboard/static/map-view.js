// The voltage map of all feeders, and of the transformers of one feeder.

import { alarmTable } from "./alarm-table.js";
import { Loader, query as queryText } from "./api.js";
import { Chart } from "./charts.js";
import { h } from "./dom.js";
import { clock, shortened } from "./format.js";
import { MapPanel } from "./map-panel.js";
import { href } from "./router.js";
import { heading, newestWords, section, trail } from "./view.js";
import { refreshAges } from "./words.js";

export function feeders({ store, scope, query, setQuery }) {
  const panel = new MapPanel(scope, { store, feeder: null, query, setQuery });
  return {
    title: "Voltage map",
    nodes: [
      heading("Voltage map"),
      h(
        "p",
        { class: "note" },
        "Feeders by time, the newest window on the right. A feeder has the colour of its worst transformer.",
      ),
      panel.element,
    ],
  };
}

export function feeder({ store, scope, id, query, setQuery }) {
  const panel = new MapPanel(scope, { store, feeder: id, query, setQuery });
  const table = alarmTable(
    scope,
    store,
    "Alarms of the feeder",
    ["severity", "type", "entity", "since", "evidence", "state", "cause", "ack"],
    { limit: 50 },
  );
  const showAlarms = scope.frame(() => {
    const own = [...store.alarms.values()].filter(
      (alarm) => alarm.feeder_id === id || (alarm.entity_kind === "feeder" && alarm.entity_id === id),
    );
    table.update(
      own,
      store.alarmsKnown
        ? `No alarms of this feeder in the last day. ${newestWords(store, clock)}`
        : "Loading the alarms…",
    );
  });
  scope.listen(store, "alarms", showAlarms);
  scope.listen(store, "health", showAlarms);
  showAlarms();
  const charts = feederCharts(scope, store, () => id);
  const alarms = section("Alarms", table.element);
  refreshAges(scope, store, alarms);
  return {
    title: `Feeder ${shortened(id)}`,
    nodes: [
      trail(h("a", { href: href("map") }, "Voltage map")),
      heading(["Feeder ", h("bdi", {}, id)]),
      panel.element,
      alarms,
      section("Over time", charts.nodes),
    ],
  };
}

/** Consumption and extreme voltages of a feeder, or of the system where `feeder()` is null: {nodes, restart()}. */
export function feederCharts(scope, store, feeder, more = []) {
  const consumption = new Chart(scope, {
    title: "Consumption",
    unit: "kWh",
    from: 0,
    series: [
      { label: "consumed", colour: "--series-1", fill: "--series-1-soft" },
      { label: "fed back", colour: "--series-2", dash: [6, 4] },
    ],
  });
  const voltage = new Chart(scope, {
    title: "Voltage of nominal",
    unit: "%",
    series: [
      { label: "highest", colour: "--series-above" },
      { label: "lowest", colour: "--series-below", dash: [6, 4] },
    ],
  });
  const outside = new Chart(scope, {
    title: "Transformers outside of the limits",
    unit: "",
    from: 0,
    series: [
      { label: "below", colour: "--series-below", digits: 0 },
      { label: "above", colour: "--series-above", dash: [6, 4], digits: 0 },
      { label: "silent", colour: "--series-silent", dash: [2, 3], digits: 0 },
    ],
  });
  const loader = new Loader(scope, {
    what: "the numbers over time",
    path: () => `api/series?${queryText({ feeder: feeder() })}`,
    apply: (answer) => {
      consumption.set(answer.windows, [answer.consumption_kwh, answer.received_kwh]);
      voltage.set(answer.windows, [answer.max_voltage_pct, answer.min_voltage_pct]);
      outside.set(answer.windows, [answer.below, answer.above, answer.silent]);
      for (const each of more) each(answer);
    },
    onMissing: () => consumption.set([], []),
    store,
  });
  onMapChange(scope, store, () => loader.load());
  loader.load();
  return {
    nodes: [loader.element, h("div", { class: "charts" }, consumption.element, voltage.element, outside.element)],
    restart: () => loader.restart(),
  };
}

/** Calls `action` when windows or rows have changed. */
export function onMapChange(scope, store, action) {
  let known = store.versions.map;
  scope.listen(store, "versions", () => {
    if (store.versions.map === known) return;
    known = store.versions.map;
    action();
  });
}
