"""What takes long to open is opened with the loop's turns in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from tests.helpers import (
    cancel,
    member,
    numbered,
    queue_key,
    receive,
    receive_numbers,
    server_time_s,
    wait_for,
)

SLOW_S = 0.02
COUNT = 20


class Turns:
    """Counts the turns of the event loop, and in which of them something was decoded."""

    def __init__(self) -> None:
        self.now = 0
        self.decoded_in: list[int] = []
        self._task = asyncio.create_task(self._count())

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.now += 1

    async def end(self) -> None:
        await cancel(self._task)


def slow(layer_class: type[Any]) -> type[Any]:
    """A layer whose subclass takes long to decode."""

    class Slow(layer_class):  # type: ignore[misc]  # a class that is not known before
        turns: Turns | None = None

        def deserialize(self, message: bytes) -> Any:
            time.sleep(SLOW_S)
            if self.turns is not None:
                self.turns.decoded_in.append(self.turns.now)
            return super().deserialize(message)

    return Slow


@pytest.fixture
def fill(server: Any, prefix: str) -> Callable[[str], None]:
    """A function that puts numbered messages into the queue of a channel, in one go."""

    def fill(channel: str) -> None:
        now = server_time_s(server)
        pairs: list[Any] = []
        for number in range(COUNT):
            pairs += [
                now + number * 1e-4,
                member({**numbered(number), "__asgi_nonce__": "x"}, channel=channel)[12:],
            ]
        server.command("ZADD", queue_key(prefix, channel), *pairs)

    return fill


async def test_a_batch_is_decoded_in_many_turns(
    redis_url: str, prefix: str, fill: Callable[[str], None]
) -> None:
    """A reader that has popped a batch is no reason for all else to stand still."""
    layer = slow(RedisChannelLayer)(hosts=[redis_url], prefix=prefix, random_prefix_length=0)
    channel = await layer.new_channel()
    fill(channel)
    layer.turns = Turns()
    assert await receive_numbers(layer, channel, COUNT) == list(range(COUNT))
    await layer.turns.end()
    assert len(set(layer.turns.decoded_in)) >= COUNT - 1
    await layer.close()


@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_messages_that_wait_are_opened_in_many_turns(
    redis_url: str, prefix: str, kind: str
) -> None:
    """Whoever receives in a loop without any other await, with or without harm to be undone."""
    layer_class = RedisChannelLayer if kind == "core" else RedisPubSubChannelLayer
    layer = slow(layer_class)(hosts=[redis_url], prefix=prefix, capacity=1000)
    channels = [await layer.new_channel() for _ in range(COUNT)]
    for channel in channels:
        await layer.group_add("room", channel)
    waiting = [asyncio.create_task(layer.receive(channel)) for channel in channels]
    layer.turns = Turns()
    await layer.group_send("room", numbered(0))
    assert await asyncio.gather(*waiting) == [numbered(0)] * COUNT
    for number in range(COUNT):
        await layer.send(channels[0], numbered(number))
    await wait_for(lambda: layer.stats().buffered == COUNT)
    assert await receive_numbers(layer, channels[0], COUNT) == list(range(COUNT))
    await layer.turns.end()
    decoded = layer.turns.decoded_in
    assert len(set(decoded)) >= len(decoded) - 2
    await layer.close()


def test_what_was_popped_and_not_yet_decoded_survives_its_loop(
    redis_url: str, prefix: str, fill: Callable[[str], None]
) -> None:
    """The loop is closed bare, or left standing, while a reader is in the middle of a batch."""
    layer = slow(RedisChannelLayer)(hosts=[redis_url], prefix=prefix, random_prefix_length=0)
    loops = [asyncio.new_event_loop() for _ in range(3)]
    channel = loops[0].run_until_complete(layer.new_channel())
    fill(channel)
    first = [loops[0].run_until_complete(receive(layer, channel))["n"]]
    # Left standing.
    first += [loops[1].run_until_complete(receive(layer, channel))["n"]]
    loops[1].close()
    rest = loops[2].run_until_complete(receive_numbers(layer, channel, COUNT - 2))
    assert first + rest == list(range(COUNT))
    loops[2].run_until_complete(layer.close())
    for loop in loops:
        loop.close()


async def test_a_receiver_that_is_cancelled_in_between_loses_nothing(
    make_layer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message that it did not take wakes another one."""
    layer = make_layer("core")
    unpack = layer._serializer.from_bytes

    def unpack_slowly(data: bytes) -> Any:
        time.sleep(SLOW_S)
        return unpack(data)

    monkeypatch.setattr(layer._serializer, "from_bytes", unpack_slowly)
    for number in range(3):
        await layer.send("work", numbered(number))
    tasks = [asyncio.create_task(layer.receive("work")) for _ in range(4)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    # At least one other is about to take a message, and lets the loop have its turn before.
    victim = next(task for task in tasks if not task.done())
    await cancel(victim)
    left = [task for task in tasks if task is not victim]
    got = [task.result()["n"] for task in done]
    finished, pending = await asyncio.wait(left, timeout=10)
    assert sorted(task.result()["n"] for task in finished) == [0, 1, 2], (got, pending)
