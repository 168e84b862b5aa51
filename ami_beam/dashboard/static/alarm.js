// One alarm: everything of it, what explains it, its revisions, the alerts behind it, and the acknowledgement.

import { alarmTable } from "./alarm-table.js";
import { ApiError, Loader, request } from "./api.js";
import { facts, fill, h, labelled, setText, spoken, symbol } from "./dom.js";
import { NONE, counted, dateTime, number, quantity, shortened, zoneName } from "./format.js";
import { encoded, href } from "./router.js";
import { began } from "./state.js";
import { Table } from "./table.js";
import { heading, section, trail } from "./view.js";
import {
  age,
  announcementKind,
  causeLink,
  entityLink,
  evidence,
  feederLink,
  refreshAges,
  severity,
  stateWords,
  typeWords,
} from "./words.js";

const MOST_LETTERS = 500;
/** Comments that were begun, by alarm: they outlive the view, so that nothing typed is lost. At most 50. */
const drafts = new Map();

export default function alarm({ store, scope, id, setTitle }) {
  const head = heading("Alarm");
  const title = head.firstElementChild;
  const state = h("p", { class: "alarm-state" });
  const details = h("div", { class: "panels" });
  const missing = h("p", { class: "empty", hidden: true });
  const rest = h("div", { hidden: true });
  const revisions = revisionTable(scope, store);
  const explained = alarmTable(
    scope,
    store,
    "Alarms that it explains",
    ["severity", "type", "entity", "since", "evidence", "state"],
    { limit: 50 },
  );
  const alerts = alertTable(scope, store, "Alerts");
  const alertsButton = h(
    "button",
    { type: "button", "aria-expanded": "false", on: { click: () => toggleAlerts() } },
    "Show the alerts of its windows",
  );
  const ack = new Acknowledgement(scope, store, id);
  let answer = null;
  let alertsOpen = false;

  const loader = new Loader(scope, {
    what: "the alarm",
    path: () => `api/alarms/${encoded(id)}`,
    apply: (told) => {
      answer = told;
      missing.hidden = true;
      rest.hidden = false;
      show();
    },
    onMissing: (message) => {
      missing.hidden = answer !== null;
      setText(missing, `${message} It may have been cleared more than a day ago.`);
    },
    store,
  });

  function show() {
    const own = answer.alarm;
    setTitle(`${typeWords(store, own.type)}: ${shortened(own.entity_id)}`);
    fill(title, typeWords(store, own.type), ": ", h("bdi", {}, own.entity_id));
    fill(
      state,
      severity(own),
      " ",
      h("strong", {}, stateWords(own)),
      " ",
      symbol("· "),
      h("span", {}, "since "),
      dateTime(began(own)),
      ` ${zoneName()} `,
      symbol("· "),
      age(store, began(own), own.state === "CLEARED" ? (own.ended_at ?? own.last_window) : null),
    );
    fill(details, facts(detailsOf(store, own, answer), "facts"));
    revisions.update(changes(answer.history), "Nothing was published about it yet.");
    explained.update(answer.explained, "It explains no other alarm.");
    if (alertsOpen) showAlerts();
    ack.show(own.ack);
  }

  function showAlerts() {
    alerts.update(
      [...answer.alerts].reverse(),
      "No alerts of its windows are known here. They may be older than what is kept.",
    );
  }

  // They come with the alarm, but are many: rows are made only where somebody wants to see them.
  function toggleAlerts() {
    alertsOpen = !alertsOpen;
    alertsButton.setAttribute("aria-expanded", String(alertsOpen));
    alerts.element.hidden = !alertsOpen;
    if (alertsOpen && answer) showAlerts();
  }

  alerts.element.hidden = true;
  scope.listen(store, "alarms", ({ detail }) => {
    if (detail.ids.has(id) || (answer?.alarm.cause && detail.ids.has(answer.alarm.cause))) loader.load();
  });
  scope.listen(store, "hello", () => ack.allow());
  loader.load();
  rest.append(
    details,
    ack.element,
    section("Revisions", revisions.element),
    section("What it explains", explained.element),
    section("Alerts behind it", alertsButton, alerts.element),
  );
  refreshAges(scope, store, state);
  return {
    title: `Alarm ${shortened(id)}`,
    nodes: [trail(h("a", { href: href("alarms") }, "Alarms")), head, loader.element, missing, state, rest],
  };
}

function detailsOf(store, own, { caused_by: causedBy, announcement }) {
  const cause = causedBy
    ? h(
        "a",
        { href: href("alarm", causedBy.id) },
        `${typeWords(store, causedBy.type)}: ${shortened(causedBy.entity_id)}`,
      )
    : causeLink(store, own.cause);
  return [
    ["Entity", entityLink(own)],
    ["Feeder", feederLink(own.feeder_id)],
    ["Evidence", evidence(own)],
    ["Worst value", own.value === null ? null : quantity(own.value, own.unit, 1)],
    ["Worst meter", own.worst_meter_id === null ? null : h("bdi", {}, own.worst_meter_id)],
    ["Meters in violation", number(own.meters_in_violation)],
    ["Meters missing", number(own.meters_missing)],
    ["Meters in all", own.meters_total === null ? null : number(own.meters_total)],
    ["First window", own.first_window ? `${dateTime(own.first_window)} ${zoneName()}` : null],
    ["Last window", own.last_window ? `${dateTime(own.last_window)} ${zoneName()}` : null],
    ["Began", own.began_at === null ? null : `${dateTime(own.began_at)} ${zoneName()}`],
    ["Ended", own.ended_at === null ? null : `${dateTime(own.ended_at)} ${zoneName()}`],
    ["Momentary", own.momentary === null ? null : own.momentary ? "yes, five minutes at most" : "no"],
    ["Cause", own.cause === null ? "none: it needs an operator" : cause],
    ["Announced", announcement ? announcementWords(announcement) : null],
    ["Explains", counted(own.explains, "alarm")],
    ["Revision", `${number(own.revision)}${own.revised ? ", published again after it first came" : ""}`],
    ["Taken back", own.taken_back ? "yes: late reads have taken it back" : null],
    ["As of", `${dateTime(own.as_of)} ${zoneName()}`],
    ["Identity", h("code", {}, own.id)],
  ];
}

/** "planned outage oms:PO-1, 10:00 to 12:00". */
function announcementWords(announcement) {
  const until = announcement.to === null ? "until it is taken back" : `to ${dateTime(announcement.to)}`;
  return [
    `${announcementKind(announcement.kind)} `,
    h("bdi", {}, announcement.name),
    ` from ${dateTime(announcement.from)} ${until} ${zoneName()}`,
  ];
}

/** Revisions, the newest first, each with the one before it: what is another value can be marked. */
export function changes(history) {
  return history.map((alarm, at) => ({ alarm, before: at ? history[at - 1] : null })).reverse();
}

function revisionTable(scope, store) {
  const column = (key, title, value, className) => ({
    key,
    title,
    className,
    cell: ({ alarm, before }) => {
      const text = value(alarm);
      const was = before === null ? text : value(before);
      if (was === text) return text;
      return [h("mark", { title: `was ${was}` }, text), spoken(` changed, was ${was}`)];
    },
  });
  return new Table(scope, {
    label: "Revisions",
    columns: [
      { key: "revision", title: "Revision", cell: ({ alarm }) => number(alarm.revision), className: "num" },
      { key: "as_of", title: `As of (${zoneName()})`, cell: ({ alarm }) => dateTime(alarm.as_of), className: "tight" },
      column("state", "State", stateWords, "tight"),
      column("severity", "Severity", (alarm) => (alarm.severity === "CRITICAL" ? "Critical" : "Warning"), "tight"),
      column("first", "First window", (alarm) => dateTime(alarm.first_window), "tight"),
      column("last", "Last window", (alarm) => dateTime(alarm.last_window), "tight"),
      column("ended", "Ended", (alarm) => dateTime(alarm.ended_at), "tight"),
      column("value", "Value", (alarm) => quantity(alarm.value, alarm.unit, 1), "num"),
      column("windows", "Windows", (alarm) => number(alarm.windows_in_violation), "num"),
      column("meters", "Meters", (alarm) => number(alarm.meters_in_violation), "num"),
      column("missing", "Missing", (alarm) => number(alarm.meters_missing), "num"),
      column("cause", "Cause", (alarm) => (alarm.cause === null ? NONE : shortened(alarm.cause, 40)), "name"),
    ],
    key: ({ alarm }) => `${alarm.revision} ${alarm.as_of}`,
    version: JSON.stringify,
    limit: 50,
  });
}

const STATUSES = { RAISED: "Raised", UPDATED: "Updated", CLEARED: "Cleared" };

/** The alerts of windows and events, as `alarm` and `transformer` show them. */
export function alertTable(scope, store, label) {
  return new Table(scope, {
    label,
    columns: [
      { key: "time", title: `Time (${zoneName()})`, cell: (alert) => dateTime(alert.time), className: "tight" },
      {
        key: "window",
        title: "Window end",
        cell: (alert) => (alert.window_end === null ? NONE : dateTime(alert.window_end)),
        className: "tight",
      },
      { key: "severity", title: "Severity", cell: severity, className: "tight" },
      { key: "type", title: "Type", cell: (alert) => typeWords(store, alert.type) },
      { key: "entity", title: "Entity", cell: (alert) => h("bdi", {}, alert.entity_id), className: "name" },
      { key: "value", title: "Value", cell: (alert) => quantity(alert.value, alert.unit, 1), className: "num" },
      { key: "status", title: "Status", cell: (alert) => STATUSES[alert.status] ?? alert.status, className: "tight" },
      {
        key: "revision",
        title: "Revision",
        cell: (alert) => [
          number(alert.revision),
          alert.late ? h("span", { class: "revised" }, symbol(" ◥ "), "late") : "",
        ],
        className: "tight",
      },
      {
        key: "explained",
        title: "Explained by",
        cell: (alert) => causeLink(store, alert.explained_by),
        className: "name",
      },
      { key: "source", title: "Source", cell: (alert) => alert.source, className: "tight" },
    ],
    key: (alert) => `${alert.id} ${alert.revision} ${alert.status}`,
    version: JSON.stringify,
    limit: 100,
  });
}

/** Who has acknowledged it, and the form for those who may. Without the right there is no form at all. */
class Acknowledgement {
  #scope;
  #store;
  #id;
  #done = h("p", { class: "acknowledged", role: "status" });
  #form = null;
  #ack = null;

  constructor(scope, store, id) {
    this.#scope = scope;
    this.#store = store;
    this.#id = id;
    this.element = section("Acknowledgement", this.#done);
    this.allow();
    this.show(null);
  }

  show(ack) {
    // What this page has sent itself may come before the server's next answer has it.
    if (ack === null && this.#ack !== null) return;
    this.#ack = ack;
    if (ack === null) {
      setText(this.#done, "Nobody has acknowledged it.");
    } else {
      const key = JSON.stringify(ack);
      if (this.#done.dataset.key === key) return;
      this.#done.dataset.key = key;
      fill(
        this.#done,
        symbol("✓ "),
        "Acknowledged by ",
        h("bdi", {}, ack.user),
        ` at ${dateTime(ack.at)} ${zoneName()}`,
        ack.comment ? [": ", h("q", {}, ack.comment)] : ".",
      );
    }
  }

  /** Has the form exactly where the server says that this person may. */
  allow() {
    const may = Boolean(this.#store.hello?.can_acknowledge);
    if (may && !this.#form) {
      this.#form = this.#make();
      this.element.append(this.#form);
    } else if (!may && this.#form) {
      this.#form.remove();
      this.#form = null;
    }
  }

  #make() {
    const left = h("span", { class: "note", id: "ack-left" });
    const comment = h("textarea", {
      id: "ack-comment",
      rows: "3",
      maxlength: String(MOST_LETTERS),
      "aria-describedby": "ack-left",
      value: drafts.get(this.#id) ?? "",
    });
    const count = () => setText(left, `${number(MOST_LETTERS - comment.value.length)} characters left`);
    comment.addEventListener("input", () => {
      this.#keep(comment.value);
      count();
    });
    count();
    const button = h("button", { type: "submit", class: "primary" }, "Acknowledge");
    const error = h("p", { class: "error", role: "alert" });
    let sending = false;
    const send = async (event) => {
      event.preventDefault();
      if (sending) return;
      sending = true;
      button.setAttribute("aria-disabled", "true");
      setText(button, "Sending…");
      setText(error, "");
      try {
        const ack = await request(`api/alarms/${encoded(this.#id)}/ack`, {
          method: "POST",
          headers: { "Content-Type": "application/json", "X-Ami-Beam": "1" },
          body: JSON.stringify({ comment: comment.value.trim() }),
        });
        drafts.delete(this.#id);
        this.#store.onAcknowledged(this.#id, ack);
        if (this.#scope.closed) return;
        comment.value = "";
        count();
        this.show(ack);
      } catch (problem) {
        setText(error, `Not acknowledged: ${ackProblem(problem)}`);
      } finally {
        sending = false;
        button.removeAttribute("aria-disabled");
        setText(button, "Acknowledge");
      }
    };
    return h(
      "form",
      { class: "ack", on: { submit: send } },
      labelled("Comment", comment),
      left,
      h("p", {}, button),
      error,
    );
  }

  #keep(text) {
    drafts.delete(this.#id);
    if (text) drafts.set(this.#id, text);
    if (drafts.size > 50) drafts.delete(drafts.keys().next().value);
  }
}

function ackProblem(problem) {
  if (!(problem instanceof ApiError)) return "something unexpected happened. Try again.";
  const reasons = {
    0: "it is not known whether the server has it. Try again: it may be repeated.",
    401: "sign in first.",
    403: "you are not allowed to acknowledge.",
    404: "the server does not know this alarm any more.",
    413: "the comment is too long.",
    503: "try again soon.",
  };
  return reasons[problem.status]
    ? `${problem.message} ${reasons[problem.status][0].toUpperCase()}${reasons[problem.status].slice(1)}`
    : problem.message;
}
