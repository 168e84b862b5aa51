// Outages: what is out, what was, and what is announced.

import { alarmTable } from "./alarm-table.js";
import { Loader } from "./api.js";
import { h } from "./dom.js";
import { NONE, clock, counted, dateTime, number, zoneName } from "./format.js";
import { href } from "./router.js";
import { isOutage } from "./state.js";
import { Table } from "./table.js";
import { heading, newestWords, section } from "./view.js";
import { announcementKind, entityLink, refreshAges, typeWords } from "./words.js";

const NAMED = 3;

export default function outages({ store, scope }) {
  const active = alarmTable(scope, store, "Active outages", [
    "severity",
    "type",
    "entity",
    "feeder",
    "since",
    "lasts",
    "evidence",
    "cause",
    "explains",
    "ack",
  ]);
  const recent = alarmTable(
    scope,
    store,
    "Outages of the last day",
    ["severity", "type", "entity", "feeder", "since", "lasts", "evidence", "state", "cause"],
    { limit: 100 },
  );
  const announced = announcedTable(scope, store);
  let answer = null;
  const loader = new Loader(scope, {
    what: "the outages",
    path: () => "api/outages",
    apply: (told) => {
      answer = told;
      show();
    },
    store,
  });

  function show() {
    active.update(answer.active, `No outages. ${newestWords(store, clock)}`);
    recent.update(answer.recent, "No outages have ended in the last day.");
    showAnnounced();
  }

  // By cause, once: announcements may be many and alarms thousands.
  function showAnnounced() {
    const held = new Map();
    for (const alarm of store.alarms.values()) {
      if (alarm.cause === null || alarm.state !== "ACTIVE") continue;
      if (!held.has(alarm.cause)) held.set(alarm.cause, []);
      held.get(alarm.cause).push(alarm);
    }
    const rows = answer.announced.map((each) => ({ ...each, held: held.get(each.name) ?? [] }));
    announced.update(
      rows,
      "Nothing is announced. Announcements come from the topics of the options --oms_outages and --work.",
    );
  }

  let known = store.versions.announced;
  scope.listen(store, "versions", () => {
    if (store.versions.announced === known) return;
    known = store.versions.announced;
    loader.load();
  });
  scope.listen(store, "alarms", ({ detail }) => {
    // What has been removed may have been an outage too.
    if (detail.full || [...detail.ids].some((id) => !store.alarms.has(id) || isOutage(store.alarms.get(id))))
      loader.load();
    else if (answer) showAnnouncedSoon();
  });
  const showAnnouncedSoon = scope.frame(showAnnounced);
  loader.load();
  const parts = h(
    "div",
    {},
    section("Active", active.element),
    section("Recent", recent.element),
    section("Announced", announced.element),
  );
  refreshAges(scope, store, parts);
  return { title: "Outages", nodes: [heading("Outages"), loader.element, parts] };
}

function announcedTable(scope, store) {
  const holds = ({ name, held, explains }) => {
    const links = held
      .slice(0, NAMED)
      .map((alarm) =>
        h("li", {}, h("a", { href: href("alarm", alarm.id) }, `${typeWords(store, alarm.type)}: ${alarm.entity_id}`)),
      );
    if (held.length > NAMED)
      links.push(h("li", {}, h("a", { href: href("alarms", null, { cause: name }) }, `all ${number(held.length)}`)));
    if (links.length) return h("ul", { class: "plain" }, links);
    return explains ? counted(explains, "alarm") : "none";
  };
  return new Table(scope, {
    label: "Announced outages and work",
    columns: [
      { key: "name", title: "Name", cell: ({ name }) => h("bdi", {}, name), className: "name" },
      { key: "kind", title: "Kind", cell: ({ kind }) => announcementKind(kind), className: "tight" },
      {
        key: "entity",
        title: "Entity",
        cell: (each) => entityLink(each, each.entity_type?.toLowerCase()),
        className: "name",
      },
      { key: "from", title: `From (${zoneName()})`, cell: ({ from }) => dateTime(from), className: "tight" },
      {
        key: "to",
        title: `To (${zoneName()})`,
        cell: ({ to }) => (to === null ? NONE : dateTime(to)),
        className: "tight",
      },
      { key: "holds", title: "Holds", cell: holds },
    ],
    key: ({ name, kind, entity_id: id, from }) => JSON.stringify([name, kind, id, from]),
    version: (each) => JSON.stringify(each),
    limit: 100,
  });
}
