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
// position of each channel. One that was closed by the gateway learns why from `last` of its next
// `welcome`. Publishes that find no connection wait for one, up to ten seconds, and go out after
// the subscriptions.
//
//   const weir = connect(undefined, {}, {
//     async getToken() {
//       const answer = await fetch("/token", { method: "POST" });
//       if (!answer.ok) throw new Error(`no token: ${answer.status}`); // it is asked again
//       return answer.text();
//     },
//   });
//
// `getToken` is asked for a token before each connection, and again half a minute before the one it
// gave ends, or at half of what is left of it where that is sooner. The token goes in a message and
// never into an address. After a close with 4003, and where a token has ended on its way, another
// one is asked for; where the gateway has no room or no time for it, the client comes back later;
// where one is refused for anything else, the client is closed.

const DELAY_MIN_MS = 500;
const DELAY_MAX_MS = 20000;
const ANSWER_MS = 10000;
const CONNECT_MS = 20000;
// What is left of a token when another one is asked for, and the least time between two requests.
const REFRESH_MS = 30000;
const REFRESH_MIN_MS = 10000;
const TIMER_MAX_MS = 2 ** 31 - 1;
const HELD_MAX = 1000;
const HELD_CHARS_MAX = 4 << 20;

/** An error answer of the gateway; `code` is stable (docs/protocol.md, errors). */
export class WeirError extends Error {
  constructor(code, message, retryAfterMs) {
    super(message);
    this.name = "WeirError";
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }
}

/**
 * Opens a client. `url` is the gateway's `/ws`, by default the one that served the page. `options`:
 * `getToken()`, which gives a token or a promise of one; null is none.
 */
export function connect(url, handlers = {}, options = {}) {
  return new Weir(url ?? defaultUrl(), handlers, options);
}

function defaultUrl() {
  const url = new URL("/ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/** When a token ends, in milliseconds since 1970; NaN where it does not say. */
function endOf(token) {
  try {
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(atob(claims)).exp * 1000;
  } catch {
    return NaN;
  }
}

/** Calls a handler. One that throws is the page's fault, and what follows happens all the same. */
function tell(handlers, name, ...what) {
  try {
    handlers?.[name]?.(...what);
  } catch (error) {
    if (globalThis.reportError) globalThis.reportError(error);
    else console.error(error);
  }
}

/** One client. Its states: "connecting", "open", "waiting" (to reconnect) and "closed". */
export class Weir {
  #url;
  #handlers;
  #getToken;
  #token = null;
  #socket = null;
  #turn = 0; // of getting a token: an older one counts for nothing
  #timer = 0;
  #refresh = 0;
  #watch = 0;
  #attempt = 0;
  #retryAfterMs = 0;
  #nextId = 1;
  #waiting = new Map(); // id -> { resolve, reject, timer }
  #held = new Map(); // id -> the text of a publish that waits for a connection
  #heldChars = 0;
  #channels = new Map(); // name -> { handlers, since }

  /**
   * `handlers`: `state(state, detail)`, `welcome(message)`, `disconnect(message)`; and, for all
   * channels, `event(event)`, `lagged(notice)` and `signal(signal)`. Its `user` is who it is, and
   * null while it is nobody.
   */
  constructor(url, handlers = {}, { getToken } = {}) {
    this.#url = url;
    this.#handlers = handlers;
    this.#getToken = getToken;
    this.state = "connecting";
    this.client = null;
    this.user = null;
    this.#open();
  }

  /**
   * Receives a channel, or every channel of a pattern such as `telemetry:*`: what has no handlers
   * by its own name goes to those of the longest pattern. `handlers`: `event`, `lagged`,
   * `signal`, `subscribed`; and `error`, where the gateway refuses the subscription, or ends one
   * that is not allowed any more: it is asked for again with each return, until it is closed. Options of the protocol, such as `{ slow: "latest" }`, go into
   * `options`.
   */
  subscribe(channel, handlers = {}, options = {}) {
    const since = this.#channels.get(channel)?.since ?? null;
    const entry = { handlers, options, since: null };
    this.#channels.set(channel, entry);
    if (this.state === "open") this.#subscribe(channel, entry);
    if (this.state === "closed") {
      const error = new WeirError("unavailable", "the client is closed");
      queueMicrotask(() => tell(handlers, "error", error));
    }
    entry.since = since;
    return { channel, close: () => this.#unsubscribe(channel, entry) };
  }

  /**
   * Publishes an event; resolves to its place. `options`: `key`, `echo`. Without a connection it
   * waits for one. An event whose answer is lost with the connection may have been published.
   */
  publish(channel, data, options = {}) {
    return this.#ask({ type: "publish", channel, ...options, data }, this.state !== "open");
  }

  /** Publishes without an answer; whether it could be sent. Failures are not told. */
  send(channel, data, options = {}) {
    if (this.state !== "open") return false;
    return this.#send(JSON.stringify({ type: "publish", channel, ...options, data }));
  }

  /**
   * Shows a short-lived value to a channel, which is to be subscribed; `null` ends it. `options`:
   * `ttl_ms`. Whether it could be sent: failures are not told. What others show comes to the
   * handler `signal`, and what they show already is in `signals` of `subscribed`.
   */
  signal(channel, name, data, options = {}) {
    if (this.state !== "open") return false;
    return this.#send(JSON.stringify({ type: "signal", channel, name, ...options, data }));
  }

  /** Ends the client for good. */
  close() {
    if (this.state !== "closed") this.#end("closed", { reason: "closed by the page" });
  }

  #open() {
    if (!this.#getToken) {
      this.#dial();
      return;
    }
    this.#enter("connecting");
    const none = () => this.#lost(null, 1006, "no token");
    this.#watch = setTimeout(none, CONNECT_MS);
    this.#fetchToken((token) => {
      clearTimeout(this.#watch);
      this.#token = token;
      this.#dial();
    }, none);
  }

  // The page may take its time, and be closed meanwhile.
  #fetchToken(got, failed) {
    const turn = ++this.#turn;
    const still = (then) => (value) => {
      if (turn === this.#turn && this.state !== "closed") then(value);
    };
    const asked = new Promise((resolve) => resolve(this.#getToken()));
    // A text from a file or an answer may end with a line break.
    const trimmed = asked.then((token) => typeof token === "string" ? token.trim() : token);
    trimmed.then(still(got), still(failed));
  }

  #dial() {
    let socket;
    try {
      socket = new WebSocket(this.#address(), "weir.v1.json");
    } catch (error) {
      this.#end("the address is not valid", { reason: error.message });
      // Without a token this is still `connect`, which has somebody to throw to.
      if (!this.#getToken) throw error;
      return;
    }
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#read(socket, data);
    socket.onclose = ({ code, reason }) => this.#lost(socket, code, reason);
    this.#watch = setTimeout(() => this.#lost(socket, 1006, "no welcome"), CONNECT_MS);
    if (!this.#getToken) this.#enter("connecting");
  }

  // One that comes back says who it was, and learns from `welcome` why it was closed.
  #address() {
    if (!this.client) return this.#url;
    return `${this.#url}${String(this.#url).includes("?") ? "&" : "?"}was=${this.client}`;
  }

  #read(socket, text) {
    if (socket !== this.#socket || typeof text !== "string") return;
    this.#alive(socket);
    for (const line of text.split("\n")) {
      // A handler may have closed the client.
      if (line && socket === this.#socket) this.#take(JSON.parse(line));
    }
  }

  #take(message) {
    const entry = this.#channels.get(message.channel);
    const told = (entry ?? this.#pattern(message.channel))?.handlers;
    switch (message.type) {
      case "welcome":
        this.client = message.client;
        this.pingMs = message.ping_ms;
        this.#alive(this.#socket);
        if (message.id) {
          this.user = message.user;
          break;
        }
        if (this.#token) {
          this.#introduce(this.#socket, message);
          return;
        }
        this.#opened(message);
        return;
      case "event":
        if (entry?.since && !message.snapshot) entry.since.offset = message.offset;
        tell(told, "event", message);
        tell(this.#handlers, "event", message);
        return;
      case "lagged":
        tell(told, "lagged", message);
        tell(this.#handlers, "lagged", message);
        return;
      case "signal":
        tell(told, "signal", message);
        tell(this.#handlers, "signal", message);
        return;
      case "subscribed":
        // The offset of a change, and of a return that is whole, is ahead of what has come: those
        // events are on their way.
        if (entry && message.epoch && !message.updated && message.recovered !== true) {
          entry.since = { epoch: message.epoch, offset: message.offset };
        }
        tell(told, "subscribed", message);
        break;
      case "unsubscribed":
        // Nobody here has asked for one with a code.
        if (entry && message.code) {
          tell(entry.handlers, "error", new WeirError(message.code, message.reason));
        }
        break;
      case "disconnect":
        this.#retryAfterMs = message.retry_after_ms ?? 0;
        tell(this.#handlers, "disconnect", message);
        return;
    }
    this.#settle(message);
  }

  #opened(welcome) {
    this.#attempt = 0;
    this.user = welcome.user;
    // Before the page hears of it: what it publishes then comes after its subscriptions.
    for (const [channel, each] of this.#channels) this.#subscribe(channel, each);
    this.#release();
    this.#enter("open");
    tell(this.#handlers, "welcome", welcome);
  }

  // Says who it is, before anything else. `first` is the welcome of a stranger.
  #introduce(socket, first) {
    this.#ask({ type: "auth", token: this.#token }).then((known) => {
      if (socket !== this.#socket) return;
      this.#wake(socket);
      this.#opened({ ...first, ...known, id: undefined });
    }, (error) => {
      if (socket !== this.#socket || error.code === "unavailable") return;
      // The gateway's close follows, and before it when to come back.
      if (error.code === "limit_exceeded") return;
      if (error.code === "token_expired" || error.code === "timeout") {
        this.#lost(socket, 4003, error.code);
      } else if (error.code === "overloaded" || error.code === "rate_limited") {
        this.#retryAfterMs = error.retryAfterMs ?? 0;
        this.#lost(socket, 4005, error.code);
      } else {
        this.#end("the token was refused", { code: 4500, reason: error.code });
      }
    });
  }

  // Brings another token in time. One that ends before it has come is a loss like any other.
  #wake(socket, sooner = Infinity) {
    const left = endOf(this.#token) - Date.now();
    const wait = Math.max(Math.min(Math.max(left - REFRESH_MS, left / 2), sooner), REFRESH_MIN_MS);
    clearTimeout(this.#refresh);
    if (!(wait < Infinity)) return;
    this.#refresh = setTimeout(() => {
      if (wait > TIMER_MAX_MS) this.#wake(socket);
      else this.#renew(socket);
    }, Math.min(wait, TIMER_MAX_MS));
  }

  #renew(socket) {
    const again = () => { if (socket === this.#socket) this.#wake(socket, REFRESH_MIN_MS); };
    this.#fetchToken((token) => {
      if (socket !== this.#socket) return;
      this.#ask({ type: "auth", token }).then(() => {
        this.#token = token;
        if (socket === this.#socket) this.#wake(socket);
      }, (error) => {
        // Of another user: that is another connection.
        if (error.code === "forbidden") this.#lost(socket, 4003, "another user");
        else again();
      });
    }, again);
  }

  // The separators of a name, from its end: how far a pattern may reach.
  #pattern(channel) {
    for (let at = channel?.length ?? 0; at > 0; at--) {
      if (!":/".includes(channel[at - 1])) continue;
      const entry = this.#channels.get(`${channel.slice(0, at)}*`);
      if (entry) return entry;
    }
    return undefined;
  }

  #subscribe(channel, entry) {
    const since = entry.since ?? undefined;
    const sent = this.#ask({ type: "subscribe", channel, ...entry.options, since });
    sent.catch((error) => tell(entry.handlers, "error", error));
  }

  #unsubscribe(channel, entry) {
    if (this.#channels.get(channel) !== entry) return;
    this.#channels.delete(channel);
    if (this.state === "open") this.#send(JSON.stringify({ type: "unsubscribe", channel }));
  }

  #ask(command, hold = false) {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const text = JSON.stringify({ ...command, id });
      const room = this.#held.size < HELD_MAX && this.#heldChars + text.length <= HELD_CHARS_MAX;
      if (hold && this.state !== "closed") {
        if (!room) throw new WeirError("overloaded", "too many events wait for a connection");
        this.#held.set(id, text);
        this.#heldChars += text.length;
      } else if (!this.#send(text)) {
        throw new WeirError("unavailable", "not connected");
      }
      const late = () => {
        this.#waiting.delete(id);
        const unsent = this.#unhold(id);
        reject(unsent ? new WeirError("unavailable", "no connection in time")
          : new WeirError("timeout", "no answer in time"));
      };
      this.#waiting.set(id, { resolve, reject, timer: setTimeout(late, ANSWER_MS) });
    });
  }

  #unhold(id) {
    const text = this.#held.get(id);
    if (text === undefined) return false;
    this.#heldChars -= text.length;
    return this.#held.delete(id);
  }

  #release() {
    for (const [id, text] of this.#held) if (this.#send(text)) this.#unhold(id);
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

  #send(text) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(text);
    return true;
  }

  // Browsers hide the gateway's pings, so a silent line is asked; no answer means it is dead.
  #alive(socket) {
    if (!this.pingMs) return;
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => {
      this.#ask({ type: "ping" }).catch(() => this.#lost(socket, 1006, "no answer"));
    }, this.pingMs);
  }

  // A connection is lost once, however many notice: its close, its pings, its missing welcome.
  #lost(socket, code, reason) {
    if (socket !== this.#socket) return;
    if (code >= 4500) {
      this.#end("the gateway closed the connection", { code, reason });
      return;
    }
    this.#drop("the connection was lost");
    const ceiling = Math.min(DELAY_MAX_MS, DELAY_MIN_MS * 2 ** Math.min(this.#attempt++, 10));
    const delayMs = DELAY_MIN_MS + Math.random() * Math.max(ceiling - DELAY_MIN_MS, DELAY_MIN_MS);
    const waitMs = Math.max(Math.min(delayMs, DELAY_MAX_MS), this.#retryAfterMs);
    this.#retryAfterMs = 0;
    this.#timer = setTimeout(() => this.#open(), waitMs);
    this.#enter("waiting", { code, reason, waitMs });
  }

  #end(why, detail) {
    this.#held.clear();
    this.#heldChars = 0;
    this.#drop(why);
    this.#enter("closed", detail);
  }

  // Gives up the connection, and the commands whose answers it took with it.
  #drop(why) {
    this.#turn += 1;
    clearTimeout(this.#timer);
    clearTimeout(this.#watch);
    clearTimeout(this.#refresh);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    for (const [id, { reject, timer }] of this.#waiting) {
      if (this.#held.has(id)) continue;
      clearTimeout(timer);
      this.#waiting.delete(id);
      reject(new WeirError("unavailable", why));
    }
  }

  #enter(state, detail = {}) {
    this.state = state;
    tell(this.#handlers, "state", state, detail);
  }
}
