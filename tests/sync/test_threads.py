"""Sixteen threads use one layer at once. Without the GIL they really do."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import Any

import pytest

from tests.helpers import receive

THREADS = 16
DIRECT, TO_GROUP = 20, 5
#: Seconds after which threads that wait for each other give up.
LIMIT_S = 30


def in_threads(work: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


@pytest.fixture(autouse=True)
def _switch_often() -> Any:
    """With the GIL, have threads take turns a thousand times as often."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        yield
        return
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual_s)


@pytest.fixture
def layer(build: Callable[..., Any]) -> Any:
    """A layer that sixteen loops on a busy machine may take long to connect."""
    return build(connect_wait_s=LIMIT_S)


@pytest.fixture
def looking(layer: Any) -> Any:
    """A thread that reads the statistics and changes the callbacks all the time."""
    ended, seen = Event(), []

    def look(_: int) -> None:
        delivered = 0
        while not ended.is_set():
            stats = layer.stats()
            assert stats.delivered >= delivered
            delivered = stats.delivered
            layer.on_operation(lambda operation: None)()
            layer.on_event(lambda event: None)()
            ended.wait(0.001)  # It need not keep a processor busy.
        seen.append(delivered)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(look, 0)
        yield
        ended.set()
        future.result(LIMIT_S)
    assert len(seen) == 1


@pytest.mark.usefixtures("looking")
def test_each_thread_gets_what_was_sent_to_it_and_to_its_group(layer: Any) -> None:
    """Each has an event loop and a consumer.  Nothing is lost or delivered twice, and the counts
    are exact.
    """
    start = Barrier(THREADS)
    channels: dict[int, str] = {}

    async def consume(number: int) -> Counter[Any]:
        channel = channels[number] = await layer.new_channel()
        await layer.group_add("room", channel)
        await asyncio.to_thread(start.wait, LIMIT_S)
        got: Counter[Any] = Counter()

        async def take() -> None:
            for _ in range(DIRECT + THREADS * TO_GROUP):
                message = await receive(layer, channel)
                got[message["type"], message["from"], message["n"]] += 1

        async def send() -> None:
            neighbour = channels[(number + 1) % THREADS]
            for n in range(DIRECT):
                await layer.send(neighbour, {"type": "direct", "from": number, "n": n})
                if n < TO_GROUP:
                    await layer.group_send("room", {"type": "all", "from": number, "n": n})

        await asyncio.gather(take(), send())
        # Nobody may leave while others read what is for all.
        await asyncio.to_thread(start.wait, LIMIT_S)
        return got

    for number, got in enumerate(in_threads(lambda number: asyncio.run(consume(number)))):
        sender = (number - 1) % THREADS
        expected = [("direct", sender, n) for n in range(DIRECT)]
        expected += [("all", one, n) for one in range(THREADS) for n in range(TO_GROUP)]
        assert got == Counter(expected)
    stats = layer.stats()
    assert stats.delivered == THREADS * (DIRECT + THREADS * TO_GROUP)
    assert stats.sent == THREADS * (DIRECT + TO_GROUP)
    assert (stats.dropped, stats.buffered, stats.waiting) == ({}, 0, 0)


def test_threads_without_a_loop_send_to_workers(build: Callable[..., Any]) -> None:
    """Twelve block in ``layer.sync``, four receive on one general channel."""
    layer = build(capacity=10_000)
    workers, count = 4, 25
    senders = THREADS - workers
    got: Counter[Any] = Counter()

    async def work() -> list[Any]:
        messages = []
        while (message := await receive(layer, "work"))["type"] != "end":
            messages.append((message["from"], message["n"]))
        return messages

    def run(number: int) -> list[Any]:
        if number < workers:
            return asyncio.run(work())
        for n in range(count):
            layer.sync.send("work", {"type": "job", "from": number, "n": n})
        return []

    with ThreadPoolExecutor(THREADS) as pool:
        running = [pool.submit(run, number) for number in range(THREADS)]
        for sender in running[workers:]:
            sender.result(LIMIT_S)
        for _ in range(workers):
            layer.sync.send("work", {"type": "end"})
        for worker in running[:workers]:
            got.update(worker.result(LIMIT_S))
    assert got == Counter((one, n) for one in range(workers, THREADS) for n in range(count))
    stats = layer.stats()
    assert stats.sent == senders * count + workers
    assert stats.delivered == stats.sent


def test_groups_are_joined_and_left_by_all_threads(layer: Any) -> None:
    """Memberships are as the last calls left them."""
    rooms = [f"room{number}" for number in range(4)]
    start = Barrier(THREADS)

    async def change(number: int) -> None:
        channel = await layer.new_channel()
        await asyncio.to_thread(start.wait, LIMIT_S)
        for _ in range(5):
            await asyncio.gather(*(layer.group_add(room, channel) for room in rooms))
            await asyncio.gather(*(layer.group_discard(room, channel) for room in rooms[1:]))
        await asyncio.to_thread(start.wait, LIMIT_S)  # All have left.
        await layer.group_send("room1", {"type": "nobody"})
        await asyncio.to_thread(start.wait, LIMIT_S)
        await layer.send(channel, {"type": "marker"})
        assert await receive(layer, channel) == {"type": "marker"}
        await asyncio.to_thread(start.wait, LIMIT_S)

    in_threads(lambda number: asyncio.run(change(number)))


def test_a_layer_is_closed_by_all_threads_at_once(layer: Any) -> None:
    """Each time it is used again."""
    start = Barrier(THREADS)

    async def use(number: int) -> None:
        for n in range(3):
            await layer.send("work", {"type": "x", "n": n})
            await asyncio.to_thread(start.wait, LIMIT_S)
            await layer.close()
            await asyncio.to_thread(start.wait, LIMIT_S)

    in_threads(lambda number: asyncio.run(use(number)))
    assert layer.stats().in_flight == 0
