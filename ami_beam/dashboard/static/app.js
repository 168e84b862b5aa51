// The operators' screen: the router, the header, and the stream of events.
//
// For tests there is `window.amiBeam`, which only tells:
//   amiBeam.map.rows()                 ids of the map's rows in the order in which they are shown
//   amiBeam.map.windows()              ends of the windows of the map, oldest first
//   amiBeam.map.code(rowId, window)    the code of a cell, "." where there is none
//   amiBeam.lastRender                 milliseconds that the last drawing of the map took
// Where no map is on the page there are no rows, no windows, and 0 ms.

import alarm from "./alarm.js";
import alarms from "./alarms.js";
import { showConnection } from "./connection.js";
import { add, fill, h, setText } from "./dom.js";
import { localZone, number, shortened } from "./format.js";
import health from "./health.js";
import letters from "./letters.js";
import { shownMap } from "./map-panel.js";
import { feeder, feeders } from "./map-view.js";
import outages from "./outages.js";
import overview from "./overview.js";
import { prefs } from "./prefs.js";
import receipt from "./receipt.js";
import { href, parseHash } from "./router.js";
import { Scope } from "./scope.js";
import { Search } from "./search.js";
import { Store } from "./state.js";
import { Stream } from "./stream.js";
import transformer from "./transformer.js";
import { heading } from "./view.js";

const PRODUCT = "ami-beam";
const VIEWS = [
  ["overview", "Overview", overview],
  ["map", "Voltage map", feeders],
  ["alarms", "Alarms", alarms],
  ["outages", "Outages", outages],
  ["receipt", "Receipt rate", receipt],
  ["letters", "Dead letters", letters],
  ["health", "Pipeline", health],
];
/** Views of one thing: [the view, the view in the navigation that it belongs to]. */
const OF_ONE = { feeder: [feeder, "map"], transformer: [transformer, "map"], alarm: [alarm, "alarms"] };

const MOST_PLACES = 100;
const STARTED = Date.now().toString(36);

const store = new Store();
const main = document.getElementById("main");
const links = new Map();
let shown = null;

function viewOf({ name, id }) {
  if (id !== null && Object.hasOwn(OF_ONE, name)) return OF_ONE[name];
  const found = VIEWS.find(([each]) => each === name && id === null);
  return found ? [found[2], name] : [unknown, null];
}

function unknown() {
  return {
    title: "Not found",
    nodes: [
      heading("Not found"),
      h("p", { class: "empty" }, "There is no such view. ", h("a", { href: href("overview") }, "To the overview")),
    ],
  };
}

/** Shows the view of the address; `moved`: somebody has gone there, so the focus goes along. */
function route(moved) {
  const address = parseHash(location.hash);
  const focused = moved ? null : document.activeElement?.id;
  if (shown) keepPlace();
  const place = moved ? placeOfEntry() : { top: scrollY, tables: [] };
  shown?.scope.close();
  const scope = new Scope();
  const [view, of] = viewOf(address);
  const own = (shown = { scope, title: "", entry: history.state?.entry ?? null });
  const setTitle = (title) => {
    own.title = title;
    if (shown === own) showTitle();
  };
  const setQuery = (values) => replaceAddress(href(address.name, address.id, values), history.state);
  const { title, nodes } = view({ store, scope, id: address.id, query: address.query, setQuery, setTitle });
  own.title = title;
  add(fill(main), nodes);
  for (const [name, link] of links) {
    if (name === of) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  showTitle();
  if (moved) main.querySelector("h1")?.focus({ preventScroll: true });
  else if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  scrollTo(0, place.top);
  // Tables have their rows in the next frame: only then is there something to scroll.
  if (place.top || place.tables.length)
    requestAnimationFrame(() => requestAnimationFrame(() => shown === own && restorePlace(place)));
}

// ---- going back shows what was seen before

const places = new Map();
let entries = 0;

const regions = () => [...main.querySelectorAll(".scroll")];

function keepPlace() {
  if (shown.entry === null) return;
  places.delete(shown.entry);
  places.set(shown.entry, { top: scrollY, tables: regions().map((region) => [region.scrollTop, region.scrollLeft]) });
  if (places.size > MOST_PLACES) places.delete(places.keys().next().value);
}

/** Where the entry of the history was left; the top of the page for a new one, which gets its number here. */
function placeOfEntry() {
  const known = places.get(history.state?.entry);
  if (known) return known;
  entries += 1;
  replaceAddress(location.href, { entry: `${STARTED}-${entries}` });
  return { top: 0, tables: [] };
}

function restorePlace({ top, tables }) {
  regions().forEach((region, at) => tables[at] && region.scrollTo(tables[at][1], tables[at][0]));
  scrollTo(0, top);
}

function replaceAddress(address, state) {
  try {
    history.replaceState(state, "", address);
  } catch {
    // Browsers allow only so many changes in a time; the address is then that of a moment ago.
  }
}

// The number of critical alarms is seen on the tab of a page that is not.
function showTitle() {
  const { critical } = store.counts();
  const status = document.documentElement.dataset.status;
  const warning = status === "ok" || status === "starting" ? "" : "⚠ ";
  const count = critical ? `(${number(critical)}) ` : "";
  const title = `${warning}${count}${shown?.title ? `${shown.title} – ` : ""}${PRODUCT}`;
  if (document.title !== title) document.title = title;
}

function makeHeader() {
  const nav = document.getElementById("views");
  const list = VIEWS.map(([name, title]) => {
    const link = h("a", { href: href(name) }, title);
    links.set(name, link);
    return h("li", {}, link);
  });
  nav.append(h("ul", {}, list));

  const zone = document.getElementById("zone");
  fill(zone, h("option", { value: "UTC" }, "UTC"), h("option", { value: "local" }, `Browser: ${localZone}`));
  zone.value = prefs.zone;
  zone.addEventListener("change", () => prefs.setZone(zone.value));

  const theme = document.getElementById("theme");
  const showTheme = () => setText(theme, `Theme: ${prefs.theme}`);
  theme.addEventListener("click", () => {
    prefs.nextTheme();
    showTheme();
  });
  showTheme();

  document.getElementById("skip").addEventListener("click", (event) => {
    // The address is that of the view: it must not change.
    event.preventDefault();
    main.focus();
    main.scrollIntoView();
  });
  new Search(document.getElementById("search"), store);
}

function showUser() {
  const user = document.getElementById("user");
  const name = store.hello?.user ?? null;
  user.hidden = name === null;
  fill(
    user,
    name === null ? null : [h("span", { class: "spoken" }, "Signed in as "), h("bdi", {}, shortened(name, 40))],
  );
}

let version = null;

// A page that is open for weeks outlives its server: another version of it has another page. What is typed is not lost.
function renew() {
  version ??= store.hello.version;
  const typed = [...main.querySelectorAll("textarea")].some(({ value }) => value);
  if (store.hello.version !== version && !typed) location.reload();
}

const emptyMap = { rows: () => [], windows: () => [], code: () => "." };
Object.defineProperty(window, "amiBeam", {
  value: Object.freeze({
    get map() {
      const panel = shownMap;
      if (!panel) return emptyMap;
      return {
        rows: () => panel.ids(),
        windows: () => [...panel.model.windows],
        code: (id, window) => {
          const row = panel.model.number(id);
          return row === undefined ? "." : panel.model.code(row, window);
        },
      };
    },
    get lastRender() {
      return shownMap?.map.lastRender ?? 0;
    },
  }),
});

makeHeader();
const stream = new Stream(store);
const showStatus = showConnection(store, stream);
addEventListener("hashchange", () => route(true));
prefs.addEventListener("zone", () => {
  showStatus();
  route(false);
});
store.addEventListener("reset", () => route(false));
store.addEventListener("hello", showUser);
store.addEventListener("hello", renew);
for (const event of ["alarms", "health"]) store.addEventListener(event, showTitle);
stream.addEventListener("state", showTitle);
history.scrollRestoration = "manual";
placeOfEntry();
route(false);
