// What the stream of events has told: one store for the whole page.

/**
 * Fires "hello", "health", "alarms" (detail: {full, ids: Set of what changed}), "versions" and "reset" (the server was
 * started again: everything known is forgotten).
 */
export class Store extends EventTarget {
  hello = null;
  health = null;
  versions = { map: 0, letters: 0, announced: 0 };
  /** By id. An alarm's object is replaced when it changes, never altered: views compare identities. */
  alarms = new Map();
  alarmsOmitted = 0;
  alarmsKnown = false;
  #clockAhead = 0;
  #counts = null;

  /** The server's time in milliseconds, as well as this browser knows it. */
  now() {
    return Date.now() + this.#clockAhead;
  }

  onHello(hello) {
    const other = this.hello !== null && this.hello.server_id !== hello.server_id;
    this.hello = hello;
    if (other) {
      this.health = null;
      this.versions = { map: 0, letters: 0, announced: 0 };
      this.alarms = new Map();
      this.alarmsOmitted = 0;
      this.alarmsKnown = false;
      this.#counts = null;
      this.dispatchEvent(new Event("reset"));
    }
    this.dispatchEvent(new Event("hello"));
  }

  onHealth(health) {
    const at = Date.parse(health.now);
    if (Number.isFinite(at)) this.#clockAhead = at - Date.now();
    this.health = health;
    this.dispatchEvent(new Event("health"));
  }

  onChanged(versions) {
    this.versions = { ...this.versions, ...versions };
    this.dispatchEvent(new Event("versions"));
  }

  onAlarms({ full, alarms = [], removed = [], omitted }) {
    const ids = new Set();
    if (full) {
      for (const id of this.alarms.keys()) ids.add(id);
      this.alarms = new Map();
    }
    for (const alarm of alarms) {
      this.alarms.set(alarm.id, alarm);
      ids.add(alarm.id);
    }
    for (const id of removed) {
      this.alarms.delete(id);
      ids.add(id);
    }
    if (omitted !== undefined) this.alarmsOmitted = omitted;
    else if (full) this.alarmsOmitted = 0;
    this.alarmsKnown = true;
    this.#counts = null;
    this.dispatchEvent(new CustomEvent("alarms", { detail: { full: Boolean(full), ids } }));
  }

  /** An acknowledgement that this page has sent, before the stream tells it. */
  onAcknowledged(id, ack) {
    const alarm = this.alarms.get(id);
    if (alarm) this.onAlarms({ full: false, alarms: [{ ...alarm, ack }] });
  }

  /** How many alarms are active, by what they need: {active, critical, warning, explained, outages, held}. */
  counts() {
    if (this.#counts) return this.#counts;
    const counts = { active: 0, critical: 0, warning: 0, explained: 0, outages: 0, held: 0 };
    for (const alarm of this.alarms.values()) {
      if (alarm.state !== "ACTIVE") continue;
      counts.active += 1;
      if (alarm.cause !== null) counts.explained += 1;
      else if (alarm.severity === "CRITICAL") counts.critical += 1;
      else counts.warning += 1;
      if (!isOutage(alarm)) continue;
      // Those of the transformers of a feeder that is out are one outage: the feeder's.
      if (alarm.cause === null) counts.outages += 1;
      else if (isAnnounced(alarm.cause)) counts.held += 1;
    }
    this.#counts = counts;
    return counts;
  }
}

export const isOutage = (alarm) => alarm.type.endsWith("_OUTAGE");

/** Whether a cause is the name of an announced outage or of work: ids of alarms have no colon. */
export const isAnnounced = (cause) => cause.includes(":");

/** Whether an operator has to look: nothing explains it. */
export const needsOperator = (alarm) => alarm.state === "ACTIVE" && alarm.cause === null;

/** When it began, as text, which sorts as time does. */
export const began = (alarm) => alarm.began_at ?? alarm.first_window ?? "";

/** The most urgent first: active, then critical, then those nobody has acknowledged, then the newest. */
export function byUrgency(one, other) {
  return (
    (other.state === "ACTIVE") - (one.state === "ACTIVE") ||
    (other.severity === "CRITICAL") - (one.severity === "CRITICAL") ||
    (one.ack !== null) - (other.ack !== null) ||
    descending(began(one), began(other)) ||
    descending(other.id, one.id)
  );
}

const descending = (one, other) => (one < other ? 1 : one > other ? -1 : 0);
