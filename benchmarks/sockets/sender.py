"""The process that sends.  ``python sender.py PLAN`` (the site's) sends one message for each line
of its input, and prints when, in seconds on the monotonic clock.  Stands alone.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import string
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from served import GROUP, Plan  # the module beside this one


def sender_of(plan: Plan) -> Callable[[dict[str, Any]], Awaitable[Any]]:
    """Return the coroutine function that sends a message to all."""
    if plan["kind"] == "socketio":
        import socketio

        manager = socketio.AsyncRedisManager(plan["redis"], write_only=True)
        return lambda message: manager.emit("score", message, room=GROUP)
    if plan["kind"] == "bare":
        from redis.asyncio import Redis

        client = Redis.from_url(plan["redis"])
        return lambda message: client.publish(f"bare.{GROUP}", json.dumps(message))
    module, name = plan["layer"].rsplit(".", 1)
    layer = getattr(importlib.import_module(module), name)(**plan["options"])
    return lambda message: layer.group_send(GROUP, {"type": "score.update", **message})


async def main(plan: Plan) -> None:
    """Send when told to."""
    send = sender_of(plan)
    loop = asyncio.get_running_loop()
    number = 0
    while await loop.run_in_executor(None, sys.stdin.readline):
        number += 1
        # Letters by chance, so that a frame that is compressed is still longer than others.
        text = "".join(random.choices(string.ascii_letters, k=110))
        began = time.monotonic()
        await send({"score": number, "text": text})
        print(began, flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
