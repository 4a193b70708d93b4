"""Steps that many contract tests take."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.helpers import receive

SAY = {"type": "x"}
HELLO = {"type": "hello"}

# For the subset of promises that is checked behind Sentinel too.
ALSO_BEHIND_SENTINEL = pytest.mark.parametrize(
    "topology", ["single", "ring", "sentinel"], indirect=True
)


async def works(layer: Any) -> None:
    """A consumer, a group and a worker get their messages."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, SAY)
    assert await receive(layer, channel) == SAY
    await layer.group_send("room", SAY)
    assert await receive(layer, channel) == SAY
    for _ in range(layer.ring_size):
        await layer.send("tasks", SAY)
        assert await receive(layer, "tasks") == SAY
    await layer.group_discard("room", channel)


async def waiting_receive(layer: Any, channel: str) -> asyncio.Task[Any]:
    """A task that waits in ``receive()``; proved by a first message that went through it."""
    await layer.send(channel, HELLO)
    assert await receive(layer, channel) == HELLO
    task = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def new_members(layer: Any, count: int, group: str = "room") -> list[str]:
    """Return new channels of a layer that have joined a group."""
    channels = [await layer.new_channel() for _ in range(count)]
    for channel in channels:
        await layer.group_add(group, channel)
    return channels
