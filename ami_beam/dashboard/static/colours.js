// The colours of the style sheet for what draws on a canvas. There is one palette, in style.css.

import { prefs } from "./prefs.js";

let known = new Map();
prefs.addEventListener("theme", () => (known = new Map()));

/** The value of a custom property of the page, "--cell-below" say, in the theme of now. */
export function colour(name) {
  let value = known.get(name);
  if (value === undefined) {
    value = getComputedStyle(document.documentElement).getPropertyValue(name).trim() || "#888";
    known.set(name, value);
  }
  return value;
}

/** Pixels of CSS of one rem: canvases grow with the text of the page. */
export function rem() {
  return parseFloat(getComputedStyle(document.documentElement).fontSize) || 14;
}

/** The font of a canvas: `size` in rem. */
export function font(size, weight = "") {
  return `${weight} ${Math.round(rem() * size)}px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif`.trim();
}
