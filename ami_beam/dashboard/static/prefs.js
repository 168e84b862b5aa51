// What one person at one browser prefers: the theme and the time zone. Kept in localStorage where that is allowed.

const THEMES = ["auto", "dark", "light"];

function stored(name, allowed) {
  try {
    const value = localStorage.getItem(`ami-beam.${name}`);
    return allowed.includes(value) ? value : allowed[0];
  } catch {
    return allowed[0];
  }
}

function store(name, value) {
  try {
    localStorage.setItem(`ami-beam.${name}`, value);
  } catch {
    // It holds until the page is closed.
  }
}

/** Fires "theme" when the colours have changed and "zone" when the time zone has. */
class Preferences extends EventTarget {
  theme = stored("theme", THEMES);
  zone = stored("zone", ["UTC", "local"]);

  constructor() {
    super();
    if (typeof matchMedia === "undefined") return; // outside of a browser: unit tests of what imports this
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#apply());
    // Paper is white, whatever the screen is.
    addEventListener("beforeprint", () => this.#show("light"));
    addEventListener("afterprint", () => this.#apply());
  }

  /** auto, dark, light, auto, … */
  nextTheme() {
    this.theme = THEMES[(THEMES.indexOf(this.theme) + 1) % THEMES.length];
    store("theme", this.theme);
    this.#apply();
  }

  setZone(zone) {
    this.zone = zone;
    store("zone", zone);
    this.dispatchEvent(new Event("zone"));
  }

  #apply() {
    const dark = this.theme === "dark" || (this.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
    this.#show(dark ? "dark" : "light");
  }

  #show(theme) {
    if (document.documentElement.dataset.theme === theme) return;
    document.documentElement.dataset.theme = theme;
    this.dispatchEvent(new Event("theme"));
  }
}

export const prefs = new Preferences();
