"""What sending and receiving promise on both layers and on every topology."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis._format.keyspace import Keyspace
from channels_redis.testing.servers import wait_until
from tests.contract.steps import ALSO_BEHIND_SENTINEL, HELLO, waiting_receive
from tests.helpers import (
    RICH,
    SCRIPT_HEAD,
    bounded,
    numbered,
    receive,
    receive_many,
    receive_until_marker,
    run_script,
)


@pytest.fixture(params=["specific", "general"])
async def channel(request: pytest.FixtureRequest, layer: Any) -> str:
    """A process-specific and a general channel of the layer in turn."""
    return await layer.new_channel() if request.param == "specific" else "tasks"


@ALSO_BEHIND_SENTINEL
async def test_a_message_arrives_as_it_was_sent(layer: Any, channel: str) -> None:
    """Every type of the specification survives the way."""
    await layer.send(channel, RICH)
    assert await receive(layer, channel) == RICH


async def test_an_empty_message_arrives(layer: Any, channel: str) -> None:
    """An empty dict is a message like any other."""
    await layer.send(channel, {})
    assert await receive(layer, channel) == {}


async def test_messages_to_one_consumer_keep_their_order(layer: Any) -> None:
    """One sender, one process-specific channel: first in, first out."""
    channel = await layer.new_channel()
    for message in map(numbered, range(50)):
        await layer.send(channel, message)
    assert await receive_many(layer, channel, 50) == [*map(numbered, range(50))]


async def test_a_receiver_that_came_first_is_woken(layer: Any, channel: str) -> None:
    """``receive()`` waits for a message that is sent later."""
    waiting = await waiting_receive(layer, channel)
    await layer.send(channel, {"type": "late"})
    assert await bounded(waiting) == {"type": "late"}


async def test_two_consumers_of_a_process_get_their_own(layer: Any) -> None:
    """Messages never stray into a sibling's channel, whatever its name's prefix."""
    one, other = await layer.new_channel(), await layer.new_channel("other")
    await layer.send(other, {"type": "other"})
    await layer.send(one, {"type": "one"})
    assert await receive(layer, one) == {"type": "one"}
    assert await receive(layer, other) == {"type": "other"}


@ALSO_BEHIND_SENTINEL
async def test_a_second_process_reaches_a_consumer_of_the_first(build: Any) -> None:
    """A layer elsewhere with the same CONFIG can send to any channel."""
    here, elsewhere = build(), build()
    channel = await here.new_channel()
    await elsewhere.send(channel, RICH)
    assert await receive(here, channel) == RICH


async def test_layers_with_different_prefixes_do_not_receive_each_others_messages(
    build: Any, prefix: str
) -> None:
    """Two sites share a server: general channels and groups are kept apart by the prefix."""
    one, other = build(prefix=f"{prefix}1"), build(prefix=f"{prefix}2")
    channels = [await one.new_channel(), await other.new_channel()]
    await one.group_add("room", channels[0])
    await other.group_add("room", channels[1])
    await other.send("tasks", {"type": "for the other"})
    await other.group_send("room", {"type": "group of the other"})
    assert await receive(other, channels[1]) == {"type": "group of the other"}
    assert await receive_until_marker(one, channels[0]) == []
    await one.send("tasks", HELLO)
    assert await receive(one, "tasks") == HELLO
    assert await receive(other, "tasks") == {"type": "for the other"}


async def test_send_leaves_the_senders_dict_alone(layer: Any, channel: str) -> None:
    """A message may be sent twice: ``send`` adds and changes nothing."""
    message = {"type": "x", "list": [1]}
    await layer.send(channel, message)
    assert message == {"type": "x", "list": [1]}
    assert await receive(layer, channel) == message


async def test_a_delivered_message_holds_no_reserved_key(build: Any, channel: str) -> None:
    """Neither the address nor the layer's nonce is seen by a consumer."""
    layer = build(random_prefix_length=0)
    channel = await layer.new_channel() if channel != "tasks" else channel
    await layer.send(channel, {"type": "x"})
    assert await receive(layer, channel) == {"type": "x"}


async def test_equal_messages_are_two_messages(build: Any) -> None:
    """Uniqueness is the layer's affair, also where ``random_prefix_length`` is 0."""
    layer = build(random_prefix_length=0)
    for channel in (await layer.new_channel(), "tasks"):
        for _ in range(2):
            await layer.send(channel, {"type": "same"})
        assert await receive_many(layer, channel, 2) == [{"type": "same"}] * 2


async def test_a_received_dict_is_the_receivers_own(layer: Any) -> None:
    """Consumers may change what they got; a sibling's copy stays whole."""
    channels = [await layer.new_channel() for _ in range(2)]
    for channel in channels:
        await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "x", "list": []})
    first = await receive(layer, channels[0])
    first["list"].append("mine")
    assert await receive(layer, channels[1]) == {"type": "x", "list": []}


async def test_a_general_channel_keeps_messages_for_a_reader_that_starts_later(
    build: Any,
) -> None:
    """A worker that is started after the send gets what waits."""
    await build().send("tasks", {"type": "early"})
    assert await receive(build(), "tasks") == {"type": "early"}


@ALSO_BEHIND_SENTINEL
async def test_each_message_of_a_general_channel_goes_to_one_reader(build: Any) -> None:
    """Four competing workers share the messages: none twice, none lost."""
    workers, sender = [build() for _ in range(4)], build(capacity=1000)
    got: list[int] = []
    everything = asyncio.Event()

    async def work(layer: Any) -> None:
        while True:
            got.append((await layer.receive("tasks"))["n"])
            if len(got) == 200:
                everything.set()

    tasks = [asyncio.create_task(work(layer)) for layer in workers]
    try:
        for start in range(0, 200, 50):
            await asyncio.gather(*(sender.send("tasks", {"n": start + n}) for n in range(50)))
        await bounded(everything.wait())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(got) == list(range(200))


async def test_receive_may_be_polled_with_wait_for(layer: Any, channel: str) -> None:
    """Polls with a time-out lose nothing, also where they time out again and again."""
    got: list[int] = []

    async def poll() -> None:
        while len(got) < 40:
            try:
                got.append((await asyncio.wait_for(layer.receive(channel), 0.003))["n"])
            except asyncio.TimeoutError:
                continue

    polling = asyncio.create_task(poll())
    for message in map(numbered, range(40)):
        await layer.send(channel, message)
        await asyncio.sleep(0.002)
    await bounded(polling)
    assert sorted(got) == list(range(40))


async def test_a_cancelled_receive_hands_its_turn_to_the_next(layer: Any, channel: str) -> None:
    """Of two waiters on one channel one is cancelled: the other gets the message."""
    first = await waiting_receive(layer, channel)
    second = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    first.cancel()
    await layer.send(channel, {"type": "x"})
    assert await bounded(second) == {"type": "x"}
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_cancelling_the_woken_waiter_loses_no_message(layer: Any, channel: str) -> None:
    """However close to its message a waiter is cancelled, somebody gets the message."""
    got = []
    for message in map(numbered, range(60)):
        waiting = asyncio.create_task(layer.receive(channel))
        await layer.send(channel, message)
        for _ in range(message["n"] % 6):
            await asyncio.sleep(0)
        waiting.cancel()
        try:
            got.append(await waiting)
        except asyncio.CancelledError:
            got.append(await receive(layer, channel))
    assert sorted(got, key=lambda message: message["n"]) == [*map(numbered, range(60))]


async def test_siblings_that_leave_cost_a_stable_consumer_nothing(layer: Any) -> None:
    """Consumers of the same process come and go; the one that stays loses no message."""
    stable = await layer.new_channel()

    async def come_and_go() -> None:
        while True:
            sibling = await layer.new_channel()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(layer.receive(sibling), 0.002)

    visitors = [asyncio.create_task(come_and_go()) for _ in range(5)]
    try:
        for message in map(numbered, range(60)):
            await layer.send(stable, message)
            assert await receive(layer, stable) == message
    finally:
        for visitor in visitors:
            visitor.cancel()
        await asyncio.gather(*visitors, return_exceptions=True)


async def test_a_megabyte_passes(layer: Any, channel: str) -> None:
    """Messages of 1 MB travel on both layers with default options."""
    message = {"type": "big", "text": "x" * 2**20}
    await layer.send(channel, message)
    assert await receive(layer, channel) == message


async def test_a_megabyte_passes_to_a_group(layer: Any) -> None:
    """The limit is on the user's message, not on the addresses that travel with it."""
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("room", channel)
    message = {"type": "big", "bytes": b"\xff" * 2**20}
    await layer.group_send("room", message)
    for channel in channels:
        assert await receive(layer, channel) == message


async def test_a_message_above_the_limit_is_refused_at_the_sender(build: Any, channel: str) -> None:
    """``MessageTooLarge`` names the option, and the receivers never know."""
    layer = build(max_message_bytes=1000)
    channel = await layer.new_channel() if channel != "tasks" else channel
    await layer.group_add("room", await layer.new_channel())
    await layer.send(channel, {"text": "x" * 980})
    for send, to in ((layer.send, channel), (layer.group_send, "room")):
        with pytest.raises(layer.MessageTooLarge, match="max_message_bytes"):
            await bounded(send(to, {"text": "x" * 1000}))
    assert await receive(layer, channel) == {"text": "x" * 980}
    await layer.send(channel, HELLO)
    assert await receive(layer, channel) == HELLO


async def test_encryption_takes_nothing_from_the_limit(build: Any) -> None:
    """The size is the user's message's, before a token makes it a third larger."""
    layer = build(max_message_bytes=1000, symmetric_encryption_keys=["key"])
    channel = await layer.new_channel()
    await layer.send(channel, {"text": "x" * 980})
    assert await receive(layer, channel) == {"text": "x" * 980}


async def test_any_number_of_senders_at_once(build: Any) -> None:
    """300 sends in flight: no pool limit is met and each arrives."""
    layer = build(capacity=1000)
    channels = [await layer.new_channel() for _ in range(10)]
    await asyncio.gather(*(layer.send(channels[n % 10], {"n": n}) for n in range(300)))
    got = [
        message["n"]
        for messages in await asyncio.gather(
            *(receive_many(layer, channel, 30) for channel in channels)
        )
        for message in messages
    ]
    assert sorted(got) == list(range(300))


async def test_a_crowd_of_messages_leaves_while_the_last_of_them_are_made(
    make_layer: Callable[..., Any], kind: str, prefix: str, server: Any
) -> None:
    """The server works on the first ones meanwhile, though the loop has not turned."""
    queue = Keyspace(prefix).queue("work")

    def late(value: Any) -> str:
        wait_until(lambda: server.command("ZCARD", queue) >= 10, "reached by ten messages", 5)
        return "late"

    layer = make_layer(kind, serializer_default=late)
    await layer.send("work", {"value": "first"})
    assert await receive(layer, "work") == {"value": "first"}
    values = [*range(30), object()]
    await asyncio.gather(*(layer.send("work", {"value": value}) for value in values))
    got = await receive_many(layer, "work", len(values))
    assert [message["value"] for message in got] == [*range(30), "late"]


async def test_a_message_outlives_the_process_that_sent_it(
    layer: Any, script_arguments: tuple[str, str]
) -> None:
    """A general channel's message waits in Redis, whoever sent it and however it ended."""
    script = SCRIPT_HEAD + "asyncio.run(layer.send('tasks', {'type': 'from elsewhere'}))\n"
    await run_script(script, *script_arguments)
    assert await receive(layer, "tasks") == {"type": "from elsewhere"}
