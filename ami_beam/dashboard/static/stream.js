// The server-sent events of the page, and the watch over them.

const SILENT_MS = 8_000;
const FIRST_RETRY_MS = 1_000;
const LAST_RETRY_MS = 15_000;
const HIDDEN_MS = 5 * 60_000;
const EVENTS = { hello: "onHello", health: "onHealth", alarms: "onAlarms", changed: "onChanged" };

/**
 * Keeps `store` told. Fires "state" when `state` changes: "connecting", "live", "lost", or "paused".
 *
 * Lost: no heartbeat for 8 s, or the connection has failed; it is tried again by itself after 1, 2, 4, … at most
 * 15 s.
 * Paused: the page has been hidden for five minutes. A browser has few connections to a server, and many hidden pages
 * would take them all; when the page is seen again everything is told from the start.
 */
export class Stream extends EventTarget {
  state = "connecting";
  #store;
  #source = null;
  #heard = 0;
  #failures = 0;
  #retry = 0;
  #hidden = 0;

  constructor(store) {
    super();
    this.#store = store;
    setInterval(() => this.#watch(), 1_000);
    document.addEventListener("visibilitychange", () => this.#seen());
    addEventListener("pageshow", (event) => event.persisted && this.#open());
    addEventListener("pagehide", () => this.#close());
    addEventListener("online", () => this.state === "lost" && this.#open());
    this.#open();
  }

  #open() {
    this.#close();
    this.#heard = performance.now();
    const source = (this.#source = new EventSource("api/stream"));
    for (const [type, method] of Object.entries(EVENTS)) {
      source.addEventListener(type, (event) => this.#source === source && this.#take(type, method, event.data));
    }
    source.addEventListener("error", () => this.#source === source && this.#fail());
  }

  #close() {
    clearTimeout(this.#retry);
    this.#retry = 0;
    this.#source?.close();
    this.#source = null;
  }

  #take(type, method, data) {
    let told;
    try {
      told = JSON.parse(data);
    } catch (error) {
      console.error(`event ${type} cannot be read`, error);
      return;
    }
    this.#heard = performance.now();
    if (type === "health") {
      this.#failures = 0;
      this.#set("live");
    }
    this.#store[method](told);
  }

  // The browser's own way of connecting again gives up on some answers and is silent about others: ours replaces it.
  #fail() {
    this.#close();
    this.#set("lost");
    const wait = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#failures) * (0.8 + 0.4 * Math.random());
    this.#failures = Math.min(this.#failures + 1, 10);
    this.#retry = setTimeout(() => this.#open(), wait);
  }

  #watch() {
    if (this.#source && performance.now() - this.#heard > SILENT_MS) this.#fail();
  }

  #seen() {
    clearTimeout(this.#hidden);
    if (document.visibilityState === "hidden") {
      this.#hidden = setTimeout(() => {
        this.#close();
        this.#set("paused");
      }, HIDDEN_MS);
    } else if (this.state === "paused" || this.#retry) {
      if (this.state === "paused") this.#set("connecting");
      this.#open();
    } else {
      this.#watch();
    }
  }

  #set(state) {
    if (this.state === state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
