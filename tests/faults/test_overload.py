"""More comes than anybody takes: memory stays bounded, and only who is behind pays for it."""

from __future__ import annotations

import asyncio
import statistics
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from channels_redis._receiving import queues
from channels_redis._transport import multiplexer
from channels_redis.exceptions import ConnectionLost
from tests.helpers import numbered, receive, receive_until_marker, wait_for
from tests.proxy import Proxy

FLOOD = 10_000
AT_ONCE = 100
CAPACITY = 50
TEXT = "x" * 1000


def textual(number: int) -> dict[str, Any]:
    return {**numbered(number), "text": TEXT}


async def flood(sender: Any, channel: str) -> None:
    """Send ten thousand kilobytes to a channel."""
    for first in range(0, FLOOD, AT_ONCE):
        sends = [sender.send(channel, textual(n)) for n in range(first, first + AT_ONCE)]
        await asyncio.gather(*sends)


@pytest.mark.timeout(180)
async def test_a_consumer_that_stops_reading_costs_its_capacity(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """Ten thousand messages to it take the memory of ``capacity``; its sibling misses nothing."""
    layer, sender = make_layer(kind, capacity=CAPACITY), make_layer(kind, capacity=2 * FLOOD)
    stopped, sibling = await layer.new_channel(), await layer.new_channel()
    heard: list[int] = []

    async def read() -> None:
        while True:
            heard.append((await layer.receive(sibling))["n"])

    def has_heard(number: int) -> bool:
        return len(heard) > number

    async def write() -> None:
        for number in range(200):
            await sender.send(sibling, textual(number))
            await wait_for(partial(has_heard, number))

    reading = asyncio.create_task(read())
    await sender.send(stopped, textual(0))
    await write()
    heard.clear()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await asyncio.gather(flood(sender, stopped), write())
        assert await receive_until_marker(layer, await layer.new_channel(), sender) == []
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert heard == list(range(200))
    # Ten thousand remembered members of the queue are part of it.
    assert after - before < CAPACITY * 2 * len(TEXT) + 3_000_000 < FLOOD * len(TEXT)
    kept = [message["n"] for message in await receive_until_marker(layer, stopped, sender)]
    assert kept == list(range(FLOOD))[-len(kept) :]
    assert CAPACITY - 1 <= len(kept) <= CAPACITY
    assert layer._report.dropped["capacity"] >= FLOOD - CAPACITY
    reading.cancel()


@pytest.mark.slow
async def test_siblings_of_a_consumer_that_stopped_are_not_slowed(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """Median latency while ten thousand messages come for one that reads, and one that does not."""
    layer, sender = make_layer(kind, capacity=CAPACITY), make_layer(kind, capacity=2 * FLOOD)
    sibling, read, unread = [await layer.new_channel() for _ in range(3)]

    async def take_all() -> None:
        while True:
            await layer.receive(read)

    async def latency_s(channel: str) -> float:
        took = []
        flooding = asyncio.create_task(flood(sender, channel))
        while not flooding.done():
            began = time.perf_counter()
            await sender.send(sibling, numbered(0))
            await receive(layer, sibling)
            took.append(time.perf_counter() - began)
        await flooding
        return statistics.median(took)

    taking = asyncio.create_task(take_all())
    pairs = [(await latency_s(read), await latency_s(unread)) for _ in range(5)]
    taking.cancel()
    with_reader, without = (1000 * min(column) for column in zip(*pairs, strict=True))
    print(f"\n{kind}: sibling {with_reader:.2f} ms, beside one that stopped {without:.2f} ms")
    assert without < 2 * with_reader


async def test_what_waits_for_a_connection_is_bounded(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit a send is refused at once, as not sent; what was taken is sent in order."""
    monkeypatch.setattr(multiplexer, "BACKLOG_BYTES", 200_000)
    layer = make_layer(kind, capacity=FLOOD)
    sender = make_layer(kind, hosts=[proxy.url], capacity=FLOOD, connect_wait_s=10)
    channel = await layer.new_channel()
    await sender.send(channel, numbered(0))
    proxy.refuse()
    connection = sender._sessions.get().commands(0, "")
    await wait_for(lambda: not connection.connected)
    sends = [asyncio.create_task(sender.send(channel, textual(n))) for n in range(1, 1000)]
    done, waiting = await asyncio.wait(sends, timeout=0.2)
    assert 50 < len(waiting) < 150, "each takes two kilobytes"
    for task in done:
        error = task.exception()
        assert isinstance(error, ConnectionLost)
        assert not error.maybe_executed
        assert "commands wait to be sent already" in str(error)
    proxy.resume()
    await asyncio.gather(*waiting)
    await sender.send(channel, numbered(1000))
    arrived = [message["n"] for message in await receive_until_marker(layer, channel, sender)]
    assert arrived == [0, *range(1, len(waiting) + 1), 1000]


async def test_the_memory_of_channels_without_readers_is_limited(
    make_layer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages to ever new names of a process open so many mailboxes, and the rest is dropped."""
    monkeypatch.setattr(queues, "STRANGERS", 100)
    layer, sender = make_layer("core"), make_layer("core", capacity=FLOOD)
    channel = await layer.new_channel()
    await sender.send(channel, numbered(0))
    assert await receive(layer, channel) == numbered(0)
    start = channel.split("!")[0]
    for number in range(500):
        await sender.send(f"{start}!nobody{number}", numbered(number))
    await sender.send(channel, numbered(1))
    assert await receive(layer, channel) == numbered(1)
    assert len(layer.receive_buffer) == 101
    assert layer._report.dropped == {"abandoned": 400}


async def test_a_message_above_the_bound_is_sent_when_nothing_waits(
    make_layer: Callable[..., Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is for a backlog; no single message is too large for it."""
    monkeypatch.setattr(multiplexer, "BACKLOG_BYTES", 1000)
    layer = make_layer(kind)
    channel = await layer.new_channel()
    for number in range(20):
        await layer.send(channel, {**textual(number), "more": TEXT})
    assert len(await receive_until_marker(layer, channel)) == 20
