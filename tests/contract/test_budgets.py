"""What bounds mailboxes and the queue of a process where no capacity was set: bytes, not counts."""

from __future__ import annotations

import logging
import random
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from channels.exceptions import ChannelFull

from tests.helpers import numbered, numbers, receive, receive_many, receive_until_marker, wait_for

BURST = 1000


def padded(number: int, size_bytes: int) -> dict[str, Any]:
    """Return a numbered message of a size."""
    return {**numbered(number), "padding": "x" * size_bytes}


async def busy_consumers(layer: Any, sender: Any, count: int) -> list[str]:
    """Channels in the group "room" on each of which one message was received."""
    channels = [await layer.new_channel() for _ in range(count)]
    for channel in channels:
        await layer.group_add("room", channel)
    await sender.group_send("room", numbered(-1))
    for channel in channels:
        assert await receive(layer, channel) == numbered(-1)
    return channels


async def test_a_burst_to_consumers_that_are_all_busy_arrives_whole(build: Any) -> None:
    """A thousand group messages in a row to five handlers that run meanwhile."""
    layer, sender = build(), build()
    channels = await busy_consumers(layer, sender, 5)
    for number in range(BURST):
        await sender.group_send("room", numbered(number))
    for channel in channels:
        assert numbers(await receive_many(layer, channel, BURST)) == list(range(BURST))
    assert layer.stats().dropped == {}


@pytest.mark.parametrize(
    "options",
    [{"capacity": 100}, {"channel_capacity": {re.compile(".*"): 100}}],
    ids=["capacity", "channel_capacity"],
)
async def test_a_capacity_that_was_set_bounds_mailboxes_also_where_it_is_the_default(
    build: Any, options: dict[str, Any]
) -> None:
    """A hundred messages that were asked for are a hundred."""
    layer, sender = build(**options), build()
    (channel,) = await busy_consumers(layer, sender, 1)
    for number in range(150):
        await sender.send(channel, numbered(number))
    await wait_for(lambda: layer.stats().dropped.get("capacity") == 50)
    assert numbers(await receive_many(layer, channel, 100)) == list(range(50, 150))


async def test_unset_the_queue_of_a_general_channel_holds_a_hundred(build: Any) -> None:
    """As ``capacity`` reads, on each shard."""
    layer = build()
    assert layer.capacity == 100
    for number in range(100 * layer.ring_size):
        await layer.send("work", numbered(number))
    with pytest.raises(ChannelFull):
        await layer.send("work", numbered(0))


async def test_the_consumer_that_never_reads_pays_for_the_budget(build: Any) -> None:
    """Its oldest messages make room; siblings that read lose nothing, however many come."""
    layer, sender = build(max_buffered_bytes=100_000), build()
    never, *siblings = await busy_consumers(layer, sender, 4)
    for number in range(500):
        await sender.group_send("room", padded(number, 1000))
        for channel in siblings:
            assert (await receive(layer, channel))["n"] == number
    assert layer.stats().buffered_bytes <= 100_000
    kept = numbers(await receive_until_marker(layer, never))
    assert kept == list(range(500 - len(kept), 500))
    assert 10 < len(kept) < 100
    assert layer.stats().dropped == {"memory": 500 - len(kept)}


async def test_a_payload_that_many_share_counts_once(build: Any) -> None:
    """A hundred busy consumers of one group take little more than one of them."""
    layer, sender = build(max_buffered_bytes=200_000), build()
    channels = await busy_consumers(layer, sender, 100)
    for number in range(10):
        await sender.group_send("room", padded(number, 10_000))
    await wait_for(lambda: layer.stats().buffered == 1000)
    assert 100_000 < layer.stats().buffered_bytes < 200_000
    for channel in channels:
        assert numbers(await receive_many(layer, channel, 10)) == list(range(10))
    assert layer.stats().buffered_bytes == 0
    assert layer.stats().dropped == {}


async def test_what_is_forgotten_takes_nothing_of_the_budget(build: Any) -> None:
    """With a flush, with the end of a mailbox, through the view of earlier releases."""
    layer = build()
    channel, other = await layer.new_channel(), await layer.new_channel()
    for one in (channel, other):
        box = layer._mailboxes.boxes[one]
        layer._mailboxes.put(box, layer._encoding.for_many(numbered(1), 100), None)
    assert layer.stats().buffered_bytes > 0
    layer._mailboxes.discard(layer._mailboxes.boxes[other])
    await layer.flush()
    assert layer.stats().buffered_bytes == 0


async def test_the_queue_of_a_process_is_bounded_by_bytes(build_core: Any) -> None:
    """As many frames as the budget holds of this size, and a hundred in any case."""
    layer = build_core(max_queued_bytes=400_000)
    channel = await layer.new_channel()
    for number in range(350):
        await layer.send(channel, padded(number, 1000))
    with pytest.raises(ChannelFull):
        for number in range(60):
            await layer.send(channel, padded(number, 1000))


async def test_many_short_messages_refuse_no_long_one(build_core: Any) -> None:
    """A frame for a large group is not taken for one of as many large ones: what lies there is
    looked at.  Nor do long messages find room for ever behind short ones.
    """
    layer = build_core(max_queued_bytes=1_000_000)
    channel = await layer.new_channel()
    for number in range(500):
        await layer.send(channel, numbered(number))
    sent = 0
    with pytest.raises(ChannelFull):
        for number in range(500, 1000):
            await layer.send(channel, padded(number, 20_000))
            sent += 1
    assert 50 < sent < 250
    assert numbers(await receive_many(layer, channel, 500 + sent)) == list(range(500 + sent))


async def test_a_long_message_among_many_short_ones_refuses_none(build_core: Any) -> None:
    """That one of those that are looked at is long says little about the others."""
    layer = build_core(max_queued_bytes=1_000_000)
    channel = await layer.new_channel()
    dice = random.Random(1)
    for number in range(1400):
        # Now and then one of which two hundred would fill the queue.
        await layer.send(channel, padded(number, 5000 if dice.random() < 0.01 else 0))
    assert numbers(await receive_many(layer, channel, 1400)) == list(range(1400))


async def test_the_queue_of_a_process_holds_a_hundred_however_large(build_core: Any) -> None:
    """The bound in bytes is no reason to refuse what was never refused."""
    layer = build_core(max_queued_bytes=1)
    channel = await layer.new_channel()
    for number in range(100):
        await layer.send(channel, numbered(number))
    with pytest.raises(ChannelFull):
        await layer.send(channel, numbered(0))


async def test_the_old_view_of_a_mailbox_is_bounded_by_the_default_too(build_core: Any) -> None:
    """What is put there through ``receive_buffer`` is old code, and expects the old bound."""
    layer = build_core()
    buffer = layer.receive_buffer[await layer.new_channel()]
    for number in range(150):
        buffer.put_nowait(numbered(number))
    assert (buffer.qsize(), buffer.full(), buffer.maxsize) == (100, True, 100)
    assert buffer.get_nowait()["n"] == 50


async def test_drops_say_what_to_do(build: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The record names the option, and counts in English."""
    layer, sender = build(max_buffered_bytes=20_000), build()
    (channel,) = await busy_consumers(layer, sender, 1)
    caplog.set_level(logging.WARNING)
    for number in range(100):
        await sender.send(channel, padded(number, 1000))
    await wait_for(lambda: layer.stats().dropped.get("memory", 0) > 10)
    (record,) = (one.getMessage() for one in caplog.records if channel in one.getMessage())
    assert record.startswith("Dropped 1 message; most: 1 on ")
    assert "max_buffered_bytes" in record


EXITING = """
import logging, sys
from channels_redis.core import RedisChannelLayer

logging.basicConfig(format="%(message)s")
layer = RedisChannelLayer()
for number in range(5):
    layer._dropped("work", "capacity", 1)
"""


def test_a_summary_that_is_pending_is_written_as_the_process_ends() -> None:
    """One record at once, and the rest before nobody can tell it any more."""
    command = [sys.executable, "-c", EXITING]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    first, rest = ended.stderr.splitlines()
    assert first.startswith("Dropped 1 message; most: 1 on work (capacity)")
    assert rest.startswith("Dropped 4 messages; most: 4 on work (capacity)")


@pytest.mark.parametrize("option", ["max_buffered_bytes", "max_queued_bytes"])
def test_budgets_are_whole_numbers_of_bytes(layer_class: Callable[..., Any], option: str) -> None:
    """Refused by name, and readable on the layer."""
    assert getattr(layer_class(**{option: 1}), option) == 1
    for wrong in (0, "1", None):
        with pytest.raises(ValueError, match=option):
            layer_class(**{option: wrong})
