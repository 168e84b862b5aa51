// Before the first paint: the theme that was chosen last, so that nothing flashes. prefs.js has the rest.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("ami-beam.theme");
  } catch {
    // Storage may be forbidden: the system's theme then.
  }
  const dark = chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();
