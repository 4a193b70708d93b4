"""One process of a fleet: makes layers and calls them, as told by JSON lines on its standard input.

Runs unchanged in the environment of an old release and of this one, so it knows nothing but what
both have.  Each request is answered by one line, in the order in which the calls end:

    {"id": 1, "do": "layer", "name": "a", "kind": "core", "config": {"prefix": "x"}}
    {"id": 1, "result": null}
    {"id": 2, "do": "call", "name": "a", "method": "new_channel", "args": [], "keywords": {}}
    {"id": 2, "result": "specific.…!…"}
    {"id": 3, "do": "collect", "name": "a", "channel": "work"}      every message up to type "stop"
    {"id": 4, "do": "call", "name": "a", "method": "send", "args": ["bad!!", {}], "keywords": {}}
    {"id": 4, "error": "TypeError", "text": "…"}

Bytes travel as {"$bytes": "<base64>"}.  The process ends with its standard input.
"""

import asyncio
import base64
import importlib
import json
import sys

KINDS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}


def encode(value):
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} can't cross to the test")


def decode(value):
    return base64.b64decode(value["$bytes"]) if set(value) == {"$bytes"} else value


def make_layer(kind, config):
    module, name = KINDS[kind].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**config)


async def collect(layer, channel):
    messages = []
    while True:
        message = await layer.receive(channel)
        if message["type"] == "stop":
            return messages
        messages.append(message)


async def carry_out(request, layers):
    if request["do"] == "layer":
        layers[request["name"]] = make_layer(request["kind"], request["config"])
        return None
    layer = layers[request["name"]]
    if request["do"] == "collect":
        return await collect(layer, request["channel"])
    return await getattr(layer, request["method"])(*request["args"], **request["keywords"])


async def answer(line, layers):
    request = json.loads(line, object_hook=decode)
    reply = {"id": request["id"]}
    try:
        reply["result"] = await carry_out(request, layers)
    except Exception as error:
        reply.update(error=type(error).__name__, text=str(error))
    print(json.dumps(reply, default=encode), flush=True)


async def main():
    reader = asyncio.StreamReader(limit=2**26)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    layers, calls = {}, set()
    while line := await reader.readline():
        call = asyncio.create_task(answer(line, layers))
        calls.add(call)
        call.add_done_callback(calls.discard)


if __name__ == "__main__":
    asyncio.run(main())
