// Runs the browser client that a gateway serves: the README's example, a lost connection, a line
// that falls silent, close(); and, where another gateway asks for them, tokens. Prints `ok`, or
// fails with what was wrong.
//
//   node browser.mjs HOST:PORT README.md GUARDED-HOST:PORT SECRET
//
// The client goes through a proxy of this script, which can cut and silence its connections. Its
// clock goes on only when the script says so, and its timers and sockets can be counted.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import net from "node:net";

const [gateway, readme, guarded, secret] = process.argv.slice(2);
const userMax = 8; // limits.connections_per_user of the guarded one
const [host, port] = gateway.split(":");
setTimeout(() => { console.error("took too long"); process.exit(1); }, 180000).unref();

const pairs = new Set();
const proxy = net.createServer((near) => {
  const far = net.connect(Number(port), host);
  const pair = { near, far };
  pairs.add(pair);
  near.pipe(far);
  far.pipe(near);
  for (const [one, other] of [[near, far], [far, near]]) {
    one.on("error", () => {});
    one.on("close", () => { pairs.delete(pair); other.destroy(); });
  }
});
await new Promise((listening) => proxy.listen(0, "127.0.0.1", listening));
const cut = () => { for (const { near } of pairs) near.destroy(); };
const silence = () => { for (const { near, far } of pairs) { far.unpipe(near); far.resume(); } };

globalThis.location = { href: `http://127.0.0.1:${proxy.address().port}/` };
const timers = new Map(); // id -> { due, run }
const sockets = [];
let clock = 0;
let timersMade = 0;
globalThis.bench = {
  setTimeout(run, ms) {
    timers.set(++timersMade, { due: clock + ms, run });
    return timersMade;
  },
  clearTimeout: (id) => timers.delete(id),
  WebSocket: class extends WebSocket {
    sent = [];
    constructor(...how) {
      super(...how);
      sockets.push(this);
    }
    send(text) {
      const command = JSON.parse(text);
      this.sent.push(command);
      const answer = bench.instead?.(command);
      if (!answer) super.send(text);
      else setImmediate(() => this.onmessage({ data: JSON.stringify(answer) }));
    }
  },
};
const kinds = (socket) => socket.sent.map(({ type }) => type);

const module = (text) => `data:text/javascript;base64,${Buffer.from(text).toString("base64")}`;
const source = await (await fetch(`http://${gateway}/weir.js`)).text();
const client = module(`const { setTimeout, clearTimeout, WebSocket } = bench;\n${source}`);
const { connect, WeirError } = await import(client);

/** Lets the client's clock go on by `ms`, and what follows from it happen. */
async function elapse(ms) {
  clock += ms;
  for (const [id, { due, run }] of timers) if (due <= clock && timers.delete(id)) run();
  await new Promise((later) => setImmediate(later));
}

async function until(what, ready) {
  for (let tries = 0; tries < 6000; tries += 1) {
    if (ready()) return;
    await new Promise((later) => setTimeout(later, 5));
  }
  assert.fail(`waited for: ${what}`);
}

/** A client that notes its states and the texts it receives on `room:2`. */
function watched() {
  const seen = { states: [], texts: [] };
  seen.weir = connect(undefined, { state: (state) => seen.states.push(state) });
  seen.weir.subscribe("room:2", { event: ({ data }) => seen.texts.push(data) });
  return seen;
}

const rejected = (promise, code) => assert.rejects(promise, (error) => {
  assert.ok(error instanceof WeirError, String(error));
  assert.equal(error.code, code, error.message);
  return true;
});

async function readmeExample() {
  const text = readFileSync(readme, "utf8");
  const [, example] = text.match(/```js\n(import [^]*?\n)```/);
  const printed = [];
  globalThis.page = { log: (...words) => printed.push(words), warn: console.error };
  const steps = example.replace('"/weir.js"', JSON.stringify(client));
  const { weir } = await import(module(`const console = page;\n${steps}\nexport { weir };`));
  await until("the example's own event", () => printed.length > 0);
  assert.deepEqual(printed, [[1, { text: "hello" }]]);
  assert.deepEqual(kinds(sockets[0]), ["subscribe", "publish"], "the subscription goes first");
  weir.close();
}

async function lostConnection() {
  const { weir, states, texts } = watched();
  await weir.publish("room:2", "before");
  await until("its event", () => texts.length === 1);
  const first = sockets.length;
  cut();
  await until("the loss", () => weir.state === "waiting");
  assert.equal(weir.send("room:2", "nobody hears this"), false);
  const held = weir.publish("room:2", "during");
  await elapse(1000);
  await held;
  await until("both events", () => texts.length === 2);
  assert.deepEqual(texts, ["before", "during"]);
  assert.deepEqual(kinds(sockets.at(-1)).slice(0, 2), ["subscribe", "publish"]);
  assert.equal(sockets.at(-1).sent[0].since.offset, 1, "from where it was");
  assert.equal(sockets.length, first + 1);
  assert.deepEqual(states, ["connecting", "open", "waiting", "connecting", "open"]);
  weir.close();
}

async function silentLine() {
  const { weir, states } = watched();
  await until("the connection", () => weir.state === "open");
  const [first, socket] = [sockets.length, sockets.at(-1)];
  silence();
  const unheard = rejected(weir.publish("room:2", "unheard"), "timeout");
  await elapse(weir.pingMs);
  assert.equal(kinds(socket).at(-1), "ping", "a silent line is asked");
  await unheard;
  await elapse(10000);
  assert.equal(weir.state, "waiting", "no answer is a loss");
  await elapse(1000);
  await until("another connection", () => weir.state === "open");
  await elapse(1000);
  assert.equal(sockets.length, first + 1, "one loss, one connection");
  assert.deepEqual(states, ["connecting", "open", "waiting", "connecting", "open"]);
  weir.close();
}

async function closed() {
  const { weir, states } = watched();
  await until("the connection", () => weir.state === "open");
  const [first, socket] = [sockets.length, sockets.at(-1)];
  silence();
  await elapse(weir.pingMs);
  assert.equal(kinds(socket).at(-1), "ping");
  weir.close();
  weir.close();
  await elapse(0);
  assert.equal(timers.size, 0, "nothing is left that could come back");
  await rejected(weir.publish("room:2", "late"), "unavailable");
  const error = await new Promise((told) => weir.subscribe("room:2", { error: told }));
  assert.equal(error.code, "unavailable");
  assert.equal(sockets.length, first);
  assert.deepEqual(states, ["connecting", "open", "closed"]);
}

async function toldToStayAway() {
  const { weir, states } = watched();
  await until("the connection", () => weir.state === "open");
  const first = sockets.length;
  const body = JSON.stringify({ client: weir.client });
  const headers = { "Content-Type": "application/json" };
  await fetch(`http://${gateway}/api/v1/disconnect`, { method: "POST", headers, body });
  await until("the end", () => weir.state === "closed");
  assert.equal(timers.size, 0);
  assert.equal(sockets.length, first);
  assert.deepEqual(states, ["connecting", "open", "closed"]);
}

async function comesBackAsWhoItWas() {
  const { weir } = watched();
  await until("the connection", () => weir.state === "open");
  const before = weir.client;
  assert.ok(!sockets.at(-1).url.includes("was="), "it was nobody");
  cut();
  await until("the loss", () => weir.state === "waiting");
  await elapse(1000);
  await until("another connection", () => weir.state === "open");
  assert.ok(sockets.at(-1).url.endsWith(`/ws?was=${before}`), sockets.at(-1).url);
  assert.notEqual(weir.client, before);
  weir.close();
}

/** The answer to a change overtakes what is held back: a break then has missed that. */
async function changed() {
  const { weir } = watched();
  let answers = 0;
  const heard = [];
  const told = { subscribed: () => { answers += 1; }, event: ({ data }) => heard.push(data) };
  weir.subscribe("room:4", told, { max_rate: 0.1 });
  for (let n = 1; n < 4; n += 1) {
    await weir.publish("room:4", n);
    if (n === 1) await until("the first event", () => heard.length === 1);
  }
  weir.subscribe("room:4", told, { max_rate: 0.1 });
  await until("the answer", () => answers === 2);
  cut();
  await until("the loss", () => weir.state === "waiting");
  await elapse(1000);
  await until("another connection", () => weir.state === "open");
  const asked = sockets.at(-1).sent.find(({ channel }) => channel === "room:4");
  assert.equal(asked.since.offset, 1, "from the last event that came");
  weir.close();
}

async function signals() {
  const [one, other] = [connect(), connect()];
  const seen = { lists: [], signals: [] };
  assert.equal(one.signal("shown:1", "typing", true), false, "not yet connected");
  await one.publish("shown:1", "ready"); // Waits for the connection.
  other.subscribe("shown:1", {
    subscribed: ({ signals }) => seen.lists.push(signals),
    signal: ({ from, name, data }) => seen.signals.push([from.client, name, data]),
  });
  await until("the list", () => seen.lists.length === 1);
  assert.deepEqual(seen.lists, [[]]);
  let subscribed = false;
  one.subscribe("shown:1", { subscribed: () => { subscribed = true; } });
  await until("the subscription", () => subscribed);
  assert.equal(one.signal("shown:1", "typing", true, { ttl_ms: 60000 }), true);
  const { client: id } = one;
  await until("the signal", () => seen.signals.length === 1);
  one.close();
  await until("its end", () => seen.signals.length === 2);
  assert.deepEqual(seen.signals, [[id, "typing", true], [id, "typing", null]]);
  other.close();
}

/** What a handler throws is reported, and costs neither the events behind it nor an answer. */
async function handlersThrow() {
  const reported = [];
  globalThis.reportError = ({ message }) => reported.push(message);
  const fail = (what) => { throw new Error(what); };
  const heard = [];
  const weir = connect(undefined, {
    state: (state) => fail(state),
    welcome: () => fail("welcome"),
    event: ({ data }) => heard.push(data),
  });
  weir.subscribe("room:6", { subscribed: () => fail("subscribed"), event: () => fail("event") });
  await weir.publish("room:6", 1);
  await until("its event", () => heard.length === 1);
  const [socket, at] = [sockets.at(-1), { type: "event", channel: "room:6", ts: 1 }];
  const lines = [2, 3].map((offset) => JSON.stringify({ ...at, offset, data: offset }));
  socket.onmessage({ data: lines.join("\n") });
  assert.deepEqual(heard, [1, 2, 3], "the second line of a frame as well");
  const told = ["connecting", "open", "welcome", "subscribed", "event", "event", "event"];
  assert.deepEqual(reported, told);
  weir.close();
  delete globalThis.reportError;
}

/** A handler that closes the client hears no more, also of the frame that it has at hand. */
async function closedByAHandler() {
  const { weir, texts } = watched();
  await until("the connection", () => weir.state === "open");
  weir.subscribe("room:2", { event: ({ data }) => { texts.push(data); weir.close(); } });
  const line = JSON.stringify({ type: "event", channel: "room:2", offset: 1, data: "once" });
  sockets.at(-1).onmessage({ data: `${line}\n${line}` });
  assert.deepEqual(texts, ["once"]);
}

async function revoked() {
  const { weir } = watched();
  await until("the connection", () => weir.state === "open");
  const errors = [];
  weir.subscribe("room:2", { error: (error) => errors.push(error) });
  const end = { type: "unsubscribed", channel: "room:2", code: "forbidden", reason: "by new rules" };
  sockets.at(-1).onmessage({ data: JSON.stringify(end) });
  await until("the error", () => errors.length === 1);
  assert.ok(errors[0] instanceof WeirError);
  assert.deepEqual([errors[0].code, errors[0].message], ["forbidden", "by new rules"]);
  weir.close();
}

async function badAddress() {
  const states = [];
  const noted = { state: (state, { reason }) => states.push([state, Boolean(reason)]) };
  assert.throws(() => connect("no address", noted));
  assert.deepEqual(states, [["closed", true]]);
  const weir = connect("no address", noted, { getToken: () => "t" });
  await until("the end", () => weir.state === "closed");
  assert.deepEqual(states.slice(1), [["connecting", false], ["closed", true]]);
}

async function boundedWait() {
  const { weir } = watched();
  await until("the connection", () => weir.state === "open");
  cut();
  await until("the loss", () => weir.state === "waiting");
  const held = [];
  for (let n = 0; n < 1000; n += 1) held.push(weir.publish("room:3", n));
  await rejected(weir.publish("room:3", "one too many"), "overloaded");
  const given = Promise.all(held.map((one) => rejected(one, "unavailable")));
  weir.close();
  await given;
  assert.equal(timers.size, 0);
}

const guardedUrl = `ws://${guarded}/ws`;

/** A token of `user` that ends in so many seconds. */
function token(user, seconds, key = secret) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: user, exp: Math.floor(Date.now() / 1000) + seconds };
  const message = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${message}.${createHmac("sha256", key).update(message).digest("base64url")}`;
}

/** A client of the guarded gateway that gets these tokens one after the other, the last for ever. */
function bearing(...tokens) {
  const seen = { states: [], asked: 0 };
  const getToken = async () => {
    const next = tokens[Math.min(seen.asked, tokens.length - 1)];
    seen.asked += 1;
    if (next instanceof Error) throw next;
    return typeof next === "function" ? next() : next;
  };
  const state = (state, detail) => {
    seen.states.push([state, detail?.code]);
    seen.waitMs = detail?.waitMs;
  };
  seen.weir = connect(guardedUrl, { state }, { getToken });
  return seen;
}

async function tokenFirst() {
  const first = sockets.length;
  const { weir } = bearing(`${token("u1", 600)}\n`);
  const texts = [];
  weir.subscribe("room:5", { event: ({ data, from }) => texts.push([data, from.user]) });
  await weir.publish("room:5", "mine");
  await until("its event", () => texts.length === 1);
  assert.deepEqual(texts, [["mine", "u1"]]);
  assert.equal(weir.user, "u1");
  assert.deepEqual(kinds(sockets.at(-1)), ["auth", "subscribe", "publish"]);
  assert.equal(sockets.length, first + 1);
  assert.ok(!sockets.at(-1).url.includes("token"), "never in an address");
  weir.close();
}

async function tokenRenewed() {
  const seen = bearing(token("u1", 60), token("u1", 6000));
  await until("the connection", () => seen.weir.state === "open");
  const [first, socket] = [sockets.length, sockets.at(-1)];
  await elapse(29000);
  assert.equal(seen.asked, 1, "half a minute before its end, and not sooner");
  await elapse(2000);
  await until("another token", () => kinds(socket).filter((kind) => kind === "auth").length === 2);
  await seen.weir.publish("room:5", "still here");
  await elapse(600000);
  assert.deepEqual([seen.asked, sockets.length, seen.weir.state], [2, first, "open"]);
  seen.weir.close();
}

async function tokenNotRenewed() {
  const seen = bearing(token("u1", 60), new Error("the page has none"), token("u1", 6000));
  await until("the connection", () => seen.weir.state === "open");
  const socket = sockets.at(-1);
  await elapse(31000);
  assert.deepEqual([seen.asked, kinds(socket)], [2, ["auth"]]);
  await elapse(10000);
  await until("another try", () => kinds(socket).length === 2);
  assert.equal(seen.weir.state, "open");
  seen.weir.close();
}

async function tokenEnded() {
  const seen = bearing(token("u1", 600), token("u1", 6000));
  const { weir } = seen;
  const texts = [];
  weir.subscribe("room:5", { event: ({ data }) => texts.push(data) });
  await weir.publish("room:5", 1);
  sockets.at(-1).onclose({ code: 4003, reason: "token_expired" });
  assert.equal(weir.state, "waiting");
  const held = weir.publish("room:5", 2);
  await elapse(1000);
  await held;
  await until("the event", () => texts.includes(2));
  assert.equal(seen.asked, 2, "another connection takes another token");
  assert.deepEqual(kinds(sockets.at(-1)).slice(0, 3), ["auth", "subscribe", "publish"]);
  weir.close();
}

async function tokenEndedOnItsWay() {
  const seen = bearing(token("u1", -60), token("u1", 600));
  await until("the refusal", () => seen.weir.state === "waiting");
  assert.deepEqual(seen.states.at(-1), ["waiting", 4003]);
  await elapse(1000);
  await until("the connection", () => seen.weir.state === "open");
  assert.deepEqual([seen.asked, seen.weir.user], [2, "u1"]);
  seen.weir.close();
}

async function tokenRefused() {
  const first = sockets.length;
  const seen = bearing(token("u1", 600, "another-secret-another-secret-another"));
  await until("the end", () => seen.weir.state === "closed");
  assert.deepEqual(seen.states.at(-1), ["closed", 4500]);
  assert.deepEqual([seen.asked, sockets.length, timers.size], [1, first + 1, 0]);
}

/** Nothing is wrong with the token: the gateway has no time for it. */
async function tokenComesLater() {
  for (const code of ["overloaded", "rate_limited"]) {
    const first = sockets.length;
    bench.instead = ({ type, id }) => type === "auth"
      && { type: "error", id, code, message: "not now", retry_after_ms: 3000 };
    const seen = bearing(token("u1", 600));
    await until("the refusal", () => seen.weir.state === "waiting");
    assert.deepEqual([seen.states.at(-1), seen.waitMs], [["waiting", 4005], 3000], code);
    bench.instead = null;
    await elapse(2999);
    assert.equal(sockets.length, first + 1, "not sooner than it was told");
    await elapse(1);
    await until("the connection", () => seen.weir.state === "open");
    assert.equal(seen.weir.user, "u1");
    seen.weir.close();
  }
}

/** One more connection than the user may have comes back when it was told to, until it may stay. */
async function tokenOfOneTooMany() {
  const held = [];
  for (let n = 0; n < userMax; n += 1) {
    const one = bearing(token("many", 600));
    await until("a connection", () => one.weir.state === "open");
    held.push(one.weir);
  }
  const seen = bearing(token("many", 600));
  await until("the refusal", () => seen.weir.state === "waiting");
  assert.deepEqual(seen.states.at(-1), ["waiting", 4005]);
  assert.ok(seen.waitMs >= 1000 && seen.waitMs <= 5000, `as it was told, ${seen.waitMs}`);
  for (const weir of held) weir.close();
  // Those may take their time to go.
  while (seen.weir.state !== "open") {
    await elapse(seen.waitMs ?? 0);
    await until("a decision", () => ["waiting", "open"].includes(seen.weir.state));
  }
  seen.weir.close();
}

async function tokenNotThere() {
  const first = sockets.length;
  const seen = bearing(new Error("not logged in"), () => new Promise(() => {}), token("u1", 600));
  await until("the loss", () => seen.weir.state === "waiting");
  assert.equal(sockets.length, first, "no token, no connection");
  await elapse(1000);
  assert.equal(seen.weir.state, "connecting", "the page takes its time");
  await elapse(20000);
  assert.equal(seen.weir.state, "waiting", "and too much of it");
  await elapse(20000);
  await until("the connection", () => seen.weir.state === "open");
  seen.weir.close();
  const late = bearing(async () => token("u2", 600));
  late.weir.close();
  await elapse(0);
  assert.equal(sockets.length, first + 1, "closed before its token came");
}

const steps = [
  readmeExample, lostConnection, silentLine, closed, toldToStayAway, comesBackAsWhoItWas,
  changed, signals, handlersThrow, closedByAHandler, revoked, badAddress, boundedWait, tokenFirst, tokenRenewed, tokenNotRenewed, tokenEnded,
  tokenEndedOnItsWay, tokenRefused, tokenComesLater, tokenOfOneTooMany, tokenNotThere,
];
for (const step of steps) {
  await step();
  assert.equal(timers.size, 0, `${step.name} leaves no timer`);
}
console.log("ok");
process.exit(0);
