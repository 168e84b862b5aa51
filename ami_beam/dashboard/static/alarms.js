// All alarms, with filters that are part of the address.

import { alarmTable } from "./alarm-table.js";
import { fill, h, labelled, select, setText } from "./dom.js";
import { byName, clock, counted, number, shortened } from "./format.js";
import { heading, newestWords } from "./view.js";
import { causeLink, refreshAges, typesOf } from "./words.js";

const STATES = [
  ["active", "Active"],
  ["cleared", "Cleared"],
  ["all", "All"],
];
const SEVERITIES = [
  ["", "All"],
  ["critical", "Critical"],
  ["warning", "Warning"],
];
const COLUMNS = [
  "severity",
  "type",
  "entity",
  "feeder",
  "since",
  "lasts",
  "evidence",
  "state",
  "cause",
  "explains",
  "revised",
  "ack",
];
const MOST_OFFERED = 500;

/** Whether an alarm is wanted, apart from whether another explains it. `feeders`: the names that are known. */
export function wanted(alarm, filters, feeders) {
  if (filters.state === "active" && alarm.state !== "ACTIVE") return false;
  if (filters.state === "cleared" && alarm.state !== "CLEARED") return false;
  if (filters.type && alarm.type !== filters.type) return false;
  if (filters.severity && alarm.severity.toLowerCase() !== filters.severity) return false;
  if (filters.cause && alarm.cause !== filters.cause) return false;
  if (!filters.feeder) return true;
  const feeder = alarm.feeder_id ?? (alarm.entity_kind === "feeder" ? alarm.entity_id : "");
  // A name in full is that feeder alone: F1 is not also F10.
  if (feeders.has(filters.feeder)) return feeder === filters.feeder;
  return feeder.toLowerCase().includes(filters.feeder.toLowerCase());
}

export default function alarms({ store, scope, query, setQuery }) {
  const filters = {
    state: STATES.some(([key]) => key === query.get("state")) ? query.get("state") : "active",
    type: query.get("type") ?? "",
    severity: SEVERITIES.some(([key]) => key === query.get("severity")) ? query.get("severity") : "",
    feeder: query.get("feeder") ?? "",
    cause: query.get("cause") ?? "",
    explained: query.get("explained") === "1" || query.has("cause"),
  };
  const table = alarmTable(scope, store, "Alarms", COLUMNS, { className: "tall" });
  const summary = h("p", { class: "note", role: "status" });
  const render = scope.frame(() => show());

  const set = (name, value) => {
    filters[name] = value;
    setQuery({
      state: filters.state === "active" ? "" : filters.state,
      type: filters.type,
      severity: filters.severity,
      feeder: filters.feeder,
      cause: filters.cause,
      explained: filters.explained && !filters.cause ? "1" : "",
    });
    table.release();
    render();
  };
  const types = select([["", "All"]], "", (type) => set("type", type));
  const feeders = h("datalist", { id: "feeders" });
  const feeder = h("input", {
    type: "search",
    list: "feeders",
    autocomplete: "off",
    spellcheck: "false",
    value: filters.feeder,
    on: { input: () => set("feeder", feeder.value.trim()) },
  });
  const explained = h("input", {
    type: "checkbox",
    checked: filters.explained,
    on: { change: () => set("explained", explained.checked) },
  });
  const cause = h("p", { class: "note", hidden: true });
  let offered = "";
  let known = new Set();

  // Lists of choices change only when there are other choices: an open one must not close.
  function offer() {
    const seen = new Set(filters.type ? [filters.type] : []);
    known = new Set();
    for (const alarm of store.alarms.values()) {
      seen.add(alarm.type);
      if (alarm.feeder_id !== null) known.add(alarm.feeder_id);
    }
    const names = [...known].sort(byName).slice(0, MOST_OFFERED);
    const choices = [["", "All"], ...typesOf(store, seen)];
    const key = JSON.stringify([choices, names]);
    if (key === offered) return;
    offered = key;
    fill(
      types,
      choices.map(([value, words]) => h("option", { value }, words)),
    );
    types.value = filters.type;
    fill(
      feeders,
      names.map((name) => h("option", { value: name })),
    );
  }

  function show() {
    offer();
    const matching = [...store.alarms.values()].filter((alarm) => wanted(alarm, filters, known));
    const shown = filters.explained ? matching : matching.filter((alarm) => alarm.cause === null);
    const hidden = matching.length - shown.length;
    const words = [counted(shown.length, "alarm")];
    if (hidden) words.push(`${number(hidden)} hidden that another explains`);
    if (store.alarmsOmitted) words.push(`${number(store.alarmsOmitted)} more are not sent to this page`);
    setText(summary, `${words.join(", ")}.`);
    table.update(shown, emptyWords(hidden));
    cause.hidden = !filters.cause;
    if (filters.cause && !cause.hasChildNodes()) {
      const all = h("button", { type: "button", on: { click: () => set("cause", "") } }, "Show the others too");
      fill(cause, "Only those whose cause is ", causeLink(store, filters.cause), ". ", all);
    }
  }

  function emptyWords(hidden) {
    if (!store.alarmsKnown) return "Loading the alarms…";
    const filtered = filters.type || filters.severity || filters.feeder || filters.cause;
    if (hidden) {
      return `Another alarm explains ${number(hidden)}. Tick “Also those that another explains” to see them.`;
    }
    const where = filters.feeder ? ` (feeder ${shortened(filters.feeder, 30)})` : "";
    if (filtered) return `No alarms with these filters${where}.`;
    const words = {
      active: "No active alarms.",
      cleared: "No alarms were cleared in the last day.",
      all: "No alarms.",
    }[filters.state];
    return `${words} ${newestWords(store, clock)}`;
  }

  scope.listen(store, "alarms", render);
  scope.listen(store, "health", render);
  scope.listen(store, "hello", render);
  render();
  const controls = h(
    "div",
    { class: "controls-row", role: "group", "aria-label": "Filters" },
    labelled(
      "State",
      select(STATES, filters.state, (state) => set("state", state)),
    ),
    labelled("Type", types),
    labelled(
      "Severity",
      select(SEVERITIES, filters.severity, (severity) => set("severity", severity)),
    ),
    labelled("Feeder", feeder),
    feeders,
    h("label", { class: "check" }, explained, " Also those that another explains"),
  );
  refreshAges(scope, store, table.element);
  return { title: "Alarms", nodes: [heading("Alarms"), controls, cause, summary, table.element] };
}
