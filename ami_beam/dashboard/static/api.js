// Requests to the server: every failure in words, what was asked for asked again.

import { h, setText } from "./dom.js";
import { clean, clock } from "./format.js";

const TIMEOUT_MS = 20_000;
const LEAST_GAP_MS = 1_000;
const FIRST_RETRY_MS = 2_000;
const LAST_RETRY_MS = 60_000;

/** A request that did not work: `message` is a sentence for people, `status` that of HTTP or 0. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The JSON that the server answers. Throws ApiError; an aborted request throws AbortError. */
export async function request(path, { signal, timeout = TIMEOUT_MS, ...init } = {}) {
  const controller = new AbortController();
  const stop = () => controller.abort();
  if (signal?.aborted) stop();
  signal?.addEventListener("abort", stop);
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    stop();
  }, timeout);
  try {
    const response = await fetch(path, { cache: "no-store", ...init, signal: controller.signal });
    const text = await response.text();
    const answer = parsed(text);
    if (!response.ok) throw new ApiError(words(answer?.error, response.status), response.status);
    if (answer === undefined) throw new ApiError("The server's answer cannot be read.", response.status);
    return answer;
  } catch (error) {
    if (error instanceof ApiError) throw error;
    if (late) throw new ApiError(`The server has not answered within ${timeout / 1000} s.`);
    if (controller.signal.aborted) throw new DOMException("not needed any more", "AbortError");
    throw new ApiError("The server cannot be reached.");
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function words(error, status) {
  if (typeof error !== "string" || !error) return `The server answers with HTTP ${status}.`;
  const sentence = clean(error);
  return /[.!?]$/.test(sentence) ? sentence : `${sentence}.`;
}

/** `name=value&…` of what is not null. */
export function query(values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(pairs).toString();
}

/**
 * Keeps one thing of the server loaded: `load()` says that it has changed.
 *
 * At most one request at a time and one a second, fewer where answers are large; none while the page is hidden, and
 * then one when it is seen again. A failure is shown in `element` in words, with what is still shown, and tried again
 * after 2, 4, 8, … at most 60 s; at once when the stream of events is back. What is not there (404) is told to
 * `onMissing` and asked for again only when something has changed.
 */
export class Loader {
  #scope;
  #options;
  #needed = false;
  #running = null;
  #timer = 0;
  #failures = 0;
  #retryAt = 0;
  #started = -Infinity;
  #gap = LEAST_GAP_MS;
  #loadedAt = null;
  #words = h("span", {});
  #again;
  #box;

  /** options: what (for the sentence), path() -> text or null, apply(answer), onMissing(message)?, store? */
  constructor(scope, options) {
    this.#scope = scope;
    this.#options = options;
    this.#again = h("button", { type: "button", on: { click: () => this.retry() } }, "Try now");
    // The region stays, what is in it comes and goes: a region that comes with its text is not read out.
    this.#box = h("div", { class: "notice", hidden: true }, this.#words, " ", this.#again);
    this.element = h("div", { role: "status" }, this.#box);
    scope.listen(document, "visibilitychange", () => this.#pump());
    if (options.store) scope.listen(options.store, "hello", () => this.#failures && this.retry());
    scope.onClose(() => {
      clearTimeout(this.#timer);
      this.#running?.abort();
    });
  }

  /** Asks (again) as soon as that is allowed. */
  load() {
    this.#needed = true;
    this.#pump();
  }

  /** Something else is to be loaded: what runs is given up, and the next one starts at once. */
  restart() {
    this.#running?.abort();
    this.#running = null;
    this.#failures = 0;
    this.#retryAt = 0;
    this.#started = -Infinity;
    this.#loadedAt = null;
    this.#show(null);
    this.load();
  }

  retry() {
    this.#retryAt = 0;
    this.load();
  }

  #pump() {
    clearTimeout(this.#timer);
    if (this.#scope.closed || !this.#needed || this.#running || document.visibilityState === "hidden") return;
    const wait = Math.max(this.#started + this.#gap, this.#retryAt) - performance.now();
    if (wait > 0) this.#timer = setTimeout(() => this.#pump(), wait);
    else this.#run();
  }

  async #run() {
    const path = this.#options.path();
    this.#needed = false;
    if (path === null) return;
    const running = (this.#running = new AbortController());
    this.#started = performance.now();
    try {
      const answer = await request(path, { signal: running.signal });
      if (this.#running !== running || this.#scope.closed) return;
      const before = performance.now();
      this.#options.apply(answer);
      // A large answer must not keep the page, or the server, busy all the time.
      this.#gap = Math.max(LEAST_GAP_MS, 5 * (performance.now() - before), 2 * (before - this.#started));
      this.#failures = 0;
      this.#retryAt = 0;
      this.#loadedAt = Date.now();
      this.#show(null);
    } catch (error) {
      if (this.#running !== running || this.#scope.closed) return;
      this.#failed(error);
    } finally {
      if (this.#running === running) this.#running = null;
      this.#pump();
    }
  }

  #failed(error) {
    if (error.status === 404 && this.#options.onMissing) {
      this.#failures = 0;
      this.#show(null);
      this.#options.onMissing(error.message);
      return;
    }
    if (!(error instanceof ApiError)) console.error(error);
    const message = error instanceof ApiError ? error.message : "The server's answer is not what was expected.";
    this.#needed = true;
    this.#failures += 1;
    const wait = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** (this.#failures - 1)) * (0.8 + 0.4 * Math.random());
    this.#retryAt = performance.now() + wait;
    const shown = this.#loadedAt === null ? "" : ` Shown is what was known at ${clock(this.#loadedAt)}.`;
    this.#show(`Cannot load ${this.#options.what}: ${message}${shown} It is tried again by itself.`);
  }

  #show(message) {
    setText(this.#words, message ?? "");
    this.#box.hidden = !message;
  }
}
