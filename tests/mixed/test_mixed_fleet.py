"""Processes of 4.3.0 and of this release understand each other while a fleet is upgraded."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tests.helpers import RICH, numbered
from tests.mixed.conftest import Direction, Fleet
from tests.mixed.fleet import RemoteError, RemoteLayer

pytestmark = pytest.mark.asyncio(loop_scope="session")

Options = dict[str, Any]

PLAIN = {name: value for name, value in RICH.items() if name != "bytes"}

FORMATS: dict[str, tuple[Options, Options, dict[str, Any]]] = {
    "msgpack": ({}, {}, RICH),
    "json": ({"serializer_format": "json"}, {"serializer_format": "json"}, PLAIN),
    "encrypted": (
        {"symmetric_encryption_keys": ["one key"]},
        {"symmetric_encryption_keys": ["one key"]},
        RICH,
    ),
    "rotated keys": (
        {"symmetric_encryption_keys": ["old key"]},
        {"symmetric_encryption_keys": ["new key", "old key"]},
        RICH,
    ),
    "encrypted json": (
        {"symmetric_encryption_keys": ["a", "b"], "serializer_format": "json"},
        {"symmetric_encryption_keys": ["c", "b", "a"], "serializer_format": "json"},
        PLAIN,
    ),
}


@pytest.mark.parametrize("name", FORMATS)
async def test_direct_and_group_messages_arrive_in_every_format(
    direction: Direction, kind: str, options: Options, name: str
) -> None:
    """What one side sends to a consumer of the other is what that one receives."""
    of_sender, of_receiver, message = FORMATS[name]
    sender, receiver = await direction.layers(kind, {**options, **of_sender}, **of_receiver)
    channel = await receiver.new_channel()
    await sender.send(channel, message)
    assert await receiver.receive(channel) == message
    await receiver.group_add("room", channel)
    await sender.group_send("room", message)
    assert await receiver.receive(channel) == message


async def test_a_group_with_members_on_both_sides_reaches_all_of_them(
    direction: Direction, kind: str, options: Options
) -> None:
    """Whoever sends, every member of either release gets one copy, waiting or not."""
    layers = await direction.layers(kind, options)
    members = [(layer, await layer.new_channel()) for layer in layers for _ in range(3)]
    for layer, channel in members:
        await layer.group_add("room", channel)
    waiting = [asyncio.create_task(layer.receive(channel)) for layer, channel in members[::2]]
    await layers[0].group_send("room", numbered(1))
    assert await asyncio.gather(*waiting) == [numbered(1)] * 3
    for layer, channel in members[1::2]:
        assert await layer.receive(channel) == numbered(1)
    await layers[0].send(members[-1][1], numbered(2))
    assert await layers[1].receive(members[-1][1]) == numbered(2)


async def test_a_stream_keeps_its_order(direction: Direction, kind: str, options: Options) -> None:
    """Many messages to one consumer of the other side come in order, and each once."""
    sender, receiver = await direction.layers(kind, {**options, "capacity": 1000})
    channel = await receiver.new_channel()
    collecting = asyncio.create_task(receiver.collect(channel))
    for number in range(200):
        await sender.send(channel, numbered(number))
    await sender.send(channel, {"type": "stop"})
    assert await collecting == [numbered(number) for number in range(200)]


async def test_a_member_that_left_gets_nothing_more(
    direction: Direction, kind: str, options: Options
) -> None:
    """``group_discard`` on one side is obeyed by senders on the other."""
    sender, receiver = await direction.layers(kind, options)
    left, stayed = await receiver.new_channel(), await receiver.new_channel()
    for channel in (left, stayed):
        await receiver.group_add("room", channel)
    await receiver.group_discard("room", left)
    await sender.group_send("room", numbered(1))
    assert await receiver.receive(stayed) == numbered(1)
    await sender.send(left, numbered(2))
    assert await receiver.receive(left) == numbered(2)


@pytest.mark.parametrize("name", FORMATS)
async def test_excluded_channels_are_skipped_by_core_and_by_new_processes(
    fleet: Fleet, kind: str, options: Options, name: str
) -> None:
    """On pubsub an old process delivers to all of its members, with the key in the message."""
    of_sender, of_receiver, message = FORMATS[name]
    sender = await fleet.new.layer(kind, **options, **of_sender)
    new = await fleet.new.layer(kind, **options, **of_receiver)
    old = await fleet.old.layer(kind, **options, **of_receiver)
    channels = {}
    for layer in (new, old):
        channels[layer] = [await layer.new_channel() for _ in range(2)]
        for channel in channels[layer]:
            await layer.group_add("room", channel)
    excluded = sorted(of_layer[0] for of_layer in channels.values())
    await sender.group_send("room", message, exclude=excluded)
    seen_by_old = message if kind == "core" else {**message, "__asgi_exclude__": excluded}
    for layer, seen in [(new, message), (old, seen_by_old)]:
        out, member = channels[layer]
        assert await layer.receive(member) == seen
        await sender.send(out, numbered(1))
        got = await layer.receive(out)
        if layer is old and kind == "pubsub":
            assert got == seen
            got = await layer.receive(out)
        assert got == numbered(1)


async def test_a_worker_of_core_gets_the_tasks_of_the_other_side(
    direction: Direction, options: Options
) -> None:
    """General channels of core: the worker may be there before or after the message."""
    sender, worker = await direction.layers("core", options)
    await sender.send("work", RICH)
    assert await worker.receive("work") == RICH
    waiting = asyncio.create_task(worker.receive("work"))
    await sender.send("work", numbered(1))
    assert await waiting == numbered(1)
    await sender.group_add("workers", "work")
    await sender.group_send("workers", numbered(2))
    assert await worker.receive("work") == numbered(2)


async def test_an_old_and_a_new_worker_of_core_share_the_tasks(
    fleet: Fleet, options: Options
) -> None:
    """One worker of each release on one general channel: each message goes to one of them."""
    options = {**options, "capacity": 1000}
    sender = await fleet.new.layer("core", **options)
    workers = [await process.layer("core", **options) for process in (fleet.old, fleet.new)]
    collecting = [asyncio.create_task(worker.collect("work")) for worker in workers]
    for number in range(200):
        await sender.send("work", numbered(number))
    for _ in workers:
        await sender.send("work", {"type": "stop"})
    received = itertools.chain(*await asyncio.gather(*collecting))
    assert sorted(message["n"] for message in received) == list(range(200))


async def fill(layer: RemoteLayer, channel: str, capacity: int) -> None:
    for number in range(capacity):
        await layer.send(channel, numbered(number))


@pytest.mark.parametrize("general", [False, True], ids=["specific", "general"])
async def test_both_sides_count_the_same_queue(
    direction: Direction, options: Options, general: bool
) -> None:
    """A queue of core that one side has filled is full for the other, until it is read."""
    sender, receiver = await direction.layers("core", {**options, "capacity": 4})
    channel = "work" if general else await receiver.new_channel()
    await fill(receiver, channel, 2)
    await fill(sender, channel, 2)
    for layer in (sender, receiver):
        with pytest.raises(RemoteError) as full:
            await layer.send(channel, numbered(9))
        assert full.value.name == "ChannelFull"
    received = [await receiver.receive(channel) for _ in range(4)]
    assert received == [numbered(number) for number in (0, 1, 0, 1)]
    await sender.send(channel, numbered(9))
    assert await receiver.receive(channel) == numbered(9)


async def test_group_messages_find_their_way_round_a_ring(
    direction: Direction, kind: str, ring_options: Options
) -> None:
    """With two hosts both sides look for queues and groups in the same places."""
    sender, receiver = await direction.layers(kind, ring_options)
    for number in range(8):
        channel = await receiver.new_channel()
        await receiver.group_add(f"room{number}", channel)
        await sender.group_send(f"room{number}", numbered(number))
        assert await receiver.receive(channel) == numbered(number)


async def test_direct_messages_of_the_new_side_find_old_consumers_on_a_ring(
    fleet: Fleet, kind: str, ring_options: Options
) -> None:
    """A new sender looks where an old process reads. (An old sender of core may not.)"""
    sender, receiver = await Direction(fleet.new, fleet.old).layers(kind, ring_options)
    for number in range(8):
        channel = await receiver.new_channel()
        await sender.send(channel, numbered(number))
        assert await receiver.receive(channel) == numbered(number)


async def test_a_worker_of_core_reads_what_the_other_side_put_round_a_ring(
    direction: Direction, ring_options: Options
) -> None:
    """Tasks go round the ring on both sides, and a worker of either finds them all."""
    sender, worker = await direction.layers("core", ring_options)
    for number in range(6):
        await sender.send("work", numbered(number))
    received = [await worker.receive("work") for _ in range(6)]
    assert sorted(message["n"] for message in received) == list(range(6))
