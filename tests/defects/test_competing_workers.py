"""General channels: many senders, many competing readers, one reader for each message."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers import (
    cancel,
    numbered,
    numbers,
    receive,
    receive_numbers,
    receive_until_marker,
    wait_for,
    waiting,
)
from tests.mixed.fleet import start_processes

WORKERS = 4
SENDERS = 50


async def send_range(layer: Any, channel: str, sent: range) -> None:
    for number in sent:
        await layer.send(channel, numbered(number))


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(300)  # Five processes, in debug mode perhaps, on however few processors.
async def test_each_message_goes_to_one_of_four_worker_processes(
    make_layer: Callable[..., Any], kind: str, redis_url: str, prefix: str, count: int
) -> None:
    """Competing workers share a general channel: nothing is lost, nothing comes twice (163)."""
    options = {"hosts": [redis_url], "prefix": prefix, "capacity": count}
    sender = make_layer(kind, **options)
    async with start_processes(WORKERS) as processes:
        workers = [await process.layer(kind, **options) for process in processes]
        collecting = [asyncio.create_task(worker.collect("work")) for worker in workers]
        shares = [range(first, count, SENDERS) for first in range(SENDERS)]
        await asyncio.gather(*(send_range(sender, "work", share) for share in shares))
        for _ in workers:
            await sender.send("work", {"type": "stop"})
        received = [numbers(messages) for messages in await asyncio.gather(*collecting)]
    assert sorted(itertools.chain(*received)) == list(range(count))
    assert all(received), "a worker got nothing"


async def test_many_readers_in_one_process_share_a_general_channel_without_doubles(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """Several readers in several layers of one process get each message once (163)."""
    layers = [make_layer(kind, capacity=1000) for _ in range(3)]
    received: list[int] = []

    async def work(layer: Any) -> None:
        while True:
            received.extend(numbers([await layer.receive("work")]))

    workers = [asyncio.create_task(work(layer)) for layer in layers for _ in range(3)]
    await asyncio.gather(*(send_range(layers[0], "work", range(n, 600, 6)) for n in range(6)))
    await wait_for(lambda: len(received) >= 600)
    for worker in workers:
        await cancel(worker)
    assert await receive_until_marker(layers[1], "work", layers[0]) == []
    assert sorted(received) == list(range(600))


async def test_a_worker_receives_from_every_host_of_a_ring_at_once(
    make_layer: Callable[..., Any], kind: str, ring_urls: list[str]
) -> None:
    """Messages of a general channel go round the ring, and none expires on a shard nobody reads."""
    sender, worker = (make_layer(kind, hosts=ring_urls, expiry=2) for _ in range(2))
    await sender.send("another", numbered(0))
    for number in range(2 * len(ring_urls)):
        wait = waiting(worker, "work")
        await asyncio.sleep(0.01)
        await sender.send("work", numbered(number))
        assert await asyncio.wait_for(wait, 10) == numbered(number)


async def test_a_worker_that_comes_late_finds_what_waits_on_every_host(
    make_layer: Callable[..., Any], kind: str, ring_urls: list[str]
) -> None:
    """What was sent before the worker started waits for it on every shard."""
    sender, worker = (make_layer(kind, hosts=ring_urls) for _ in range(2))
    await send_range(sender, "work", range(40))
    assert sorted(await receive_numbers(worker, "work", 40)) == list(range(40))


async def test_pubsub_gives_a_general_message_to_one_worker(
    make_layer: Callable[..., Any],
) -> None:
    """The Pub/Sub layer does not broadcast general channels: one reader per message (299)."""
    sender, *workers = (make_layer("pubsub") for _ in range(3))
    waits = [waiting(worker, "work") for worker in workers]
    await sender.send("work", numbered(1))
    done, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    await sender.send("work", numbered(2))
    await asyncio.wait(rest)
    assert len(done) == 1
    assert sorted(numbers([await wait for wait in waits])) == [1, 2]


async def test_pubsub_keeps_a_general_message_for_a_worker_that_is_not_there_yet(
    make_layer: Callable[..., Any],
) -> None:
    """A sender that comes first loses nothing (299)."""
    sender = make_layer("pubsub")
    await sender.send("work", numbered(1))
    assert await receive(make_layer("pubsub"), "work") == numbered(1)


async def test_pubsub_keeps_the_general_channels_of_two_prefixes_apart(
    make_layer: Callable[..., Any], prefix: str
) -> None:
    """Two sites on one server do not work on each other's tasks."""
    one, other = make_layer("pubsub"), make_layer("pubsub", prefix=f"{prefix}-other")
    ours, theirs = waiting(one, "work"), waiting(other, "work")
    await other.send("work", numbered(2))
    assert await theirs == numbered(2)
    await one.send("work", numbered(1))
    assert await ours == numbered(1)


async def test_pubsub_ends_the_reader_of_a_worker_that_left_though_a_group_message_stays(
    make_layer: Callable[..., Any],
) -> None:
    """What was published is nothing that could go back to a queue."""
    layer, other = make_layer("pubsub", command_timeout_s=1), make_layer("pubsub")
    wait = waiting(layer, "work")
    await wait_for(reader_tasks)
    await layer.group_add("room", "work")
    await cancel(wait)
    await other.group_send("room", numbered(0))
    await wait_for(lambda: layer.stats().buffered == 1)
    await other.send("work", numbered(1))
    await wait_for(lambda: not reader_tasks())
    assert await receive(other, "work") == numbered(1)


def reader_tasks() -> list[asyncio.Task[Any]]:
    """The layers' tasks that read queues."""
    return [task for task in asyncio.all_tasks() if "channels_redis reader" in task.get_name()]
