// The live page: a card for each channel, a row for each number that its events carry.
// What comes from events is only ever set as text.

import { connect } from "/weir.js";

const CHANNELS_MAX = 60;
const ROWS_MAX = 48;
const HIDDEN_MAX = 999;
const IDLE_MS = 10000;
const POINTS = 60;
const LIST_EVERY_MS = 2000;

const $ = (id) => document.getElementById(id);
const cards = new Map();
const removed = new Set();
const total = { events: 0, missed: 0, rate: 0 };
let drawnAt = performance.now();
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const PREFIXES = ["", "k", "M", "G", "T", "P", "E"];

/** A number in some six characters: 25.28G, 840, 0.78. */
function short(value) {
  const size = Math.abs(value);
  if (!(size >= 1e4 && size < 1e21)) return number.format(value);
  const step = Math.floor(Math.log10(size) / 3);
  return number.format(value / 1000 ** step) + PREFIXES[step];
}

const weir = connect(undefined, {
  state(state, { code, reason, waitMs }) {
    $("state").dataset.state = state;
    const why = [code, reason].filter(Boolean).join(" ");
    const again = waitMs ? `, again in ${(waitMs / 1000).toFixed(1)} s` : "";
    $("state").textContent = state === "open" ? "live" : `${state}${why && ` (${why})`}${again}`;
  },
});

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

class Card {
  constructor(channel) {
    this.channel = channel;
    this.rows = new Map();
    this.hidden = new Map(); // label -> when it last came and found no room
    this.events = 0;
    this.before = 0;
    this.dropped = 0;
    this.fault = ""; // why nothing comes
    this.root = element("article");
    const head = element("header");
    this.info = element("span", "", "subscribing");
    const close = element("button", "", "\u00d7");
    close.title = "Stop watching";
    close.setAttribute("aria-label", `Stop watching ${channel}`);
    close.onclick = () => this.close();
    head.append(element("h2", "", channel), this.info, close);
    this.lag = element("p", "lag");
    this.lag.hidden = true;
    this.body = element("div");
    this.root.append(head, this.lag, this.body);
    $("cards").append(this.root);
    this.feed = weir.subscribe(channel, {
      event: (event) => this.take(event),
      lagged: (notice) => this.missed(notice),
      subscribed: ({ recovered }) => {
        this.fault = "";
        this.info.textContent = recovered === false ? "subscribed, with a gap" : "subscribed";
      },
      error: ({ message }) => {
        this.fault = message;
        this.info.textContent = message;
      },
    });
  }

  close() {
    this.feed.close();
    this.root.remove();
    cards.delete(this.channel);
    removed.add(this.channel);
  }

  take(event) {
    this.events += 1;
    total.events += 1;
    const label = event.key ?? "";
    if ("data_b64" in event) return this.row(label || "bytes")?.set(`${event.data_b64.length} base64`);
    const data = event.data;
    if (data === null || typeof data !== "object" || Array.isArray(data)) {
      return this.row(label || "value")?.set(data);
    }
    for (const [field, value] of Object.entries(data)) {
      // `load load_1m` would say it twice.
      const bare = !label || field.startsWith(`${label}_`);
      this.row(bare ? field : `${label} ${field}`)?.set(value);
    }
  }

  missed({ dropped, age_ms: age }) {
    this.dropped += dropped;
    total.missed += dropped;
    this.lag.hidden = false;
    this.lag.textContent = `missed ${number.format(this.dropped)}, `
      + `last ${number.format(dropped)} at ${new Date().toLocaleTimeString()}`
      + (age === undefined ? "" : `, ${number.format(age)} ms old`);
  }

  /** The row of `label`; nothing where the card is full. */
  row(label) {
    let row = this.rows.get(label);
    if (row) return row;
    if (this.rows.size >= ROWS_MAX) {
      if (this.hidden.size < HIDDEN_MAX || this.hidden.has(label)) this.hidden.set(label, drawnAt);
      return undefined;
    }
    this.hidden.delete(label);
    row = new Row(label);
    this.rows.set(label, row);
    this.body.append(row.root);
    return row;
  }

  /** Takes away what has not come for a while, if something else has no room. */
  tidy() {
    for (const [label, at] of this.hidden) {
      if (drawnAt - at > IDLE_MS) this.hidden.delete(label);
    }
    if (!this.hidden.size) return;
    for (const [label, row] of this.rows) {
      if (drawnAt - row.at <= IDLE_MS) continue;
      row.root.remove();
      this.rows.delete(label);
    }
  }

  draw(seconds) {
    const rate = (this.events - this.before) / seconds;
    this.before = this.events;
    this.tidy();
    if (this.events && !this.fault) {
      const { size } = this.hidden;
      const more = size ? ` \u00b7 ${size}${size < HIDDEN_MAX ? "" : " or"} more` : "";
      this.info.textContent = `${short(rate)}/s \u00b7 ${number.format(this.events)}${more}`;
    }
    return rate;
  }
}

class Row {
  constructor(label) {
    this.root = element("div", "row");
    this.root.append(element("span", "", label));
    this.percent = /percent$/.test(label);
    this.points = [];
    this.dirty = false;
    this.numeric = null;
  }

  set(value) {
    this.value = value;
    this.at = drawnAt;
    this.dirty = true;
    if (Number.isFinite(value)) {
      this.points.push(value);
      if (this.points.length > POINTS) this.points.shift();
    }
  }

  shape(numeric) {
    if (this.numeric === numeric) return;
    this.numeric = numeric;
    while (this.root.childNodes.length > 1) this.root.lastChild.remove();
    if (numeric) {
      // Only what says that it is a percentage has a whole to be shown as a part of.
      this.fill = this.percent ? element("i") : null;
      if (this.fill) {
        const bar = element("div", "bar");
        bar.append(this.fill);
        this.root.append(bar);
      }
      const space = "http://www.w3.org/2000/svg";
      const svg = document.createElementNS(space, "svg");
      svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 20`);
      svg.setAttribute("preserveAspectRatio", "none");
      svg.setAttribute("aria-hidden", "true");
      if (!this.fill) svg.setAttribute("class", "wide");
      this.spark = document.createElementNS(space, "polyline");
      svg.append(this.spark);
      this.shown = element("span", "value");
      this.root.append(svg, this.shown);
    } else {
      this.shown = element("span", "text");
      this.root.append(this.shown);
    }
  }

  draw() {
    if (!this.dirty) return;
    this.dirty = false;
    const value = this.value;
    this.shape(Number.isFinite(value)); // JSON has 1e400, which is Infinity here
    if (!this.numeric) {
      const text = typeof value === "object" ? JSON.stringify(value) : String(value);
      this.shown.textContent = text.slice(0, 400);
      return;
    }
    this.shown.textContent = short(value);
    const low = Math.min(0, ...this.points);
    const high = Math.max(low, ...this.points);
    const part = (point) => (point - low) / (high - low || 1);
    if (this.fill) {
      this.fill.style.transform = `scaleX(${Math.min(Math.max(value / 100, 0), 1)})`;
    }
    const first = POINTS - this.points.length;
    this.spark.setAttribute("points", this.points
      .map((point, at) => `${first + at},${(19 - 18 * part(point)).toFixed(1)}`).join(" "));
  }
}

function watch(channel) {
  if (cards.has(channel)) return;
  cards.set(channel, new Card(channel));
  $("empty").hidden = true;
}

$("add").onsubmit = (submitted) => {
  submitted.preventDefault();
  const channel = $("name").value.trim();
  removed.delete(channel);
  watch(channel);
  $("name").value = "";
};

function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
}

async function list() {
  try {
    const answer = await fetch(`/api/v1/channels?limit=${CHANNELS_MAX}`);
    const body = await answer.json();
    if (answer.ok) {
      const fresh = body.channels.map(({ channel }) => channel).filter((name) => !removed.has(name));
      for (const name of fresh) if (cards.size < CHANNELS_MAX) watch(name);
      notice(body.next ? `The first ${CHANNELS_MAX} channels are shown; name others above.` : "");
    } else if (answer.status === 401 || answer.status === 403) {
      const whom = answer.status === 401 ? "those who have an API key" : "the gateway's own machine";
      notice(`Channels are listed for ${whom} only; name one above.`);
      $("empty").hidden = true;
      return;
    }
  } catch {
    // The state above says that the gateway is away.
  }
  setTimeout(list, LIST_EVERY_MS);
}

setInterval(() => {
  const now = performance.now();
  const seconds = (now - drawnAt) / 1000;
  drawnAt = now;
  total.rate = 0;
  for (const card of cards.values()) total.rate += card.draw(seconds);
  $("rate").textContent = short(total.rate);
  $("count").textContent = number.format(total.events);
  $("missed").textContent = number.format(total.missed);
}, 1000);

function draw() {
  for (const card of cards.values()) for (const row of card.rows.values()) row.draw();
  requestAnimationFrame(draw);
}

requestAnimationFrame(draw);
list();
