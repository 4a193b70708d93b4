"""Capacity: what is refused, what is dropped, how channels are told apart, what is logged."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest
from channels.exceptions import ChannelFull

from channels_redis.core import RedisChannelLayer
from channels_redis.utils import _consistent_hash
from tests.helpers import bounded, receive, receive_many, wait_for

SAY = {"type": "x"}
OVER_CAPACITY = "{} of {} channels over capacity in group {}"


async def fill(layer: Any, channel: str) -> int:
    """Send until ``ChannelFull``; how many messages were taken."""
    taken = 0
    with pytest.raises(ChannelFull):
        while taken < 1000:
            await layer.send(channel, SAY)
            taken += 1
    return taken


def capacity_records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, str]]:
    return [record for record in caplog.record_tuples if record[0].startswith("channels_redis")]


async def test_a_full_queue_refuses_the_sender(build_core: Any) -> None:
    """At capacity ``send`` raises ``ChannelFull``; the messages in the queue stay."""
    layer = build_core(capacity=3)
    channel = await layer.new_channel()
    assert await fill(layer, channel) == 3
    assert await receive_many(layer, channel, 3) == [SAY] * 3
    await layer.send(channel, SAY)
    assert await receive(layer, channel) == SAY


@pytest.mark.parametrize("topology", ["single"], indirect=True)
async def test_a_general_channel_is_full_at_its_capacity(build: Any) -> None:
    """Both layers keep general messages in Redis, and refuse what is too much."""
    layer = build(capacity=3)
    assert await fill(layer, "tasks") == 3
    assert await receive_many(layer, "tasks", 3) == [SAY] * 3
    await layer.send("tasks", SAY)


async def test_the_layer_has_the_exception_of_a_full_channel_as_the_specification_says(
    build: Any,
) -> None:
    """``except layer.ChannelFull`` catches what ``send()`` raises."""
    layer = build(capacity=1)
    with pytest.raises(layer.ChannelFull):
        for _ in range(5):
            await layer.send("tasks", SAY)


@pytest.mark.parametrize("topology", ["ring"], indirect=True)
async def test_a_general_channel_on_a_ring_has_its_capacity_on_each_shard(build: Any) -> None:
    """Messages go round the ring: four shards hold four times the capacity."""
    layer = build(capacity=3)
    assert await fill(layer, "tasks") == 12


async def test_capacity_counts_on_the_non_local_name(build_core: Any) -> None:
    """The channels of one process share a queue, and so its capacity in Redis."""
    layer = build_core(capacity=4)
    one, other = await layer.new_channel(), await layer.new_channel()
    await layer.send(one, SAY)
    await layer.send(one, SAY)
    assert await fill(layer, other) == 2
    with pytest.raises(ChannelFull):
        await layer.send(one, SAY)


async def test_expired_messages_take_no_room(build_core: Any, prefix: str) -> None:
    """What nobody may read any more is dropped before capacity is judged."""
    layer = build_core(capacity=3)
    channel = await layer.new_channel()
    await fill(layer, channel)
    name = channel.partition("!")[0] + "!"
    connection = layer.connection(layer.consistent_hash(name))
    key = f"{prefix}{name}"
    for member, score in await connection.zrange(key, 0, -1, withscores=True):
        await connection.zadd(key, {member: score - 120})
    await layer.send(channel, {"type": "fresh"})
    assert await receive(layer, channel) == {"type": "fresh"}


async def test_the_first_matching_pattern_gives_the_capacity(build_core: Any) -> None:
    """Globs and compiled patterns match the full channel name, in order."""
    layer = build_core(
        capacity=9,
        channel_capacity={
            re.compile(r"^specific\..+![0-9a-f]{32}$"): 2,
            "specific.*": 5,
            "tasks.a*": 3,
            "*": 4,
        },
    )
    assert await fill(layer, await layer.new_channel()) == 2
    shards = layer.ring_size
    assert await fill(layer, "tasks.abc") == 3 * shards
    assert await fill(layer, "tasks.b") == 4 * shards


async def test_patterns_reach_pubsub_general_channels(build_pubsub: Any) -> None:
    """The option means on pubsub what it means on core."""
    layer = build_pubsub(channel_capacity={"tasks.a*": 3})
    assert await fill(layer, "tasks.abc") == 3 * layer.ring_size


async def neighbours(layer: Any, count: int) -> list[str]:
    """New channels on one shard, so that what is sent to one after the other arrives so."""
    found: dict[int, list[str]] = {}
    while True:
        channel = await layer.new_channel()
        shard = found.setdefault(_consistent_hash(channel, layer.ring_size), [])
        shard.append(channel)
        if len(shard) == count:
            return shard


async def flood(layer: Any, count: int) -> tuple[str, str]:
    """A channel that nobody reads got ``count`` messages; a sibling that is read saw them pass."""
    slow, fast = await neighbours(layer, 2)
    before = received(layer)
    for number in range(count):
        await layer.send(slow, {"number": number})
        await layer.send(fast, SAY)
        assert await receive(layer, fast) == SAY
    await wait_for(lambda: received(layer) - before >= 2 * count)
    return slow, fast


def received(layer: Any) -> int:
    """Return how many messages have come in."""
    return sum(node.received for node in layer.stats().nodes)


async def test_a_slow_consumer_loses_its_own_oldest(build: Any) -> None:
    """Its mailbox keeps the newest up to ``capacity``; siblings lose nothing."""
    layer = build(capacity=5)
    slow, _ = await flood(layer, 12)
    got = await receive_many(layer, slow, 5)
    assert [message["number"] for message in got] == [7, 8, 9, 10, 11]


async def test_mailboxes_obey_channel_capacity(build: Any) -> None:
    """The capacity of a mailbox is the one of its channel."""
    layer = build(channel_capacity={re.compile("."): 2})
    slow, _ = await flood(layer, 6)
    got = await receive_many(layer, slow, 2)
    assert [message["number"] for message in got] == [4, 5]


async def test_dropped_messages_are_reported(build: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The first drop is logged at once with the channel's name, the next ones in a summary."""
    layer = build(capacity=2)
    caplog.set_level(logging.WARNING)
    slow, _ = await flood(layer, 8)
    records = [record for record in capacity_records(caplog) if slow in record[2]]
    assert len(records) == 1


async def test_group_send_skips_full_channels_and_says_so(
    build_core: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No error; one INFO record in the words that log filters know."""
    layer, other = build_core(capacity=1), build_core(capacity=1)
    full, free = await layer.new_channel(), await other.new_channel()
    for channel in (full, free):
        await layer.group_add("room", channel)
    await layer.send(full, {"type": "filler"})
    caplog.set_level(logging.INFO)
    await layer.group_send("room", SAY)
    assert capacity_records(caplog) == [
        ("channels_redis.core", logging.INFO, OVER_CAPACITY.format(1, 2, "room"))
    ]
    assert await receive(other, free) == SAY
    assert await receive(layer, full) == {"type": "filler"}


async def test_the_record_counts_queues_and_members(
    build_core: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Three members in one full queue are one over capacity, of three."""
    layer = build_core(capacity=1)
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("room", channel)
    await layer.send(channels[0], SAY)
    caplog.set_level(logging.INFO)
    await layer.group_send("room", SAY)
    assert [record[2] for record in capacity_records(caplog)] == [
        OVER_CAPACITY.format(1, 3, "room")
    ]


async def test_a_flood_is_one_record_a_minute_for_each_group(
    build_core: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A full group logs at once and then keeps still; another group has a record of its own."""
    layer = build_core(capacity=1)
    channel = await layer.new_channel()
    for group in ("one", "two"):
        await layer.group_add(group, channel)
    await layer.send(channel, SAY)
    caplog.set_level(logging.INFO)
    for _ in range(10):
        await layer.group_send("one", SAY)
    await layer.group_send("two", SAY)
    assert [record[2] for record in capacity_records(caplog)] == [
        OVER_CAPACITY.format(1, 1, "one"),
        OVER_CAPACITY.format(1, 1, "two"),
    ]


async def test_group_send_never_raises_channel_full(build: Any) -> None:
    """``ChannelFull`` comes from ``send`` only."""
    layer = build(capacity=1)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for _ in range(5):
        await bounded(layer.group_send("room", SAY))
    assert await receive(layer, channel) == SAY


async def test_capacity_holds_under_concurrent_senders(build_core: Any) -> None:
    """Twenty at once into a queue of five: five in, fifteen refused."""
    layer = build_core(capacity=5)
    channel = await layer.new_channel()
    results = await asyncio.gather(
        *(layer.send(channel, SAY) for _ in range(20)), return_exceptions=True
    )
    assert [type(result) for result in results].count(ChannelFull) == 15
    assert await receive_many(layer, channel, 5) == [SAY] * 5


async def test_a_capacity_that_cannot_be_told_leaves_a_group_message_unsent(
    redis_url: str, prefix: str
) -> None:
    """Whole or not at all, also where there are more queues than leave in one write."""

    class Layer(RedisChannelLayer):
        def get_capacity(self, channel: str) -> Any:
            if channel == "work29":
                raise LookupError(channel)
            return super().get_capacity(channel)

    layer = Layer(hosts=[redis_url], prefix=prefix)
    for number in range(30):
        await layer.group_add("room", f"work{number}")
    with pytest.raises(LookupError):
        await layer.group_send("room", {**SAY, "text": "x" * 1000})
    await layer.send("work0", {"type": "marker"})
    assert await receive(layer, "work0") == {"type": "marker"}
    await layer.close()


async def test_a_capacity_that_cannot_be_told_to_a_receiver_costs_that_channel_alone(
    redis_url: str, prefix: str
) -> None:
    """Other messages of the same batch arrive, and Redis is not thought lost."""

    class Layer(RedisChannelLayer):
        broken = ""

        def get_capacity(self, channel: str) -> Any:
            if channel == self.broken:
                raise LookupError(channel)
            return super().get_capacity(channel)

    layer = Layer(hosts=[redis_url], prefix=prefix)
    healthy = await layer.new_channel()
    layer.broken = f"{healthy.partition('!')[0]}!other"
    other = Layer(hosts=[redis_url], prefix=prefix)
    for channel in (layer.broken, healthy, healthy):
        await other.send(channel, SAY)
    assert [await receive(layer, healthy) for _ in range(2)] == [SAY, SAY]
    assert layer.stats().dropped == {"undecodable": 1}
    assert layer.stats().reconnects == 0
    await layer.close()
    await other.close()
