// The browser client of Weir: an ES module without dependencies.
//
//   import { connect } from "/weir.js";
//   const weir = connect();                          // or connect("wss://example.com/ws")
//   const feed = weir.subscribe("telemetry:h1", {
//     event: (event) => console.log(event.offset, event.key, event.data),
//     lagged: (notice) => console.warn("missed", notice.dropped),
//   });
//   await weir.publish("room:1", { text: "hello" }); // { channel, epoch, offset }
//   feed.close();
//
// It reconnects by itself with full jitter between 500 ms and 20 s, waits the `retry_after_ms`
// it is told, stays away after a close code of 4500 or more, and subscribes again from the last
// position of each channel.

const DELAY_MIN_MS = 500;
const DELAY_MAX_MS = 20000;
const ANSWER_MS = 10000;

/** An error answer of the gateway; `code` is stable (docs/protocol.md, errors). */
export class WeirError extends Error {
  constructor(code, message, retryAfterMs) {
    super(message);
    this.name = "WeirError";
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }
}

/** Opens a client. `url` is the gateway's `/ws`, by default the one that served the page. */
export function connect(url, handlers = {}) {
  return new Weir(url ?? defaultUrl(), handlers);
}

function defaultUrl() {
  const url = new URL("/ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/** One client. Its states: "connecting", "open", "waiting" (to reconnect) and "closed". */
export class Weir {
  #url;
  #handlers;
  #socket = null;
  #timer = 0;
  #watch = 0;
  #attempt = 0;
  #retryAfterMs = 0;
  #nextId = 1;
  #waiting = new Map(); // id -> { resolve, reject, timer }
  #channels = new Map(); // name -> { handlers, since }

  /**
   * `handlers`: `state(state, detail)`, `welcome(message)`, `disconnect(message)`; and, for all
   * channels, `event(event)` and `lagged(notice)`.
   */
  constructor(url, handlers = {}) {
    this.#url = url;
    this.#handlers = handlers;
    this.state = "connecting";
    this.client = null;
    this.#open();
  }

  /**
   * Receives a channel. `handlers`: `event`, `lagged`, `subscribed`, `error`. Options of the
   * protocol, such as `{ slow: "disconnect" }`, go into `options`.
   */
  subscribe(channel, handlers = {}, options = {}) {
    const entry = { handlers, options, since: null };
    this.#channels.set(channel, entry);
    if (this.state === "open") this.#subscribe(channel, entry);
    return { channel, close: () => this.#unsubscribe(channel, entry) };
  }

  /** Publishes an event; resolves to its place. `options`: `key`, `echo`. */
  publish(channel, data, options = {}) {
    return this.#ask({ type: "publish", channel, ...options, data });
  }

  /** Publishes without an answer; whether it could be sent. Failures are not told. */
  send(channel, data, options = {}) {
    return this.#send({ type: "publish", channel, ...options, data });
  }

  /** Ends the client for good. */
  close() {
    clearTimeout(this.#timer);
    this.#drop("closed");
    this.#enter("closed", { reason: "closed by the page" });
  }

  #open() {
    this.#enter("connecting");
    const socket = new WebSocket(this.#url, "weir.v1.json");
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#read(socket, data);
    socket.onclose = ({ code, reason }) => {
      if (socket === this.#socket) this.#lost(code, reason);
    };
  }

  #read(socket, text) {
    if (socket !== this.#socket || typeof text !== "string") return;
    this.#alive();
    for (const line of text.split("\n")) {
      if (line) this.#take(JSON.parse(line));
    }
  }

  #take(message) {
    const entry = this.#channels.get(message.channel);
    const told = entry?.handlers;
    switch (message.type) {
      case "welcome":
        this.#attempt = 0;
        this.client = message.client;
        this.pingMs = message.ping_ms;
        this.#alive();
        this.#enter("open");
        for (const [channel, each] of this.#channels) this.#subscribe(channel, each);
        this.#handlers.welcome?.(message);
        return;
      case "event":
        if (entry?.since && !message.snapshot) entry.since.offset = message.offset;
        told?.event?.(message);
        this.#handlers.event?.(message);
        return;
      case "lagged":
        told?.lagged?.(message);
        this.#handlers.lagged?.(message);
        return;
      case "subscribed":
        if (entry && message.epoch) {
          entry.since = { epoch: message.epoch, offset: message.offset };
        }
        told?.subscribed?.(message);
        break;
      case "disconnect":
        this.#retryAfterMs = message.retry_after_ms ?? 0;
        this.#handlers.disconnect?.(message);
        return;
    }
    this.#settle(message);
  }

  #subscribe(channel, entry) {
    const since = entry.since ?? undefined;
    const sent = this.#ask({ type: "subscribe", channel, ...entry.options, since });
    sent.catch((error) => entry.handlers.error?.(error));
  }

  #unsubscribe(channel, entry) {
    if (this.#channels.get(channel) !== entry) return;
    this.#channels.delete(channel);
    this.#send({ type: "unsubscribe", channel });
  }

  #ask(command) {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      if (!this.#send({ ...command, id })) {
        reject(new WeirError("unavailable", "not connected"));
        return;
      }
      const late = () => {
        this.#waiting.delete(id);
        reject(new WeirError("timeout", "no answer in time"));
      };
      this.#waiting.set(id, { resolve, reject, timer: setTimeout(late, ANSWER_MS) });
    });
  }

  #settle(message) {
    const waiting = this.#waiting.get(message.id);
    if (!waiting) return;
    this.#waiting.delete(message.id);
    clearTimeout(waiting.timer);
    if (message.type === "error") {
      waiting.reject(new WeirError(message.code, message.message, message.retry_after_ms));
    } else {
      waiting.resolve(message);
    }
  }

  #send(command) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(command));
    return true;
  }

  // Browsers hide the gateway's pings, so a silent line is asked; no answer means it is dead.
  #alive() {
    clearTimeout(this.#watch);
    if (!this.pingMs) return;
    this.#watch = setTimeout(() => {
      this.#ask({ type: "ping" }).catch(() => this.#lost(1006, "no answer"));
    }, this.pingMs);
  }

  #lost(code, reason) {
    this.#drop("the connection was lost");
    if (code >= 4500) {
      this.#enter("closed", { code, reason });
      return;
    }
    const ceiling = Math.min(DELAY_MAX_MS, DELAY_MIN_MS * 2 ** Math.min(this.#attempt++, 10));
    const delayMs = DELAY_MIN_MS + Math.random() * Math.max(ceiling - DELAY_MIN_MS, DELAY_MIN_MS);
    const waitMs = Math.max(Math.min(delayMs, DELAY_MAX_MS), this.#retryAfterMs);
    this.#retryAfterMs = 0;
    this.#enter("waiting", { code, reason, waitMs });
    this.#timer = setTimeout(() => this.#open(), waitMs);
  }

  #drop(why) {
    clearTimeout(this.#watch);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(new WeirError("unavailable", why));
    }
    this.#waiting.clear();
  }

  #enter(state, detail = {}) {
    this.state = state;
    this.#handlers.state?.(state, detail);
  }
}
