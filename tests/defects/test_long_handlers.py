"""A consumer that works long, or stays away, keeps its place; only one that is dead loses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from channels_redis._receiving import mailbox
from channels_redis._runtime import clock
from tests.helpers import (
    cancel,
    numbered,
    receive,
    receive_numbers,
    receive_until_marker,
    wait_for,
    waiting,
)

EXPIRY_S = 1
GONE_S = 0.3


@pytest.fixture(autouse=True)
def soon_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer is taken for gone sooner than after ten seconds."""
    monkeypatch.setattr(mailbox, "GONE_S", GONE_S)


@pytest.fixture
def pair(make_layer: Callable[..., Any], kind: str) -> tuple[Any, Any]:
    """Two layers, as of two processes, where messages expire soon."""
    return make_layer(kind, expiry=EXPIRY_S), make_layer(kind, expiry=EXPIRY_S)


async def one_is_gone(layer: Any) -> None:
    """Wait until a consumer that has died has been noticed, which a live one outlives."""

    async def consume() -> str:
        channel: str = await layer.new_channel()
        await cancel_a_wait(layer, channel)
        return channel

    channel = await asyncio.create_task(consume())
    await wait_for(lambda: channel not in layer._mailboxes.boxes)


async def test_a_handler_that_outlasts_expiry_while_the_room_is_busy_keeps_its_groups(
    pair: tuple[Any, Any],
) -> None:
    """As a consumer does that streams the answer of a language model."""
    layer, sender = pair
    channel, sibling = await layer.new_channel(), await layer.new_channel()
    for member in (channel, sibling):
        await layer.group_add("room", member)
    await sender.group_send("room", numbered(0))
    assert await receive(layer, channel) == numbered(0)
    # The handler begins here.
    await sender.group_send("room", numbered(1))
    await wait_for(lambda: layer.stats().dropped.get("expired", 0) >= 1)
    await one_is_gone(layer)
    await sender.group_send("room", numbered(2))
    assert await receive(layer, channel) == numbered(2)
    await sender.group_send("room", numbered(3))
    assert await receive(layer, channel) == numbered(3)


async def test_only_what_is_older_than_expiry_is_dropped(
    pair: tuple[Any, Any], advance_clock: Callable[[float], None]
) -> None:
    """A message that has not expired comes, whatever lies before it."""
    layer, sender = pair
    channel, marker = await layer.new_channel(), await layer.new_channel()
    await arrive_unread(layer, sender, channel, marker, 1)
    advance_clock(0.85 * EXPIRY_S)
    await arrive_unread(layer, sender, channel, marker, 2)
    advance_clock(0.75 * EXPIRY_S)
    assert await receive_numbers(layer, channel, 1) == [2]
    assert await receive_until_marker(layer, channel, sender) == []
    assert layer.stats().dropped == {"expired": 1}


async def arrive_unread(layer: Any, sender: Any, channel: str, marker: str, number: int) -> None:
    await sender.send(channel, numbered(number))
    assert await receive_until_marker(layer, marker, sender) == []


async def test_a_consumer_that_polls_may_stay_away(pair: tuple[Any, Any]) -> None:
    """A ``receive()`` that was cancelled does not tell that nobody comes back."""
    layer, sender = pair
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    poll = waiting(layer, channel)
    await wait_for(lambda: layer.stats().waiting == 1)
    await cancel(poll)
    await one_is_gone(layer)
    await sender.group_send("room", numbered(1))
    await sender.send(channel, numbered(2))
    assert await receive_numbers(layer, channel, 2) == [1, 2]


@pytest.fixture
def advance_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that puts the clock of the mailboxes forward by some seconds."""
    ahead_s = 0.0
    real = clock.monotonic

    def advance(by_s: float) -> None:
        nonlocal ahead_s
        ahead_s += by_s

    monkeypatch.setattr(clock, "monotonic", lambda: real() + ahead_s)
    return advance


async def test_a_name_made_in_a_helper_task_lives_as_long_as_somebody_receives(
    pair: tuple[Any, Any],
) -> None:
    """The end of the task that made it says nothing then: neither while a receive() waits, nor
    once one has begun since.
    """
    layer, sender = pair
    waited, polled = [await asyncio.create_task(layer.new_channel()) for _ in range(2)]
    wait = waiting(layer, waited)
    await cancel_a_wait(layer, polled)
    await layer.group_add("room", polled)
    await one_is_gone(layer)
    await one_is_gone(layer)
    await sender.send(waited, numbered(1))
    assert await wait == numbered(1)
    await sender.group_send("room", numbered(2))
    assert await receive(layer, polled) == numbered(2)
    await one_is_gone(layer)
    assert {waited, polled} <= set(layer._mailboxes.boxes)


async def cancel_a_wait(layer: Any, channel: str) -> None:
    wait = waiting(layer, channel)
    await asyncio.sleep(0)
    await cancel(wait)


async def test_a_task_that_ends_while_another_waits_on_its_channel_ends_nothing(
    pair: tuple[Any, Any],
) -> None:
    """That one may be in its handler when somebody looks next."""
    layer, sender = pair
    made: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    go_on = asyncio.Event()

    async def make() -> None:
        made.set_result(await layer.new_channel())
        await go_on.wait()

    making = asyncio.create_task(make())
    channel = await made
    wait = waiting(layer, channel)
    await asyncio.sleep(0)
    go_on.set()
    await making
    await sender.send(channel, numbered(1))
    assert await wait == numbered(1)
    # The handler runs now.
    await one_is_gone(layer)
    await sender.send(channel, numbered(2))
    assert await receive(layer, channel) == numbered(2)


def test_a_task_that_ends_with_its_loop_ends_nothing(
    redis_url: str, prefix: str, layer_class: Callable[..., Any]
) -> None:
    """The next ``asyncio.run()`` receives what was sent in between (core), and is in its group."""
    layer = layer_class(hosts=[redis_url], prefix=prefix)

    async def begin() -> str:
        channel: str = await layer.new_channel()
        await layer.group_add("room", channel)
        return channel

    async def go_on(channel: str) -> Any:
        await one_is_gone(layer)
        wait = waiting(layer, channel)
        while not wait.done():
            # On pubsub the groups are joined again on this loop, in the background.
            await layer.group_send("room", numbered(1))
            await asyncio.wait({wait}, timeout=0.05)
        await layer.close()
        return await wait

    channel = asyncio.run(begin())
    assert asyncio.run(go_on(channel)) == numbered(1)


async def test_consumers_that_are_all_busy_do_not_fill_the_queue_for_each_other(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """Fifteen messages for one at a capacity of ten, then one for the other."""
    layer, sender = make_layer(kind, capacity=10), make_layer(kind, capacity=10)
    busy, other = await layer.new_channel(), await layer.new_channel()
    for channel in (busy, other):
        await sender.send(channel, numbered(0))
        assert await receive(layer, channel) == numbered(0)
    for number in range(1, 16):
        await sender.send(busy, numbered(number))
        await wait_for(partial(has_arrived, layer, 2 + number))
    await sender.send(other, numbered(1))
    assert await receive(layer, other) == numbered(1)
    assert await receive_numbers(layer, busy, 10) == list(range(6, 16))


def has_arrived(layer: Any, count: int) -> bool:
    """Whether so many messages have come in."""
    return sum(node.received for node in layer.stats().nodes) == count


async def test_the_reader_ends_when_the_last_consumer_has_gone(
    make_layer: Callable[..., Any],
) -> None:
    """It runs for consumers that live, and for nobody else."""
    layer = make_layer("core")
    await one_is_gone(layer)
    await wait_for(lambda: not readers(), timeout_s=20)


def readers() -> list[str]:
    names = (task.get_name() for task in asyncio.all_tasks())
    return [name for name in names if name.startswith("channels_redis reader")]


async def test_a_flush_does_not_hide_the_end_of_a_consumer(
    pair: tuple[Any, Any], kind: str
) -> None:
    """Its mailbox is emptied, and ends with it all the same."""
    layer, _ = pair
    done = asyncio.Event()
    made: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def consume() -> None:
        channel = await layer.new_channel()
        await cancel_a_wait(layer, channel)
        made.set_result(channel)
        await done.wait()
        await cancel_a_wait(layer, channel)

    consumer = asyncio.create_task(consume())
    channel = await made
    await layer.flush()
    done.set()
    await consumer
    await layer.new_channel()  # as the sweep needs a loop on which the layer is used
    await wait_for(lambda: channel not in layer._mailboxes.boxes)


async def test_a_task_that_makes_channels_without_end_has_none_of_the_ended_ones(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """As for calls and replies: what tells of its end is kept once, names with their mailbox."""
    layer = make_layer(kind, group_expiry=0.2)
    await layer.send("work", numbered(0))  # a layer that is not used at all looks at nothing
    for _ in range(5):
        for _ in range(20):
            await layer.new_channel()
        await wait_for(lambda: layer.stats().mailboxes == 0)
    assert [len(names) for names in layer._mailboxes._made.values()] == [0]
