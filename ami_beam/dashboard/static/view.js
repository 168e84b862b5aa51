// What all views have: a head, and the context that they are made in.

import { h } from "./dom.js";

/**
 * A view is a function of a context {store, scope, id, query, setQuery(values), setTitle(text)} that gives {title,
 * nodes}: `title` is that of the page; everything that the view starts belongs to `scope`, which ends when it does.
 */
export function heading(text, ...beside) {
  return h("div", { class: "heading" }, h("h1", { tabindex: "-1" }, text), beside);
}

/** A part of a view with a heading of its own. */
export function section(title, ...children) {
  const id = `part-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), children);
}

/** The way back: links above the heading. */
export function trail(...links) {
  return h(
    "p",
    { class: "trail" },
    links.flatMap((link, at) => (at ? [" › ", link] : [link])),
  );
}

/** "The newest window is …", or that there is none: for empty states. */
export function newestWords(store, clock) {
  const end = store.health?.newest_window_end;
  return end ? `The newest window is ${clock(end)}.` : "No window has come yet.";
}
