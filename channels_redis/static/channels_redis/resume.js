// @ts-check

/** How many groups the server takes for one connection. */
const MAX_GROUPS = 100;

/**
 * A WebSocket that comes back by itself and gets what it missed, for a consumer with `ResumeMixin`.
 *
 * It dispatches `message` (`detail`: the content of a frame), `open`, `close` (the browser's
 * `CloseEvent` is in `detail`), and for a group, whose name is in `detail`: `reload` if messages
 * were missed that can't be delivered, so that the page has to load its state again, and `refused` if
 * the server does not let this client resume it, or if there are more than 100 groups.
 */
export class ResumingSocket extends EventTarget {
  /** @type {WebSocket | undefined} */ #socket;
  /** @type {string[]} */ #formerly = [];
  /** Groups that this connection has not named. @type {Set<string>} */ #unnamed = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  #failures = 0;
  #ending = new AbortController();

  /**
   * @param {string} url relative to the page, or absolute
   * @param {{positions?: Record<string, string>, minWaitMs?: number, maxWaitMs?: number}} [options]
   *     `positions`: by group, for a page that was made with its state at these
   */
  constructor(url, { positions = {}, minWaitMs = 500, maxWaitMs = 30000 } = {}) {
    super();
    this.url = new URL(url, location.href);
    this.url.protocol = this.url.protocol.replace("http", "ws");
    /** The last position seen of each group. */
    this.positions = new Map(Object.entries(positions));
    this.waitsMs = { min: minWaitMs, max: maxWaitMs };
    const { signal } = this.#ending;
    addEventListener("online", () => this.#open(), { signal });
    addEventListener("offline", () => this.#lose(), { signal });
    this.#open();
  }

  /** Send a value as JSON; return whether there is a connection. @param {unknown} content */
  send(content) {
    const open = this.#socket?.readyState === WebSocket.OPEN;
    if (open) this.#socket?.send(JSON.stringify(content));
    return open;
  }

  /** End it for good. */
  close() {
    this.#ending.abort();
    clearTimeout(this.#timer);
    this.#socket?.close();
  }

  #open() {
    clearTimeout(this.#timer);
    if (this.#socket || this.#ending.signal.aborted) return;
    const url = new URL(this.url);
    // One more than the server takes, so that it knows that there are more.
    const named = [...this.positions].slice(-MAX_GROUPS - 1);
    for (const place of named) url.searchParams.append("resume", place.join(":"));
    // Of 101, the server takes the last 100.
    this.#unnamed = new Set([...this.positions.keys()].slice(0, -MAX_GROUPS));
    for (const channel of this.#formerly) url.searchParams.append("formerly", channel);
    const socket = (this.#socket = new WebSocket(url));
    const openedAt = Date.now();
    const isCurrent = () => socket === this.#socket;
    socket.onopen = () => isCurrent() && this.#tell("open");
    socket.onmessage = ({ data }) => isCurrent() && this.#take(data);
    socket.onclose = (event) => {
      // One that did not last counts as a failure, too.
      if (Date.now() - openedAt > 5000) this.#failures = 0;
      if (isCurrent()) this.#lose(event);
    };
  }

  /** Come back after a while, unless the browser is offline. @param {CloseEvent} [event] */
  #lose(event) {
    if (!this.#socket) return;
    const socket = this.#socket;
    this.#socket = undefined;
    socket.close();
    this.#tell("close", event);
    const { min, max } = this.waitsMs;
    const waitMs = Math.min(max, min * 2 ** this.#failures++) * (0.5 + Math.random() / 2);
    if (!this.#ending.signal.aborted) this.#timer = setTimeout(() => this.#open(), waitMs);
  }

  /** @param {any} data */
  #take(data) {
    const content = typeof data === "string" ? JSON.parse(data) : data;
    if (content?.constructor !== Object) return this.#tell("message", content);
    const { __position__: place, __resume__: told, ...rest } = content;
    if (place) this.positions.set(...halves(place));
    if (!told) return this.#tell("message", rest);
    if (told.refused) return this.#refuse(told.group ? [told.group] : [...this.#unnamed]);
    this.#unnamed.delete(told.group);
    if (this.#formerly.at(-1) !== told.channel) this.#formerly.push(told.channel);
    // What excludes the channels before this one is seen, if it has a position in its only group.
    const count = place && this.positions.size === 1 ? 1 : 10;
    this.#formerly.splice(0, this.#formerly.length - count);
    if (!told.complete) this.#tell("reload", told.group);
  }

  /** @param {string[]} groups */
  #refuse(groups) {
    for (const group of groups) {
      this.positions.delete(group);
      this.#tell("refused", group);
    }
  }

  /** @param {string} kind @param {unknown} [detail] */
  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}

/** @param {string} place @returns {[string, string]} */
function halves(place) {
  const at = place.indexOf(":");
  return [place.slice(0, at), place.slice(at + 1)];
}
