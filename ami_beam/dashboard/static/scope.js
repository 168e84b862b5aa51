// How long something lives. A control room leaves the page open for weeks: whatever a view starts must end with it.

/** Everything that is registered here ends when `close` is called: listeners, timers, requests, observers. */
export class Scope {
  #controller = new AbortController();
  #closers = new Set();

  /** Aborted when the scope closes. */
  get signal() {
    return this.#controller.signal;
  }

  get closed() {
    return this.#controller.signal.aborted;
  }

  /** Calls `closer` at the end; gives a function that forgets it. */
  onClose(closer) {
    if (this.closed) closer();
    else this.#closers.add(closer);
    return () => this.#closers.delete(closer);
  }

  listen(target, type, handler, options = {}) {
    target.addEventListener(type, handler, { ...options, signal: this.signal });
  }

  every(millis, action) {
    const timer = setInterval(() => document.visibilityState === "visible" && action(), millis);
    this.onClose(() => clearInterval(timer));
  }

  /** Calls `action` when the size of an element changes, and at once. */
  onResize(element, action) {
    const observer = new ResizeObserver(action);
    observer.observe(element);
    this.onClose(() => observer.disconnect());
  }

  /**
   * A function that has `action` called once before the next frame, however often it is called. A hidden page has no
   * frames: then it is called when the page is seen again.
   */
  frame(action) {
    let asked = 0;
    this.onClose(() => cancelAnimationFrame(asked));
    return () => {
      if (asked || this.closed) return;
      asked = requestAnimationFrame(() => {
        asked = 0;
        action();
      });
    };
  }

  /** A scope that ends with this one, or before it. */
  child() {
    const child = new Scope();
    child.onClose(this.onClose(() => child.close()));
    return child;
  }

  close() {
    if (this.closed) return;
    this.#controller.abort();
    for (const closer of this.#closers) closer();
    this.#closers.clear();
  }
}
