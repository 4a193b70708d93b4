"""What is kept for consumers is bounded, and ends with them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis._receiving import mailbox
from tests.helpers import (
    cancel,
    numbered,
    receive,
    receive_numbers,
    receive_until_marker,
    subscribers,
    wait_for,
    waiting,
)

SHORT_EXPIRY_S = 0.4
SHORT_GONE_S = 0.2


@pytest.fixture
def soon_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer is taken for gone sooner than after ten seconds."""
    monkeypatch.setattr(mailbox, "GONE_S", SHORT_GONE_S)


async def leave_without_a_word(layer: Any) -> str:
    """A consumer, a task of its own, that joins a group, waits and ends; its channel."""

    async def consume() -> str:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        wait = waiting(layer, channel)
        await asyncio.sleep(0)
        await cancel(wait)
        return str(channel)

    return await asyncio.create_task(consume())


def kept_messages(layer: Any) -> int:
    """How many messages lie in the process's own buffers."""
    return sum(queue.qsize() for _, queue in layer.receive_buffer.items())


@pytest.mark.usefixtures("soon_gone")
async def test_buffers_of_departed_consumers_are_freed(make_layer: Callable[..., Any]) -> None:
    """What was sent to consumers that have gone does not stay in memory (384, C1361)."""
    layer = make_layer("core", expiry=SHORT_EXPIRY_S, capacity=1000)
    channels = [await leave_without_a_word(layer) for _ in range(50)]
    stable = await layer.new_channel()
    for channel in channels:
        await layer.send(channel, numbered(1))
    assert await receive_until_marker(layer, stable) == []
    await layer.send(stable, numbered(2))
    assert await receive(layer, stable) == numbered(2)
    await wait_for(lambda: kept_messages(layer) == 0)
    await wait_for(lambda: len(layer.receive_buffer) <= 1)
    assert await receive_until_marker(layer, stable) == []


async def test_what_comes_for_a_consumer_that_has_gone_is_forgotten_when_it_expires(
    make_layer: Callable[..., Any],
) -> None:
    """A message for a channel that nobody receives on opens a mailbox, for as long as it lasts."""
    layer = make_layer("core", expiry=SHORT_EXPIRY_S)
    stable = await layer.new_channel()
    await layer.send(stable, numbered(1))
    assert await receive(layer, stable) == numbered(1)
    gone = f"{stable.partition('!')[0]}!gone"
    await layer.send(gone, numbered(1))
    await wait_for(lambda: gone in layer.receive_buffer)
    await wait_for(lambda: gone not in layer.receive_buffer)
    assert layer.stats().dropped == {"expired": 1}


@pytest.mark.usefixtures("soon_gone")
async def test_core_removes_a_consumer_that_ended_without_leaving_from_its_groups(
    make_layer: Callable[..., Any], server: Any, prefix: str
) -> None:
    """Its task has ended and its loop goes on; nobody has received on its channel since."""
    layer = make_layer("core", expiry=SHORT_EXPIRY_S)
    stays = await layer.new_channel()
    await layer.group_add("room", stays)
    await leave_without_a_word(layer)
    members = f"{prefix}:group:room", 0, -1
    await wait_for(lambda: server.command("ZRANGE", *members) == [stays.encode()])


@pytest.mark.usefixtures("soon_gone")
async def test_pubsub_unsubscribes_a_consumer_that_ended_without_leaving(
    make_layer: Callable[..., Any], server: Any, prefix: str
) -> None:
    """Its task has ended and its loop goes on; nobody has received on its channel since."""
    layer = make_layer("pubsub", expiry=SHORT_EXPIRY_S)
    channel = await leave_without_a_word(layer)
    group = f"{prefix}__group__room"
    assert subscribers(server, channel) == subscribers(server, group) == 1
    await wait_for(lambda: subscribers(server, channel) == subscribers(server, group) == 0)


async def test_a_consumer_that_never_comes_back_leaves_its_groups_after_group_expiry(
    make_layer: Callable[..., Any], server: Any, prefix: str, kind: str
) -> None:
    """Also where nothing tells of its end, as the task that made its channel goes on."""
    layer = make_layer(kind, expiry=SHORT_EXPIRY_S, group_expiry=SHORT_EXPIRY_S)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, numbered(1))
    assert await receive(layer, channel) == numbered(1)
    if kind == "core":
        await wait_for(lambda: server.command("ZCARD", f"{prefix}:group:room") == 0)
        await wait_for(lambda: layer.stats().mailboxes == 0)
    else:
        await wait_for(lambda: subscribers(server, f"{prefix}__group__room") == 0)
        assert subscribers(server, channel) == 0


async def test_a_slow_consumer_does_not_fill_the_queue_of_its_process(
    make_layer: Callable[..., Any],
) -> None:
    """While the process reads, a flood to one consumer harms no sibling (97, 121, 181)."""
    layer, sender = (make_layer("core", capacity=100) for _ in range(2))
    slow, sibling = await layer.new_channel(), await layer.new_channel()
    reading = asyncio.create_task(receive_numbers(layer, sibling, 100))
    await asyncio.sleep(0)
    for number in range(100):
        await asyncio.gather(*(sender.send(slow, numbered(number)) for _ in range(10)))
        await sender.send(sibling, numbered(number))
    assert await asyncio.wait_for(reading, 10) == list(range(100))


async def test_a_consumer_that_falls_behind_loses_its_own_oldest_messages(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """A full mailbox keeps the last ``capacity`` messages (97, C1361)."""
    capacity = 10
    layer, sender = make_layer(kind, capacity=capacity), make_layer(kind, capacity=capacity)
    slow, sibling = await layer.new_channel(), await layer.new_channel()
    for number in range(5 * capacity):
        await sender.send(slow, numbered(number))
        await sender.send(sibling, numbered(number))
        assert await receive(layer, sibling) == numbered(number)
    kept = [message["n"] for message in await receive_until_marker(layer, slow, sender)]
    assert kept == list(range(4 * capacity, 5 * capacity))[-len(kept) :]
    assert len(kept) >= capacity - 1, "the marker may have pushed one out"


async def test_pubsub_mailboxes_obey_capacity(make_layer: Callable[..., Any]) -> None:
    """A Pub/Sub consumer that nobody reads holds ``capacity`` messages and no more (C1361)."""
    layer, sender = make_layer("pubsub", capacity=10), make_layer("pubsub")
    slow, marker = await layer.new_channel(), await layer.new_channel()
    for number in range(500):
        await sender.send(slow, numbered(number))
    assert await receive_until_marker(layer, marker, sender) == []
    assert await receive_numbers(layer, slow, 10) == list(range(490, 500))


@pytest.fixture
async def behind(make_layer: Callable[..., Any], kind: str) -> tuple[Any, str]:
    """A layer with bounds of 5 and a channel of it that was sent twenty messages, and its name."""
    layer, sender = make_layer(kind, channel_capacity={"*specific*": 5}), make_layer(kind)
    slow, sibling = await layer.new_channel(), await layer.new_channel()
    for number in range(20):
        await sender.send(slow, numbered(number))
        await sender.send(sibling, numbered(number))
        assert await receive(layer, sibling) == numbered(number)
    return layer, slow


async def test_drops_are_reported_with_the_channel_that_is_behind(
    caplog: pytest.LogCaptureFixture, behind: tuple[Any, str]
) -> None:
    """The first message that a full mailbox drops is logged at once, naming the channel (212)."""
    _, slow = behind
    reports = [record for record in caplog.get_records("setup") if slow in record.getMessage()]
    assert [record.levelname for record in reports] == ["WARNING"]


async def test_mailboxes_obey_channel_capacity(behind: tuple[Any, str]) -> None:
    """The bound of a mailbox is that of its channel, as ``channel_capacity`` says (212)."""
    layer, slow = behind
    assert await receive_numbers(layer, slow, 5) == [15, 16, 17, 18, 19]


async def test_no_list_of_messages_in_flight_stays_in_redis(
    make_layer: Callable[..., Any], server: Any, prefix: str
) -> None:
    """Receiving and cancelling leave no helper keys behind, and no key without a TTL."""
    layer = make_layer("core")
    channel = await layer.new_channel()
    for number in range(20):
        await layer.send(channel, numbered(number))
        wait = waiting(layer, channel)
        await asyncio.sleep(0)
        if number % 2:
            await cancel(wait)
        else:
            await wait
        keys = server.command("KEYS", f"{prefix}*")
        assert not [key for key in keys if b"inflight" in key]
        assert all(server.command("TTL", key) != -1 for key in keys)
    await receive_until_marker(layer, channel)
    assert server.command("KEYS", f"{prefix}*") == []


async def test_a_layer_that_is_used_and_closed_again_and_again_leaves_no_timer(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """The loop lives on, and has nothing to remember of what was closed on it."""
    layer = make_layer(kind)
    timers = live_timers()
    for _ in range(20):
        await layer.send("work", {})
        await layer.close()
    # One of this test's own time-out may have come.
    assert live_timers() <= timers + 1


def live_timers() -> int:
    """How many timers of an event loop there are that were not cancelled."""
    gc.collect()
    # By name, as uvloop has a class of its own.
    handles = [one for one in gc.get_objects() if type(one).__name__ == "TimerHandle"]
    return sum(not one.cancelled() for one in handles)
