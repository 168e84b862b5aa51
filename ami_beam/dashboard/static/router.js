// Addresses of views: `#/name/ID?query`. IDs are untrusted text and always encoded.

/** {name, id, query: URLSearchParams} of a hash; the overview where it is empty or cannot be read. */
export function parseHash(hash) {
  const [path, search = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [name = "", ...rest] = path.split("/");
  let id = null;
  if (rest.length) {
    try {
      id = decodeURIComponent(rest.join("/"));
    } catch {
      id = rest.join("/");
    }
  }
  return { name: name || "overview", id: id || null, query: new URLSearchParams(search) };
}

/** An untrusted ID as a part of an address. */
export function encoded(id) {
  // Half a character cannot be encoded, and must not stop a whole view.
  return encodeURIComponent(String(id).replace(/\p{Surrogate}/gu, "�"));
}

/** The address of a view; empty values of the query are left out. */
export function href(name, id = null, query = {}) {
  const path = name === "overview" ? "#/" : `#/${name}`;
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const search = pairs.length ? `?${new URLSearchParams(pairs)}` : "";
  return path + (id === null ? "" : `/${encoded(id)}`) + search;
}
