"""Channels without number in one process: a bound and a clear error, for connections and names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis._receiving import mailboxes, queues
from channels_redis.exceptions import TooManyChannels
from tests.helpers import bounded, cancel, numbered, receive, wait_for


async def test_general_channels_are_read_up_to_a_number(
    make_layer: Callable[..., Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a connection; what is read already goes on, and the rest when there is room."""
    monkeypatch.setattr(queues, "READERS", 5)
    layer = make_layer(kind, command_timeout_s=2)
    own = asyncio.create_task(layer.receive(await layer.new_channel()))
    # One of core's five reads the channel of the process itself.
    there = 4 if kind == "core" else 5
    waiting = []
    for number in range(there):
        await layer.send(f"work-{number}", numbered(0))
        assert await receive(layer, f"work-{number}") == numbered(0)
        waiting.append(asyncio.create_task(layer.receive(f"work-{number}")))
    for number in range(200):
        with pytest.raises(TooManyChannels, match="readers"):
            await bounded(layer.receive(f"more-{number}"))
    await layer.send("work-0", numbered(1))
    assert await bounded(waiting[0]) == numbered(1)
    for task in (*waiting, own):
        await cancel(task)
    await layer.send("more-0", numbered(2))

    async def comes() -> bool:
        try:
            return await receive(layer, "more-0") == numbered(2)
        except TooManyChannels:
            return False

    await wait_for(comes)


async def test_the_number_of_channels_without_receivers_is_limited(
    make_layer: Callable[..., Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stay subscribed for an hour; those with a consumer do not count."""
    monkeypatch.setattr(mailboxes, "UNHEARD", 5)
    layer = make_layer(kind)
    for _ in range(10):
        channel = await layer.new_channel()
        await layer.send(channel, numbered(0))
        assert await receive(layer, channel) == numbered(0)
    idle = [await layer.new_channel() for _ in range(5)]
    with pytest.raises(TooManyChannels, match="never received"):
        await layer.new_channel()
    await layer.send(idle[0], numbered(1))
    assert await receive(layer, idle[0]) == numbered(1)
    await layer.new_channel()


def test_the_bounds_are_far_above_what_a_process_needs() -> None:
    """Benchmarks have 10,000 consumers in a process; a thousand queues are a thousand sockets."""
    assert mailboxes.UNHEARD >= 20_000
    assert queues.READERS >= 1_000
