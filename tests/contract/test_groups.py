"""Groups: who gets what, once, and who no longer does."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.contract.steps import ALSO_BEHIND_SENTINEL, new_members
from tests.helpers import bounded, receive, receive_many, receive_until_marker

FIRST = {"type": "first"}
SECOND = {"type": "second"}


@ALSO_BEHIND_SENTINEL
async def test_a_group_message_reaches_every_member_in_every_process(build: Any) -> None:
    """Three processes with three members each: nine copies."""
    layers = [build() for _ in range(3)]
    rooms = [(layer, await new_members(layer, 3)) for layer in layers]
    await build().group_send("room", FIRST)
    for layer, channels in rooms:
        for channel in channels:
            assert await receive(layer, channel) == FIRST
            assert await receive_until_marker(layer, channel) == []


async def test_a_member_that_joined_gets_the_very_next_message(build: Any) -> None:
    """When ``group_add`` returned, a message sent by anybody arrives."""
    layer, sender = build(), build()
    for number in range(30):
        (channel,) = await new_members(layer, 1, group=f"room{number}")
        await sender.group_send(f"room{number}", FIRST)
        assert await receive(layer, channel) == FIRST


async def test_a_new_channel_gets_the_very_next_message(build: Any) -> None:
    """When ``new_channel`` returned, a message sent by anybody arrives."""
    layer, sender = build(), build()
    for _ in range(30):
        channel = await layer.new_channel()
        await sender.send(channel, FIRST)
        assert await receive(layer, channel) == FIRST


async def test_group_messages_keep_their_order(layer: Any) -> None:
    """One sender, one group: first in, first out for each member."""
    channels = await new_members(layer, 2)
    sent = [{"type": "x", "number": number} for number in range(30)]
    for message in sent:
        await layer.group_send("room", message)
    for channel in channels:
        assert await receive_many(layer, channel, 30) == sent


async def test_joining_twice_brings_one_copy(layer: Any) -> None:
    """``group_add`` of a member changes nothing but its time stamp."""
    (channel,) = await new_members(layer, 1)
    await layer.group_add("room", channel)
    await layer.group_send("room", FIRST)
    await layer.group_send("room", SECOND)
    assert await receive_many(layer, channel, 2) == [FIRST, SECOND]


async def test_a_member_of_two_groups_gets_two_copies(layer: Any) -> None:
    """A message to each group is a message each."""
    (channel,) = await new_members(layer, 1, "one")
    await layer.group_add("two", channel)
    await layer.group_send("one", FIRST)
    assert await receive(layer, channel) == FIRST
    await layer.group_send("two", FIRST)
    assert await receive(layer, channel) == FIRST


async def test_a_channel_that_left_gets_no_more_messages(layer: Any) -> None:
    """After ``group_discard`` returned no message of the group arrives."""
    stays, leaves = await new_members(layer, 2)
    await layer.group_discard("room", leaves)
    await layer.group_send("room", FIRST)
    assert await receive(layer, stays) == FIRST
    assert await receive_until_marker(layer, leaves) == []


async def test_a_channel_that_left_one_group_stays_in_the_other(layer: Any) -> None:
    """Leaving is per group."""
    (channel,) = await new_members(layer, 1, "one")
    await layer.group_add("two", channel)
    await layer.group_discard("one", channel)
    await layer.group_send("one", FIRST)
    await layer.group_send("two", SECOND)
    assert await receive(layer, channel) == SECOND


async def test_a_channel_that_left_may_join_again(layer: Any) -> None:
    """Join, leave and join: one copy."""
    (channel,) = await new_members(layer, 1)
    for _ in range(5):
        await layer.group_discard("room", channel)
        await layer.group_add("room", channel)
    await layer.group_send("room", FIRST)
    await layer.group_send("room", SECOND)
    assert await receive_many(layer, channel, 2) == [FIRST, SECOND]


async def test_discarding_a_channel_that_is_not_a_member_is_no_error(layer: Any) -> None:
    """Consumers discard in ``finally``, whether they joined or not."""
    channel = await layer.new_channel()
    await layer.group_discard("nobody-is-here", channel)
    await layer.group_add("room", channel)
    await layer.group_discard("room", await layer.new_channel())
    await layer.group_send("room", FIRST)
    assert await receive(layer, channel) == FIRST


async def test_a_message_to_an_empty_group_is_silent(
    layer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody there, no error, no record."""
    caplog.set_level(logging.INFO)
    await layer.group_send("nobody-is-here", FIRST)
    assert [record for record in caplog.records if record.name.startswith("channels_redis")] == []


async def test_an_ordinary_group_send_logs_nothing(
    layer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No record at INFO or above where all went well."""
    caplog.set_level(logging.INFO)
    (channel,) = await new_members(layer, 1)
    await layer.group_send("room", FIRST)
    await receive(layer, channel)
    assert [record for record in caplog.records if record.name.startswith("channels_redis")] == []


async def test_group_send_leaves_the_senders_dict_alone(layer: Any) -> None:
    """A message may be sent to several groups in turn."""
    channels = await new_members(layer, 2)
    message = {"type": "x", "list": [1]}
    await layer.group_send("room", message)
    assert message == {"type": "x", "list": [1]}
    for channel in channels:
        assert await receive(layer, channel) == message


async def test_groups_of_one_channel_may_change_while_it_waits(layer: Any) -> None:
    """A consumer that waits in ``receive()`` joins and leaves as it likes."""
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    await layer.group_add("room", channel)
    await layer.group_send("room", FIRST)
    assert await bounded(waiting) == FIRST


async def test_many_joins_at_once_are_all_confirmed(layer: Any) -> None:
    """200 consumers join one group in one tick; each gets the next message."""
    channels = await asyncio.gather(*(layer.new_channel() for _ in range(200)))
    await asyncio.gather(*(layer.group_add("room", channel) for channel in channels))
    await layer.group_send("room", FIRST)
    got = await asyncio.gather(*(receive(layer, channel) for channel in channels))
    assert got == [FIRST] * 200


async def test_a_message_for_many_lets_others_run_meanwhile(layer: Any) -> None:
    """A thousand consumers do not get it in one turn of the event loop, which serves others too."""
    channels = await new_members(layer, 1000)
    turns = 0
    seen_at: set[int] = set()

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def consume(channel: str) -> None:
        await layer.receive(channel)
        seen_at.add(turns)

    turning = asyncio.create_task(turn())
    consumers = [asyncio.create_task(consume(channel)) for channel in channels]
    await asyncio.sleep(0)
    await layer.group_send("room", FIRST)
    await bounded(asyncio.gather(*consumers))
    turning.cancel()
    assert len(seen_at) >= 5


async def test_a_join_beside_a_leave_is_not_lost(layer: Any) -> None:
    """The last member leaves in the tick in which the next one joins."""
    for _ in range(20):
        (leaves,) = await new_members(layer, 1)
        joins = await layer.new_channel()
        await asyncio.gather(layer.group_discard("room", leaves), layer.group_add("room", joins))
        await layer.group_send("room", FIRST)
        assert await receive(layer, joins) == FIRST
        await layer.group_discard("room", joins)


async def test_core_general_channels_are_members_like_others(build_core: Any) -> None:
    """A worker's channel in a group gets its copy, whichever process reads it."""
    layer, worker = build_core(), build_core()
    (channel,) = await new_members(layer, 1)
    await layer.group_add("room", "tasks")
    await layer.group_send("room", FIRST)
    assert await receive(layer, channel) == FIRST
    assert await receive(worker, "tasks") == FIRST


async def test_core_group_members_may_be_of_other_processes(build_core: Any) -> None:
    """Any process may add and discard any channel."""
    here, elsewhere = build_core(), build_core()
    channel, other = [await elsewhere.new_channel() for _ in range(2)]
    await here.group_add("room", channel)
    await here.group_add("room", other)
    await here.group_discard("room", other)
    await here.group_send("room", FIRST)
    assert await receive(elsewhere, channel) == FIRST
    assert await receive_until_marker(elsewhere, other) == []


async def test_pubsub_refuses_members_of_other_processes(build_pubsub: Any) -> None:
    """Only the process that reads a channel can subscribe for it: ``RuntimeError``."""
    channel = await build_pubsub().new_channel()
    with pytest.raises(RuntimeError, match="process"):
        await bounded(build_pubsub().group_add("room", channel))


async def test_pubsub_refuses_a_general_channel_as_a_member_if_the_process_does_not_receive_on_it(
    build_pubsub: Any,
) -> None:
    """A general channel joins where this process receives on it, and only there."""
    with pytest.raises(RuntimeError, match="tasks"):
        await bounded(build_pubsub().group_add("room", "tasks"))


async def test_pubsub_general_members_get_a_copy_in_each_process(build_pubsub: Any) -> None:
    """A worker that receives on a general channel may join with it: one copy per process."""
    workers, sender = [build_pubsub() for _ in range(2)], build_pubsub()
    waiting = []
    for worker in workers:
        waiting.append(asyncio.create_task(worker.receive("tasks")))
        await asyncio.sleep(0)
        await worker.group_add("room", "tasks")
        await worker.group_add("room", "tasks")
    await sender.group_send("room", FIRST)
    assert await bounded(asyncio.gather(*waiting)) == [FIRST, FIRST]
    await sender.group_send("room", SECOND)
    assert [await receive(worker, "tasks") for worker in workers] == [SECOND, SECOND]
