// The search box of the header: a combobox whose list the arrow keys walk through.

import { ApiError, query, request } from "./api.js";
import { fill, h, setText, spoken } from "./dom.js";
import { shortened } from "./format.js";
import { href } from "./router.js";
import { typeWords } from "./words.js";

const TYPING_MS = 150;
const RETRY_MS = 3_000;

/** Fills `box`, which has role search. */
export class Search {
  #store;
  #input;
  #list;
  #note;
  #asking = null;
  #timer = 0;
  #active = -1;
  #options = [];
  #entered = false;
  #shownFor = "";

  constructor(box, store) {
    this.#store = store;
    this.#input = h("input", {
      id: "search-input",
      type: "text",
      inputmode: "search",
      enterkeyhint: "search",
      role: "combobox",
      autocomplete: "off",
      spellcheck: "false",
      maxlength: "200",
      "aria-expanded": "false",
      "aria-controls": "search-list",
      "aria-autocomplete": "list",
      placeholder: "Feeder, transformer or alarm",
      on: {
        input: () => this.#typed(),
        keydown: (event) => this.#key(event),
        focus: () => this.#options.length && this.#open(),
      },
    });
    this.#list = h("div", { id: "search-list", role: "listbox", "aria-label": "What was found", hidden: true });
    this.#note = h("p", { id: "search-note", class: "search-note", role: "status" });
    box.append(
      h("label", { for: "search-input", class: "spoken" }, "Find a feeder, transformer or alarm"),
      this.#input,
      this.#list,
      this.#note,
    );
    // An option is chosen by the pointer before the box loses its focus.
    this.#list.addEventListener("pointerdown", (event) => event.preventDefault());
    this.#list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.#go(this.#options.findIndex(({ element }) => element === option));
    });
    box.addEventListener("focusout", (event) => {
      if (!box.contains(event.relatedTarget)) this.#close();
    });
  }

  #typed() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    this.#entered = false;
    const text = this.#input.value.trim();
    if (!text) {
      this.#clear();
      return;
    }
    this.#timer = setTimeout(() => this.#ask(text), TYPING_MS);
  }

  async #ask(text) {
    this.#asking?.abort();
    const asking = (this.#asking = new AbortController());
    try {
      const found = await request(`api/search?${query({ q: text })}`, { signal: asking.signal });
      if (this.#asking === asking) this.#show(found, text);
    } catch (problem) {
      if (this.#asking !== asking || asking.signal.aborted) return;
      this.#clear();
      const message = problem instanceof ApiError ? problem.message : "The answer cannot be read.";
      setText(this.#note, `Cannot search: ${message} It is tried again.`);
      this.#timer = setTimeout(() => document.activeElement === this.#input && this.#ask(text), RETRY_MS);
    }
  }

  #show({ feeders, transformers, alarms }, text) {
    this.#options = [];
    this.#shownFor = text;
    this.#active = -1;
    this.#input.removeAttribute("aria-activedescendant");
    const groups = [
      this.#group(
        "Feeders",
        feeders.map((id) => [href("feeder", id), id, ""]),
      ),
      this.#group(
        "Transformers",
        transformers.map(({ id, feeder_id: feeder }) => [href("transformer", id), id, feeder ? `on ${feeder}` : ""]),
      ),
      this.#group(
        "Alarms",
        alarms.map(({ id, type, entity_id: entity }) => [href("alarm", id), typeWords(this.#store, type), entity]),
      ),
    ];
    fill(this.#list, groups);
    const count = this.#options.length;
    if (count && this.#entered) {
      this.#go(0);
      return;
    }
    this.#entered = false;
    setText(
      this.#note,
      count ? "" : `Nothing is called “${shortened(text, 40)}”. The first letters of a name are enough.`,
    );
    if (count && document.activeElement === this.#input) this.#open();
    else this.#close();
  }

  #group(title, entries) {
    if (!entries.length) return null;
    const options = entries.map(([address, name, more]) => {
      const at = this.#options.length;
      const element = h(
        "div",
        { role: "option", id: `search-option-${at}`, "aria-selected": "false" },
        h("bdi", {}, shortened(name)),
        more ? h("span", { class: "more-words" }, " ", h("bdi", {}, shortened(more))) : null,
      );
      this.#options.push({ element, address });
      return element;
    });
    return h(
      "div",
      { role: "group", "aria-label": title },
      h("div", { class: "group-title", "aria-hidden": "true" }, title),
      options,
    );
  }

  #key(event) {
    const last = this.#options.length - 1;
    if (event.key === "Escape") {
      if (this.#list.hidden) this.#input.value = "";
      this.#close();
      setText(this.#note, "");
    } else if (event.key === "ArrowDown" && last >= 0) {
      this.#open();
      this.#activate(this.#active >= last ? 0 : this.#active + 1);
    } else if (event.key === "ArrowUp" && last >= 0) {
      this.#open();
      this.#activate(this.#active <= 0 ? last : this.#active - 1);
    } else if (event.key === "Enter") {
      // Without a choice the first is meant; where the answer is still to come, as soon as it is there.
      const text = this.#input.value.trim();
      if (!this.#list.hidden && (this.#active >= 0 || this.#shownFor === text)) this.#go(Math.max(0, this.#active));
      else if (text) {
        clearTimeout(this.#timer);
        this.#entered = true;
        this.#ask(text);
      }
    } else {
      return;
    }
    event.preventDefault();
  }

  #activate(at) {
    this.#options[this.#active]?.element.setAttribute("aria-selected", "false");
    this.#active = at;
    const { element } = this.#options[at];
    element.setAttribute("aria-selected", "true");
    element.scrollIntoView({ block: "nearest" });
    this.#input.setAttribute("aria-activedescendant", element.id);
  }

  #go(at) {
    const option = this.#options[at];
    if (!option) return;
    this.#input.value = "";
    this.#clear();
    location.hash = option.address;
  }

  #open() {
    this.#list.hidden = false;
    this.#input.setAttribute("aria-expanded", "true");
  }

  #close() {
    this.#list.hidden = true;
    this.#input.setAttribute("aria-expanded", "false");
    this.#input.removeAttribute("aria-activedescendant");
    this.#options[this.#active]?.element.setAttribute("aria-selected", "false");
    this.#active = -1;
  }

  #clear() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    this.#asking = null;
    this.#entered = false;
    this.#close();
    this.#options = [];
    fill(this.#list);
    setText(this.#note, "");
  }
}
