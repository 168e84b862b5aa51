// How much of what should be read is read: over time, over the feeders, and where it is least.

import { Chart } from "./charts.js";
import { h, labelled, setText } from "./dom.js";
import { byName, clock, number, quantity } from "./format.js";
import { MapPanel, lowestReceipt } from "./map-panel.js";
import { feederCharts } from "./map-view.js";
import { href } from "./router.js";
import { Table } from "./table.js";
import { heading, newestWords, section } from "./view.js";

const LOWEST = 20;
const MOST_OFFERED = 1000;

export default function receipt({ store, scope, query, setQuery }) {
  let feeder = query.get("feeder") || null;
  const chart = new Chart(scope, {
    title: "Receipt rate",
    unit: "%",
    from: 0,
    to: 100,
    series: [{ label: "received", colour: "--series-2", width: 2 }],
  });
  const over = feederCharts(scope, store, () => feeder, [(answer) => chart.set(answer.windows, [answer.receipt_pct])]);
  const names = h("datalist", { id: "receipt-feeders" });
  const unknown = h("p", { class: "note", role: "status" });
  const choice = h("input", {
    type: "search",
    list: "receipt-feeders",
    autocomplete: "off",
    spellcheck: "false",
    value: feeder ?? "",
    placeholder: "the whole system",
    on: {
      // A name in full is taken at once; what is none is said when the box is left.
      input: () => (!choice.value || known.has(choice.value)) && choose(choice.value || null),
      change: () => choose(choice.value.trim() || null),
    },
  });
  const lowest = new Table(scope, {
    label: "Feeders with the lowest receipt rate now",
    columns: [
      {
        key: "feeder",
        title: "Feeder",
        cell: ({ id }) => h("a", { href: href("feeder", id, { metric: "receipt" }) }, h("bdi", {}, id)),
        className: "name",
      },
      { key: "rate", title: "Receipt rate", cell: ({ pct }) => quantity(pct, "%"), className: "num" },
      { key: "silent", title: "Silent transformers", cell: ({ silent }) => number(silent), className: "num" },
    ],
    key: ({ id }) => id,
    version: JSON.stringify,
    rowHeads: true,
  });
  let known = new Set();
  let namesOf = null;
  const panel = new MapPanel(scope, { store, feeder: null, metric: "receipt", fixedMetric: true, onRows: showRows });

  function choose(name) {
    if (name !== null && !known.has(name)) {
      setText(unknown, "No feeder has this name; choose one of the list.");
      return;
    }
    setText(unknown, "");
    if (feeder === name) return;
    feeder = name;
    setQuery({ feeder: feeder ?? "" });
    over.restart();
  }

  function showRows(model) {
    const rows = lowestReceipt(model, LOWEST).map((row) => ({
      id: model.rows[row].id,
      pct: model.now[row].receipt_pct,
      silent: model.now[row].silent,
    }));
    lowest.update(rows, `No receipt rates yet. ${newestWords(store, clock)}`);
    if (namesOf === model.rowsVersion) return;
    namesOf = model.rowsVersion;
    known = new Set(model.rows.map(({ id }) => id));
    names.replaceChildren(
      ...[...known]
        .sort(byName)
        .slice(0, MOST_OFFERED)
        .map((id) => h("option", { value: id })),
    );
  }

  return {
    title: "Receipt rate",
    nodes: [
      heading("Receipt rate"),
      h("div", { class: "controls-row" }, labelled("Feeder", choice), names),
      unknown,
      section("Over time", chart.element),
      section("By feeder", panel.element),
      section("Lowest now", lowest.element),
      section("More over time", over.nodes),
    ],
  };
}
