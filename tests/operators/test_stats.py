"""``layer.stats()``: each number says what it promises, from any thread, on any loop."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import pytest
from channels.exceptions import ChannelFull

from channels_redis.testing.servers import RedisServer
from tests.helpers import receive, wait_for

MESSAGE = {"type": "test"}
Make = Callable[..., Any]


async def waiting_on(layer: Any, channel: str) -> asyncio.Task[Any]:
    """Start a ``receive()`` and return when it waits."""
    before = layer.stats().waiting
    task = asyncio.create_task(layer.receive(channel))
    await wait_for(lambda: layer.stats().waiting > before)
    return task


def test_a_new_layer_has_done_nothing(layer_class: type[Any]) -> None:
    """All is zero, and asking opens nothing and needs no event loop."""
    stats = layer_class(hosts=["redis://:secret@localhost:1", ("localhost", 2)]).stats()
    assert [node.node for node in stats.nodes] == ["localhost:1", "localhost:2"]
    numbers = dataclasses.asdict(stats)
    assert numbers.pop("dropped") == {}
    for node in numbers.pop("nodes"):
        del node["node"]
        assert not any(node.values())
    assert not any(numbers.values())
    assert stats.decode_failures == 0


async def test_messages_are_counted_where_they_are_sent_and_where_they_arrive(
    make_layer: Make, kind: str
) -> None:
    """``sent`` at the sender; ``received`` and ``delivered`` at the receiver."""
    sender, receiver = make_layer(kind), make_layer(kind)
    channel = await receiver.new_channel()
    for _ in range(3):
        await sender.send(channel, MESSAGE)
    await sender.send("work", MESSAGE)
    for name in (channel, channel, channel, "work"):
        await receive(receiver, name)
    assert sender.stats().sent == 4
    assert sender.stats().nodes[0].sent == 4
    assert sender.stats().received == sender.stats().delivered == 0
    stats = receiver.stats()
    assert (stats.sent, stats.received, stats.delivered) == (0, 4, 4)


async def test_a_group_message_counts_once_on_its_way_and_for_each_receiver_at_its_end(
    make_layer: Make, kind: str
) -> None:
    """One frame for many consumers of a process, each of which receives its own."""
    layer = make_layer(kind)
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("room", channel)
    await layer.group_send("room", MESSAGE)
    for channel in channels:
        await receive(layer, channel)
    stats = layer.stats()
    assert (stats.sent, stats.received, stats.delivered) == (1, 1, 3)


async def test_what_a_full_queue_refuses_is_counted(make_layer: Make) -> None:
    """``ChannelFull``, and what a group message skips."""
    layer = make_layer("core", capacity=1)
    await layer.group_add("room", "work")
    await layer.send("work", MESSAGE)
    with pytest.raises(ChannelFull):
        await layer.send("work", MESSAGE)
    await layer.group_send("room", MESSAGE)
    assert layer.stats().refused == 2
    assert layer.stats().sent == 1


async def test_what_lies_and_who_waits_is_counted(make_layer: Make, kind: str) -> None:
    """Mailboxes, waiting receivers and buffered messages are those of this moment."""
    layer = make_layer(kind)
    channels = [await layer.new_channel() for _ in range(2)]
    tasks = [await waiting_on(layer, channel) for channel in channels]
    assert layer.stats().mailboxes == layer.stats().waiting == 2
    await layer.send(channels[0], MESSAGE)
    await tasks[0]
    # The second and third find nobody waiting: one waiter is left, on another channel.
    for _ in range(2):
        await layer.send(channels[0], MESSAGE)
    await wait_for(lambda: layer.stats().buffered == 2)
    assert layer.stats().waiting == 1
    await layer.send(channels[1], MESSAGE)
    await tasks[1]


async def test_drops_are_counted_by_reason(make_layer: Make, kind: str) -> None:
    """What makes room, and what can't be decoded, is seen apart, and is not delivered."""
    layer = make_layer(kind, capacity=2)
    stranger = make_layer(kind, serializer_format="json", capacity=2)
    channel = await layer.new_channel()
    waiting = await waiting_on(layer, channel)
    await stranger.send(channel, MESSAGE)
    await wait_for(lambda: layer.stats().decode_failures == 1)
    await layer.send(channel, MESSAGE)
    await waiting
    other = await layer.new_channel()
    waiting = await waiting_on(layer, other)
    for _ in range(3):
        await layer.send(channel, MESSAGE)
        await wait_for(lambda: layer.stats().in_flight == 0)
    await wait_for(lambda: layer.stats().dropped.get("capacity") == 1)
    assert layer.stats().delivered == 1
    await layer.send(other, MESSAGE)
    await waiting


async def test_a_message_that_can_not_be_opened_was_not_delivered(make_layer: Make) -> None:
    """A worker's message is decoded where it is received, and counts only if that worked."""
    layer, stranger = make_layer("core"), make_layer("core", serializer_format="json")
    await stranger.send("work", MESSAGE)
    await layer.send("work", MESSAGE)
    assert await receive(layer, "work") == MESSAGE
    stats = layer.stats()
    assert (stats.received, stats.delivered, stats.decode_failures) == (2, 1, 1)


async def test_an_outage_is_measured_while_it_lasts_and_afterwards(
    make_layer: Make, kind: str, private_server: RedisServer
) -> None:
    """``outage_s`` grows, then is 0.0 again and part of ``outage_total_s``."""
    layer = make_layer(kind, hosts=[private_server.url])
    channel = await layer.new_channel()
    waiting = await waiting_on(layer, channel)
    await layer.send(channel, MESSAGE)
    await waiting
    waiting = await waiting_on(layer, channel)
    await asyncio.to_thread(private_server.stop)
    await wait_for(lambda: layer.stats().outage_s > 0.01)
    during = layer.stats()
    assert during.nodes[0].outage_s > 0
    assert during.nodes[0].reconnects == 0
    await asyncio.to_thread(private_server.start)
    await wait_for(lambda: layer.stats().reconnects == 1)
    after = layer.stats()
    assert after.outage_s == after.nodes[0].outage_s == 0.0
    assert after.outage_total_s >= during.outage_s
    assert after.nodes[0].outage_total_s >= during.nodes[0].outage_s
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_commands_without_an_answer_are_in_flight(
    make_layer: Make, kind: str, private_server: RedisServer
) -> None:
    """An operator sees that a server is silent before anything times out."""
    layer = make_layer(kind, hosts=[private_server.url])
    await layer.send("work", MESSAGE)
    assert layer.stats().in_flight == 0
    private_server.freeze()
    sending = [asyncio.create_task(layer.send("work", MESSAGE)) for _ in range(3)]
    await wait_for(lambda: layer.stats().in_flight == 3)
    assert layer.stats().nodes[0].in_flight == 3
    private_server.thaw()
    await asyncio.gather(*sending)
    assert layer.stats().in_flight == 0


def test_what_many_threads_and_ended_loops_did_is_not_lost(
    make_layer_blocking: Make, kind: str
) -> None:
    """Each loop counts for itself; the sums stay when it ends, closed in order or bare."""
    layer = make_layer_blocking(kind, capacity=1000)

    async def send_many() -> None:
        for _ in range(50):
            await layer.send("work", MESSAGE)

    def bare() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(send_many())
        loop.close()

    threads = [threading.Thread(target=asyncio.run, args=(send_many(),)) for _ in range(4)]
    threads.append(threading.Thread(target=bare))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    layer.sync.send("work", MESSAGE)
    assert layer.stats().sent == 251


def test_a_copy_counts_for_itself(make_layer_blocking: Make, kind: str) -> None:
    """What the original did is not the copy's."""
    layer = make_layer_blocking(kind)
    layer.sync.send("work", MESSAGE)
    twin = copy.copy(layer)
    assert (layer.stats().sent, twin.stats().sent) == (1, 0)


async def test_asking_is_possible_from_another_thread_while_messages_flow(
    make_layer: Make, kind: str
) -> None:
    """An exporter's thread gets numbers that never fall, whatever the event loop does."""
    layer = make_layer(kind, capacity=1000)
    channel = await layer.new_channel()
    stop = threading.Event()
    seen: list[tuple[int, int, int]] = []

    def poll() -> None:
        while not stop.is_set():
            stats = layer.stats()
            seen.append((stats.sent, stats.received, stats.delivered))

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        for _ in range(200):
            await layer.send(channel, MESSAGE)
            await receive(layer, channel)
    finally:
        stop.set()
        poller.join()
    assert seen == sorted(seen)
    for numbers in zip(*seen, strict=True):
        assert list(numbers) == sorted(numbers)
    assert layer.stats().delivered == 200
