// Elements from data. Nothing here, and nothing else on the page, ever parses a text as HTML: texts become text nodes,
// and attributes that could carry code are refused.

import { clean } from "./format.js";

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "selected", "open", "readOnly"]);

/**
 * An element. `attributes` are set as they are; `on` is an object of event handlers; null, undefined and false are left
 * out. Children are nodes, texts, numbers, or arrays of them.
 *
 * Throws where an attribute is a handler, a style, or a link that leaves the page: data must never become one.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [type, handler] of Object.entries(value)) element.addEventListener(type, handler);
    } else if (PROPERTIES.has(name)) {
      element[name] = value;
    } else {
      if (/^on|^style$|^src|^srcdoc$|^formaction$/i.test(name)) throw new Error(`attribute ${name} is not for data`);
      if (name === "href" && !String(value).startsWith("#")) throw new Error("links stay on the page");
      element.setAttribute(name, value === true ? "" : clean(value));
    }
  }
  add(element, children);
  return element;
}

/** Appends nodes and texts; arrays are flattened, null, undefined and false left out. */
export function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : clean(child));
  }
  return element;
}

/** Replaces what is in an element. */
export function fill(element, ...children) {
  element.replaceChildren();
  return add(element, children);
}

/** Sets a text only where it is another: live regions stay quiet and nothing is laid out again. */
export function setText(element, text) {
  const printable = clean(text);
  if (element.textContent !== printable) element.textContent = printable;
}

/** For screen readers only. */
export function spoken(text) {
  return h("span", { class: "spoken" }, text);
}

/** A symbol that is only to be seen. */
export function symbol(text, className = "symbol") {
  return h("span", { class: className, "aria-hidden": "true" }, text);
}

/** A `<dl>` of [term, description]; pairs whose description is null are left out. */
export function facts(pairs, className = "facts") {
  const rows = pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== undefined);
  return h(
    "dl",
    { class: className },
    rows.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))),
  );
}

/** A `<dl>` whose terms stay and whose texts change: {element, set(texts)}; a null text is left out of sight. */
export function liveFacts(terms, className = "facts") {
  const values = terms.map(() => h("dd", {}));
  const rows = terms.map((term, at) => h("div", { hidden: true }, h("dt", {}, term), values[at]));
  const set = (texts) =>
    texts.forEach((text, at) => {
      rows[at].hidden = text === null;
      setText(values[at], text ?? "");
    });
  return { element: h("dl", { class: className }, rows), set };
}

/** A labelled control, its label before it. */
export function labelled(label, control) {
  return h("label", { class: "control" }, h("span", {}, label), control);
}

/** A select of [value, words]. */
export function select(options, value, onChange, attributes = {}) {
  const element = h("select", { ...attributes, on: { change: () => onChange(element.value) } });
  add(
    element,
    options.map(([key, words]) => h("option", { value: key }, words)),
  );
  element.value = value;
  return element;
}
