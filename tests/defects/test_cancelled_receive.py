"""``receive()`` may be cancelled at any moment, by consumers that leave and by time limits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers import cancel, numbered, receive, receive_numbers, receive_until_marker, waiting

CANCELLATIONS = 1000


class Traffic:
    """Sends numbered messages to a channel until it is stopped."""

    def __init__(self, layer: Any, channel: str, chance: random.Random) -> None:
        self.sent = 0
        self._layer, self._channel, self._chance = layer, channel, chance
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await self._layer.send(self._channel, numbered(self.sent))
            self.sent += 1
            await asyncio.sleep(self._chance.random() * 0.002)

    async def stop(self) -> None:
        """End after a whole send: a cancelled one may or may not have happened."""
        before = self.sent
        while self.sent == before:
            await asyncio.sleep(0)
        await cancel(self._task)


async def receive_with_cancellations(
    layer: Any, channel: str, chance: random.Random, received: list[int]
) -> None:
    """Receive with time limits of any length until ``CANCELLATIONS`` of them have struck."""
    cancelled = 0
    while cancelled < CANCELLATIONS:
        task = waiting(layer, channel)
        await asyncio.wait([task], timeout=chance.random() * 0.002)
        task.cancel()
        try:
            received.append((await task)["n"])
        except asyncio.CancelledError:
            cancelled += 1


@pytest.mark.parametrize("general", [False, True], ids=["specific", "general"])
async def test_a_thousand_random_cancellations_lose_and_double_nothing(
    make_layer: Callable[..., Any], kind: str, general: bool
) -> None:
    """However often a ``receive()`` is cancelled under traffic, each message comes once (C1683)."""
    chance = random.Random(1683)
    layer, sender = (make_layer(kind, capacity=10_000) for _ in range(2))
    channel = "work" if general else await layer.new_channel()
    received: list[int] = []
    traffic = Traffic(sender, channel, chance)
    await receive_with_cancellations(layer, channel, chance, received)
    await traffic.stop()
    received += await receive_numbers(layer, channel, traffic.sent - len(received))
    assert await receive_until_marker(layer, channel, sender) == []
    assert sorted(received) == list(range(traffic.sent))
    if not general:
        assert received == sorted(received), "one reader of one queue keeps its order"


async def test_a_consumer_loses_nothing_when_its_siblings_disconnect(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """Siblings come and go; a stable consumer gets all it was sent (C1683, C1244, 366)."""
    chance = random.Random(1244)
    layer, sender = (make_layer(kind, capacity=10_000) for _ in range(2))
    channel = await layer.new_channel()
    traffic = Traffic(sender, channel, chance)

    async def come_and_go() -> None:
        while True:
            sibling = waiting(layer, await layer.new_channel())
            await asyncio.sleep(chance.random() * 0.002)
            await cancel(sibling)

    siblings = [asyncio.create_task(come_and_go()) for _ in range(5)]
    received = await receive_numbers(layer, channel, 400)
    await traffic.stop()
    for sibling in siblings:
        await cancel(sibling)
    received += await receive_numbers(layer, channel, traffic.sent - len(received))
    assert received == list(range(traffic.sent))


async def test_a_poll_with_a_time_limit_loses_nothing_between_polls(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """``wait_for(receive(), t)`` in a loop gets what is sent while no poll is running."""
    layer, sender = make_layer(kind), make_layer(kind)
    channel = await layer.new_channel()
    for number in range(30):
        with pytest.raises(asyncio.TimeoutError):
            await receive(layer, channel, timeout_s=0.01)
        await sender.send(channel, numbered(number))
        assert await receive(layer, channel) == numbered(number)


async def test_a_cancelled_waiter_does_not_strand_another_one_of_its_channel(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """Two wait on one channel and one is cancelled: the other still receives (165, 313)."""
    layer, sender = make_layer(kind), make_layer(kind)
    channel = await layer.new_channel()
    for doomed in (0, 1):
        waits = [waiting(layer, channel) for _ in range(3)]
        await sender.send(channel, numbered(0))
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        left = [wait for wait in waits if not wait.done()]
        await cancel(left.pop(doomed))
        await sender.send(channel, numbered(1))
        assert await asyncio.wait_for(left[0], 10) == numbered(1)


async def test_a_waiter_that_leaves_while_a_crowd_is_woken_leaves_its_message_to_the_next(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """A message for 300 is in all mailboxes before the last of those who wait is woken."""
    layer = make_layer(kind)
    channels = [await layer.new_channel() for _ in range(300)]
    for channel in channels:
        await layer.group_add("room", channel)
    first, *_ = [waiting(layer, channel) for channel in channels[:-1]]
    leaving, staying = waiting(layer, channels[-1]), waiting(layer, channels[-1])
    first.add_done_callback(lambda _: leaving.cancel())
    await layer.group_send("room", numbered(0))
    assert await asyncio.wait_for(staying, 10) == numbered(0)
    assert leaving.cancelled()
