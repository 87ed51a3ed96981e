"""Reads two events through Python's `websockets` and checks them field by field.

Prints `subscribed` when events may be published, and `ok` at the end.
"""

import asyncio
import gzip
import json
import sys
import time

import websockets
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory


def check(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: wanted {wanted!r}, got {got!r}")


def varint(frame, at):
    value, shift = 0, 0
    while True:
        value |= (frame[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if frame[at - 1] < 0x80:
            return value, at


def binary(frame, flags):
    check("kind and flags", frame[:2], bytes([0x01, flags]))
    alias, at = varint(frame, 2)
    offset, at = varint(frame, at)
    ts, at = varint(frame, at)
    length, at = varint(frame, at)
    payload = frame[at + length:]
    data = gzip.decompress(payload) if flags & 0x01 else payload
    return {"type": "event", "alias": alias, "offset": offset, "ts": ts,
            "key": frame[at:at + length].decode(), "data": json.loads(data)}


async def large(url, subprotocol, bits, kind, decode):
    """A large event of its own, as the library hands it over. It allows the gateway a window of
    these bits, or offers no compression."""
    offer = {"subprotocols": [subprotocol], "compression": None}
    if bits:
        offer["extensions"] = [ClientPerMessageDeflateFactory(server_max_window_bits=bits)]
    async with websockets.connect(url, **offer) as socket:
        check("subprotocol", socket.subprotocol, subprotocol)
        await socket.recv()
        await socket.send(json.dumps({"type": "subscribe", "channel": "room:2"}))
        subscribed = json.loads(await socket.recv())
        data = [{"host": "eu-1", "cpu": n % 7, "up": True} for n in range(200)]
        await socket.send(json.dumps(
            {"type": "publish", "channel": "room:2", "key": "k", "data": data}))
        message = await asyncio.wait_for(socket.recv(), 30)
        what = f"{subprotocol}, {bits}"
        check(f"{what}: message type", type(message), kind)
        event = decode(message)
        check(what, [event[key] for key in ("type", "key", "data")], ["event", "k", data])
        check(f"{what}: offset", event["offset"], subscribed["offset"] + 1)
        check(f"{what}: alias", event.get("alias", subscribed["alias"]), subscribed["alias"])


async def main(url):
    async with websockets.connect(url, subprotocols=["weir.v1.json"]) as socket:
        check("subprotocol", socket.subprotocol, "weir.v1.json")
        welcome = json.loads(await socket.recv())
        check("welcome keys", sorted(welcome),
              ["client", "max_message", "node", "ping_ms", "type", "user", "version"])
        check("welcome type", welcome["type"], "welcome")
        check("welcome user", welcome["user"], None)
        check("welcome limits", (welcome["ping_ms"], welcome["max_message"]), (25000, 65536))

        await socket.send(json.dumps({"type": "subscribe", "id": 1, "channel": "room:1"}))
        subscribed = json.loads(await socket.recv())
        check("subscribed keys", sorted(subscribed),
              ["alias", "channel", "epoch", "id", "offset", "type"])
        check("subscribed", [subscribed[key] for key in ("type", "id", "channel", "offset")],
              ["subscribed", 1, "room:1", 0])
        print("subscribed", flush=True)

        authors = set()
        for n in (1, 2):
            text = await asyncio.wait_for(socket.recv(), 30)
            check("frame type", type(text), str)
            event = json.loads(text)
            check("event keys in order", list(event),
                  ["type", "channel", "offset", "ts", "from", "data"])
            check("event", [event[key] for key in ("type", "channel", "offset", "data")],
                  ["event", "room:1", n, {"v": n}])
            check("ts is recent", abs(event["ts"] / 1000 - time.time()) < 60, True)
            check("from keys", set(event["from"]) <= {"client", "user"}, True)
            check("from user", event["from"].get("user"), None)
            authors.add(event["from"]["client"])
        check("authors", len(authors), 1)
        check("not me", welcome["client"] in authors, False)

        await socket.send(json.dumps({"type": "ping", "id": 2}))
        check("pong", json.loads(await socket.recv()), {"type": "pong", "id": 2})
        # It offers permessage-deflate by itself, and compresses what it sends. Three times: what was sent before must not be needed.
        extensions = socket.response.headers["Sec-WebSocket-Extensions"]
        check("deflate", extensions.split(";")[0], "permessage-deflate")
        data = list(range(3000))
        publish = {"type": "publish", "channel": "room:1", "data": data}
        for n in (3, 4, 5):
            await socket.send(json.dumps(publish))
            event = json.loads(await asyncio.wait_for(socket.recv(), 30))
            check("its own event", (event["offset"], event["data"]), (n, data))
        pong = await socket.ping(b"hello")
        await asyncio.wait_for(pong, 10)
    check("close code", socket.close_code, 1000)
    for bits in (15, 12, None):
        await large(url, "weir.v1.json", bits, str, json.loads)
        flags = 0x06 if bits else 0x07
        await large(url, "weir.v1.bin", bits, bytes, lambda it: binary(it, flags))
    await large(url, "weir.v1.json+gzip", None, bytes, lambda it: json.loads(gzip.decompress(it)))
    print("ok", flush=True)


asyncio.run(main(sys.argv[1]))
