// Runs the live page that a gateway serves, on elements that only know what the page needs, and
// that refuse everything by which a text could become markup. Prints `ok`, or fails with what was
// wrong.
//
//   node page.mjs HOST:PORT GUARDED-HOST:PORT
//
// The second gateway has API keys, so that it lists no channels for the page.

import assert from "node:assert/strict";

const [gateway, guarded] = process.argv.slice(2);
setTimeout(() => { console.error("took too long"); process.exit(1); }, 120000).unref();

class Element {
  constructor(tag) {
    this.tag = tag;
    this.attributes = new Map();
    this.childNodes = [];
    this.dataset = {};
    this.style = {};
    this.hidden = false;
    this.value = "";
    this.text = "";
  }

  get lastChild() { return this.childNodes.at(-1); }
  get textContent() { return this.text + this.childNodes.map((one) => one.textContent).join(" "); }
  set textContent(text) {
    this.childNodes = [];
    this.text = String(text);
  }

  append(...children) {
    for (const child of children) {
      assert.ok(child instanceof Element);
      child.parent = this;
      this.childNodes.push(child);
    }
  }

  remove() { this.parent.childNodes = this.parent.childNodes.filter((one) => one !== this); }

  setAttribute(name, value) {
    assert.ok(!/^(on|href|src|style)/i.test(name), `no attribute ${name}`);
    assert.ok(!/NaN|Infinity/.test(value), `${name}=${value}`);
    this.attributes.set(name, String(value));
  }

  /** All elements of a class below this one. */
  all(name) {
    const own = this.className === name ? [this] : [];
    return own.concat(...this.childNodes.map((one) => one.all(name)));
  }
}

for (const name of ["innerHTML", "outerHTML", "srcdoc"]) {
  Object.defineProperty(Element.prototype, name, { set() { assert.fail(`${name} is set`); } });
}

const fetched = globalThis.fetch;
const module = (text) => `data:text/javascript;base64,${Buffer.from(text).toString("base64")}`;
let opened = 0;

/** The page as one gateway serves it, with its elements by their ids. */
async function page(address) {
  const base = `http://${address}`;
  const get = async (path) => (await fetched(base + path)).text();
  const ids = new Map();
  for (const [, id] of (await get("/")).matchAll(/ id="(\w+)"/g)) ids.set(id, new Element(id));
  const document = {
    getElementById: (id) => ids.get(id) ?? assert.fail(`no element ${id}`),
    createElement: (tag) => new Element(tag),
    createElementNS: (space, tag) => new Element(tag),
  };
  globalThis[`page${++opened}`] = {
    document,
    fetch: (path) => fetched(base + path),
    location: { href: `${base}/` },
    requestAnimationFrame: (draw) => setTimeout(draw, 16),
  };
  const its = `const { document, fetch, location, requestAnimationFrame } = page${opened};\n`;
  const client = module(its + await get("/weir.js"));
  await import(module(its + (await get("/live.js")).replace('"/weir.js"', JSON.stringify(client))));
  return ids;
}

async function until(what, ready) {
  for (let tries = 0; tries < 6000; tries += 1) {
    if (ready()) return;
    await new Promise((later) => setTimeout(later, 5));
  }
  assert.fail(`waited for: ${what}`);
}

async function publish(events) {
  const headers = { "Content-Type": "application/x-ndjson" };
  const body = events.map((event) => JSON.stringify(event)).join("\n").replaceAll('"1e400"', "1e400");
  const url = `http://${gateway}/api/v1/publish`;
  const answer = await (await fetched(url, { method: "POST", headers, body })).json();
  assert.deepEqual(answer, { accepted: events.length, rejected: [] });
}

const markup = "<img src=x onerror=alert(1)>";

/** What comes from events is shown as it is, letter for letter. */
async function textStaysText() {
  await publish([{ channel: "a:1", data: 0 }]);
  const shown = await page(gateway);
  const cards = shown.get("cards");
  await until("the card", () => cards.childNodes.length === 1);
  await until("its subscription", () => cards.textContent.includes("subscribed"));
  await publish([
    { channel: "a:1", data: markup },
    { channel: "a:1", key: markup, data: { [markup]: markup, deep: { [markup]: [markup] } } },
    { channel: "a:1", key: "big", data: { value: "1e400" } },
    { channel: "a:1", key: "__proto__", data: { constructor: 1, percent: 50 } },
  ]);
  const rows = () => cards.all("row").map((row) => row.childNodes);
  await until("the rows", () => rows().filter((parts) => parts.length > 1).length === 6);
  assert.deepEqual(rows().map((parts) => [parts[0], parts.at(-1)].map((one) => one.textContent)), [
    ["value", markup],
    [`${markup} ${markup}`, markup],
    [`${markup} deep`, JSON.stringify({ [markup]: [markup] })],
    ["big value", "Infinity"],
    ["__proto__ constructor", "1"],
    ["__proto__ percent", "50"],
  ]);
  return shown;
}

/** A page over a thousand hosts shows the first of them, and says so. */
async function aThousandHosts(shown) {
  const cards = shown.get("cards");
  const events = [];
  for (let host = 0; host < 1000; host += 1) {
    events.push({ channel: `telemetry:h${host}`, key: "cpu0", data: { percent: host % 100 } });
  }
  await publish(events);
  await until("the cards", () => cards.childNodes.length === 60);
  await until("the notice", () => shown.get("notice").textContent.includes("first 60 channels"));
  const subscribed = () => cards.childNodes.filter((one) => / subscribed/.test(one.textContent));
  await until("their subscriptions", () => subscribed().length >= 59);
  await publish(events);
  await until("their events", () => cards.all("value").length >= 59);
  assert.equal(cards.childNodes.length, 60);
}

async function withoutAList() {
  const shown = await page(guarded);
  await until("the notice", () => shown.get("notice").textContent.includes("API key"));
  assert.equal(shown.get("notice").hidden, false);
  assert.equal(shown.get("empty").hidden, true, "nothing says that there are no channels");
  shown.get("name").value = "b:1";
  shown.get("add").onsubmit({ preventDefault() {} });
  const cards = shown.get("cards");
  await until("a card", () => cards.textContent.includes("b:1 subscribed"));
}

const shown = await textStaysText();
await aThousandHosts(shown);
await withoutAList();
console.log("ok");
process.exit(0);
