"""Reads two events through Python's `websockets` and checks them field by field.

Prints `subscribed` when events may be published, and `ok` at the end.
"""

import asyncio
import json
import sys
import time

import websockets


def check(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: wanted {wanted!r}, got {got!r}")


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
        # It offers permessage-deflate by itself, with a window of 12 bits, and compresses what it
        # sends. Three times: what was sent before must not be needed.
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
    print("ok", flush=True)


asyncio.run(main(sys.argv[1]))
