"""Another process of the site, which sends.  ``python sender.py PLAN`` prints how it went.

It stands alone, as an environment with channels_redis 4.3.0 runs it too.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from typing import Any, TypedDict

from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

AT_ONCE = 100


class Plan(TypedDict):
    """``layer`` is a dotted path, ``way`` one of `WAYS`, ``to`` a group or a channel."""

    layer: str
    options: dict[str, Any]
    way: str
    to: str
    count: int


def note(number: int) -> dict[str, Any]:
    return {"type": "room.note", "n": number}


async def awaited(layer: Any, group: str, count: int) -> int:
    """Send to a group as an asynchronous consumer does."""
    for number in range(count):
        await layer.group_send(group, note(number))
    return 0


def from_sync_code(layer: Any, group: str, count: int) -> int:
    """Send to a group as a view or a task does."""
    for number in range(count):
        async_to_sync(layer.group_send)(group, note(number))
    return 0


async def flood(layer: Any, channel: str, count: int) -> int:
    """Send to one channel as fast as can be, and again what is refused."""
    repeated = 0

    async def send(number: int) -> None:
        nonlocal repeated
        while True:
            try:
                return await layer.send(channel, note(number))
            except ChannelFull:
                repeated += 1
                await asyncio.sleep(0.01)

    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*map(send, range(first, first + AT_ONCE)))
    return repeated


#: Each returns how many sends it repeated, as the queue was full.
WAYS: dict[str, Any] = {
    "await": lambda *call: asyncio.run(awaited(*call)),
    "async_to_sync": from_sync_code,
    "flood": lambda *call: asyncio.run(flood(*call)),
}


def main(plan: Plan) -> None:
    module, name = plan["layer"].rsplit(".", 1)
    layer = getattr(importlib.import_module(module), name)(**plan["options"])
    began = time.monotonic()
    repeated = WAYS[plan["way"]](layer, plan["to"], plan["count"])
    told = {"repeated": repeated, "took_s": time.monotonic() - began}
    if hasattr(type(layer), "stats"):
        told["refused"] = layer.stats().refused
    print(json.dumps(told))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
