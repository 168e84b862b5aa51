// Dead letters: how many, why, and where the last one is. What is in a record is never shown.

import { Loader } from "./api.js";
import { Chart } from "./charts.js";
import { fill, h, setText } from "./dom.js";
import { NONE, clock, counted, dateTime, number, shortened, zoneName } from "./format.js";
import { lastHour } from "./overview.js";
import { Table } from "./table.js";
import { heading, newestWords, section } from "./view.js";

const DRAWN = 5;
const COLOURS = ["--series-1", "--series-2", "--series-3", "--series-4", "--series-5", "--series-silent"];

export default function letters({ store, scope }) {
  const summary = h("p", { class: "note", role: "status" });
  const picture = h("div", {});
  const table = reasonTable(scope);
  let chart = null;
  let drawn = "";
  const loader = new Loader(scope, { what: "the dead letters", path: () => "api/letters", apply: show, store });

  function show(answer) {
    const [count] = lastHour(answer);
    setText(summary, `${counted(answer.total, "dead letter")} in all, ${number(count)} in the last hour.`);
    table.update(answer.reasons, `No dead letters. ${newestWords(store, clock)}`);
    draw(answer);
  }

  // The reasons of a chart are those of its first time: another set of them is another chart.
  function draw({ minutes, reasons, step_seconds: step }) {
    const recent = reasons.filter(({ counts }) => counts.some((count) => count > 0));
    const names = recent
      .slice(0, DRAWN)
      .map(({ reason }) => reason)
      .sort();
    const others = recent.filter(({ reason }) => !names.includes(reason));
    const key = JSON.stringify([names, others.length > 0, step]);
    if (key !== drawn) {
      drawn = key;
      chart?.scope.close();
      chart = names.length ? makeChart(scope, names, others.length > 0, step) : null;
      fill(picture, chart?.chart.element ?? h("p", { class: "empty" }, "No dead letters in the last two hours."));
    }
    if (!chart) return;
    const columns = names.map((name) => recent.find(({ reason }) => reason === name).counts);
    if (others.length) columns.push(minutes.map((_, at) => others.reduce((sum, { counts }) => sum + counts[at], 0)));
    chart.chart.set(minutes, columns);
  }

  let known = store.versions.letters;
  scope.listen(store, "versions", () => {
    if (store.versions.letters === known) return;
    known = store.versions.letters;
    loader.load();
  });
  // Time goes on without letters too.
  scope.every(60_000, () => loader.load());
  loader.load();
  return {
    title: "Dead letters",
    nodes: [
      heading("Dead letters"),
      loader.element,
      summary,
      section("Over the last two hours", picture),
      section("By reason", table.element),
    ],
  };
}

function makeChart(scope, names, others, step) {
  const own = scope.child();
  const series = names.map((name, at) => ({ label: shortened(name, 40), colour: COLOURS[at], digits: 0 }));
  if (others) series.push({ label: "other reasons", colour: COLOURS.at(-1), digits: 0 });
  const title = step === 60 ? "Dead letters a minute" : `Dead letters in ${number(step / 60)} minutes`;
  return { scope: own, chart: new Chart(own, { title, unit: "", from: 0, stack: true, series }) };
}

function reasonTable(scope) {
  return new Table(scope, {
    label: "Dead letters by reason",
    columns: [
      { key: "reason", title: "Reason", cell: ({ reason }) => h("bdi", {}, reason), className: "name" },
      { key: "total", title: "Total", cell: ({ total }) => number(total), className: "num" },
      { key: "used", title: "Still used", cell: ({ used }) => number(used), className: "num" },
      {
        key: "place",
        title: "Last: topic/partition/offset",
        cell: ({ last }) => (last ? h("bdi", {}, `${last.topic}/${last.partition}/${last.offset}`) : NONE),
        className: "name",
      },
      {
        key: "at",
        title: `Arrived (${zoneName()})`,
        cell: ({ last }) => (last ? dateTime(last.record_time) : NONE),
        className: "tight",
      },
      {
        key: "detail",
        title: "Detail",
        cell: ({ last }) => (last?.detail ? h("bdi", { title: last.detail }, shortened(last.detail, 160)) : NONE),
      },
    ],
    key: ({ reason }) => reason,
    version: JSON.stringify,
    rowHeads: true,
  });
}
