// Whether what is shown is true: one sentence in the header, and a stripe over the page where it is not.

import { setText } from "./dom.js";
import { clock, duration, instant } from "./format.js";

/** The state of what is shown: ok, stale, starting, disconnected or lost. */
export function statusOf(streamState, health) {
  if (streamState === "lost" || streamState === "paused") return "lost";
  if (health === null || streamState === "connecting") return "starting";
  return health.status;
}

/** The sentence for it. `now` is the server's time in milliseconds. */
export function sentence(status, streamState, health, now) {
  const newest = health?.newest_window_end ? ` Newest window ${clock(health.newest_window_end)}.` : "";
  if (streamState === "paused") return "Paused while the page is hidden";
  if (status === "lost") return `The connection to the server is lost; trying again.${newest}`;
  if (health === null) return "Connecting to the server";
  const since = instant(health.since);
  if (status === "ok")
    return health.newest_window_end
      ? `Live: newest window ${clock(health.newest_window_end)}`
      : "Live: no window has come yet";
  if (status === "stale" && since !== null) return `Stale: no new results for ${coarse(now - since)}.${newest}`;
  if (status === "stale") return `Stale: ${health.message || "no new results"}`;
  if (status === "disconnected")
    return `Kafka does not answer${since === null ? "" : ` since ${clock(since)}`}; shown is what was known.${newest}`;
  return health.message ? `Starting: ${health.message}` : "Starting: reading what was published";
}

/** A duration that changes once a minute: each change is read out by screen readers. */
function coarse(millis) {
  return millis < 60_000 ? "less than a minute" : duration(Math.floor(millis / 60_000) * 60).replace("60 s", "1 min");
}

/** Keeps the header and `<html data-status>` true. */
export function showConnection(store, stream) {
  const element = document.getElementById("connection");
  const show = () => {
    const status = statusOf(stream.state, store.health);
    if (element.dataset.status !== status) element.dataset.status = status;
    if (document.documentElement.dataset.status !== status) document.documentElement.dataset.status = status;
    setText(element, sentence(status, stream.state, store.health, store.now()));
    const why = store.health?.message ?? "";
    if (element.title !== why) element.title = why;
  };
  store.addEventListener("health", show);
  store.addEventListener("reset", show);
  stream.addEventListener("state", show);
  return show;
}
