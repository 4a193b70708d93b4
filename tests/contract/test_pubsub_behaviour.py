"""What only pubsub promises: its inner objects, and general channels that wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import _close_redis, decode_hosts
from tests.contract.steps import waiting_receive
from tests.helpers import bounded, receive, receive_many, wait_for

SAY = {"type": "x"}


@pytest.fixture
def kind() -> str:
    """This module is about pubsub alone."""
    return "pubsub"


async def test_layers_has_one_entry_for_each_loop_in_use(build: Any) -> None:
    """``_layers`` maps the running loop to its state."""
    layer = build()
    assert len(layer._layers) == 0
    await layer.new_channel()
    assert list(layer._layers) == [asyncio.get_running_loop()]


async def test_get_layer_leads_back_to_the_layer(layer: Any) -> None:
    """``_get_layer().channel_layer`` is the object from the settings."""
    await layer.new_channel()
    assert layer._get_layer().channel_layer is layer
    assert layer._layers[asyncio.get_running_loop()].channel_layer is layer


async def test_sync_calls_leave_no_entry_in_layers(build: Any) -> None:
    """``async_to_sync`` makes a loop for each call; each is gone when its call ended."""
    layer = build()

    def sync_code() -> None:
        for _ in range(5):
            async_to_sync(layer.group_send)("room", SAY)
            async_to_sync(layer.send)("tasks", SAY)
            assert len(layer._layers) == 0

    await bounded(asyncio.to_thread(sync_code))
    assert len(layer._layers) == 0


async def test_attributes_can_be_read_outside_a_loop(build: Any) -> None:
    """``channels`` and ``groups`` are empty there, and no error."""
    layer = RedisPubSubChannelLayer()
    assert (dict(layer.channels), dict(layer.groups)) == ({}, {})


async def test_channels_and_groups_show_what_is_joined(layer: Any, prefix: str) -> None:
    """Channel names, and the members of each group under the name it is published as."""
    one, other = await layer.new_channel(), await layer.new_channel()
    for channel in (one, other):
        await layer.group_add("room", channel)
    assert set(layer.channels) >= {one, other}
    assert set(layer.groups[f"{prefix}__group__room"]) == {one, other}
    await layer.group_discard("room", one)
    assert set(layer.groups[f"{prefix}__group__room"]) == {other}
    await layer.group_discard("room", other)
    assert not layer.groups.get(f"{prefix}__group__room")


async def test_each_shard_shows_its_host(layer: Any, hosts: list[Any]) -> None:
    """``_shards[i].host`` is the decoded entry of ``hosts``."""
    await layer.new_channel()
    assert [shard.host for shard in layer._get_layer()._shards] == decode_hosts(hosts)


async def test_the_layer_shows_the_shards_of_the_running_loop(layer: Any) -> None:
    """``layer._shards`` is the short way that test suites take."""
    await layer.new_channel()
    assert [shard.host for shard in layer._shards] == [
        shard.host for shard in layer._get_layer()._shards
    ]


async def test_closing_a_shards_client_leads_to_resubscription(layer: Any) -> None:
    """What test suites do to simulate an outage: ``_close_redis(shard._redis)``."""
    channels = [await layer.new_channel() for _ in range(8)]
    for channel in channels:
        await layer.group_add("room", channel)
    waiting = [await waiting_receive(layer, channel) for channel in channels]
    for shard in layer._get_layer()._shards:
        if shard._redis is not None:
            await _close_redis(shard._redis)

    async def all_answered() -> bool:
        for channel, task in zip(channels, waiting, strict=True):
            if not task.done():
                await layer.send(channel, SAY)
        return all(task.done() for task in waiting)

    await wait_for(all_answered)
    assert [task.result() for task in waiting] == [SAY] * 8
    witness = await layer.new_channel()
    await layer.group_add("room", witness)
    await layer.group_send("room", {"type": "group"})
    assert await receive(layer, witness) == {"type": "group"}
    for channel in channels:
        while (message := await receive(layer, channel)) != {"type": "group"}:
            assert message == SAY


@pytest.mark.usefixtures("not_in_a_cluster")
async def test_a_shard_that_was_used_has_a_client(build: Any) -> None:
    """``_redis`` is set once a shard is in use."""
    layer = build()
    for _ in range(30):
        await layer.new_channel()
    assert all(shard._redis is not None for shard in layer._get_layer()._shards)


async def test_a_string_may_be_sent_to_a_general_channel(layer: Any) -> None:
    """This layer has always let it pass."""
    await layer.send("tasks", "just text")
    text: Any = await receive(layer, "tasks")
    assert text == "just text"


async def test_a_general_channel_keeps_the_order_of_its_messages(
    make_layer: Any,
) -> None:
    """One server, one reader: first in, first out."""
    layer = make_layer("pubsub")
    sent = [{"type": "x", "number": number} for number in range(30)]
    for message in sent:
        await layer.send("tasks", message)
    assert await receive_many(layer, "tasks", 30) == sent


async def test_a_consumer_may_receive_on_another_loop(build: Any) -> None:
    """``new_channel`` here, ``receive`` and ``group_add`` on another loop of the process."""
    layer = build()
    channel = await layer.new_channel()

    async def elsewhere() -> Any:
        await layer.group_add("room", channel)
        return await receive(layer, channel)

    answer = asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere()))
    await layer.send(channel, SAY)
    assert await bounded(answer) == SAY
    await layer.group_send("room", {"type": "group"})
    assert await receive(layer, channel) == {"type": "group"}


async def test_a_slow_handler_keeps_its_channel_and_groups(layer: Any) -> None:
    """While nobody waits in ``receive()`` messages collect, and all are there afterwards."""
    channel, witness = await layer.new_channel(), await layer.new_channel()
    for member in (channel, witness):
        await layer.group_add("room", member)
    sent = [{"type": "x", "number": number} for number in range(20)]
    for message in sent:
        await layer.group_send("room", message)
        assert await receive(layer, witness) == message
    assert await receive_many(layer, channel, 20) == sent
