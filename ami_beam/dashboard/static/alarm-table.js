// The table of alarms, as several views show it.

import { h, spoken } from "./dom.js";
import { byName, zoneName } from "./format.js";
import { href } from "./router.js";
import { began, byUrgency } from "./state.js";
import { Table } from "./table.js";
import {
  acknowledged,
  age,
  causeLink,
  entityLink,
  evidence,
  feederLink,
  revisedMark,
  severity,
  since,
  stateWords,
  typeWords,
} from "./words.js";

const byText = (one, other) => (one < other ? -1 : one > other ? 1 : 0);

/** All columns, by key. */
function columns(store) {
  return {
    severity: {
      title: "Severity",
      cell: severity,
      className: "tight",
      order: (one, other) => byText(one.severity, other.severity) || byUrgency(one, other),
    },
    type: {
      title: "Type",
      cell: (alarm) => h("a", { href: href("alarm", alarm.id) }, typeWords(store, alarm.type)),
      order: (one, other) => byName(typeWords(store, one.type), typeWords(store, other.type)) || byUrgency(one, other),
    },
    entity: {
      title: "Entity",
      cell: (alarm) => entityLink(alarm),
      className: "name",
      order: (one, other) => byName(one.entity_id, other.entity_id),
    },
    feeder: {
      title: "Feeder",
      cell: (alarm) => feederLink(alarm.feeder_id),
      className: "name",
      order: (one, other) => byName(one.feeder_id ?? "", other.feeder_id ?? "") || byUrgency(one, other),
    },
    since: {
      title: `Since (${zoneName()})`,
      cell: since,
      className: "tight",
      order: (one, other) => byText(began(one), began(other)),
    },
    lasts: {
      title: "Lasts",
      cell: (alarm) =>
        age(store, began(alarm), alarm.state === "CLEARED" ? (alarm.ended_at ?? alarm.last_window) : null),
      className: "tight num",
    },
    evidence: { title: "Evidence", cell: evidence },
    state: {
      title: "State",
      cell: stateWords,
      className: "tight",
      order: (one, other) => byText(one.state, other.state) || byUrgency(one, other),
    },
    cause: { title: "Cause", cell: (alarm) => causeLink(store, alarm.cause), className: "name" },
    explains: {
      title: "Explains",
      cell: (alarm) =>
        alarm.explains
          ? h(
              "a",
              { href: href("alarms", null, { cause: alarm.id, state: "all" }) },
              String(alarm.explains),
              spoken(" alarms"),
            )
          : "",
      className: "num",
    },
    revised: { title: "Revised", cell: (alarm) => revisedMark(alarm.revised, alarm.revision), className: "tight" },
    ack: {
      title: "Acknowledged by",
      cell: (alarm) => acknowledged(alarm.ack),
      className: "name",
      order: (one, other) => byText(one.ack?.user ?? "", other.ack?.user ?? "") || byUrgency(one, other),
    },
  };
}

/** A table of alarms with the columns of these keys, the most urgent first; rows lead to the alarm. */
export function alarmTable(scope, store, label, keys, options = {}) {
  const all = columns(store);
  return new Table(scope, {
    label,
    columns: keys.map((key) => ({ key, ...all[key] })),
    key: (alarm) => alarm.id,
    // The words of a cause come with the alarm that it is.
    version: (alarm) => `${JSON.stringify(alarm)}${alarm.cause !== null && store.alarms.has(alarm.cause)}`,
    link: (alarm) => href("alarm", alarm.id),
    rowClass: (alarm) =>
      `${alarm.state === "ACTIVE" ? "active" : "over"} ${alarm.severity === "CRITICAL" ? "critical" : "warning"}`,
    order: byUrgency,
    marks: true,
    ...options,
  });
}
