"""Pub/Sub: a channel whose event loop has ended, and which another loop receives now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from channels_redis._transport.subscriptions import Topic
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.testing.servers import RedisServer
from tests.helpers import receive_until_marker, wait_for

SAY = {"type": "test.say"}


@pytest.fixture
def layer(redis_url: str, prefix: str) -> Iterator[RedisPubSubChannelLayer]:
    """A layer for all loops of the test."""
    layer = RedisPubSubChannelLayer(hosts=[redis_url], prefix=prefix)
    yield layer
    layer.sync.close()


@pytest.fixture
def channel(layer: RedisPubSubChannelLayer) -> str:
    """A channel that was in three groups on a loop that has ended."""

    async def join() -> str:
        channel = await layer.new_channel()
        for group in "abc":
            await layer.group_add(group, channel)
        return channel

    return asyncio.run(join())


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def heard_in(layer: RedisPubSubChannelLayer, channel: str, groups: int) -> set[Any]:
    """Receive, and return in which groups that was heard; there are to be so many."""
    waiting = asyncio.create_task(layer.receive(channel))
    await wait_for(lambda: len(layer.groups) == groups)
    while not waiting.done():
        await layer.send(channel, SAY)
        await asyncio.wait({waiting}, timeout=0.05)
    for group in "abc":
        await layer.group_send(group, {"type": "test.group", "group": group})
    heard = await receive_until_marker(layer, channel)
    return {message["group"] for message in heard if "group" in message}


@pytest.mark.parametrize("later", range(4))
def test_a_group_that_is_left_during_a_take_over_is_left(
    layer: RedisPubSubChannelLayer, channel: str, later: int
) -> None:
    """It was on its way to be joined again; the others are joined."""

    async def take_over() -> set[Any]:
        first = asyncio.create_task(layer.receive(channel))
        while not layer.channels[channel].fed:
            await asyncio.sleep(0)
        await turns(later)
        await layer.group_discard("b", channel)
        await layer.send(channel, SAY)
        await asyncio.wait({first}, timeout=0.2)
        first.cancel()
        return await heard_in(layer, channel, groups=2)

    assert asyncio.run(take_over()) == {"a", "c"}


@pytest.mark.parametrize("confirmations", range(5))
def test_a_take_over_that_was_cancelled_costs_no_group(
    layer: RedisPubSubChannelLayer,
    channel: str,
    confirmations: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many of its subscriptions were confirmed, the next ``receive()`` is in all groups."""

    async def take_over() -> set[Any]:
        cancelled = asyncio.create_task(layer.receive(channel))
        if confirmations:
            arrive, left = Topic.arrive, iter(range(confirmations - 1, -1, -1))

            def arrive_and_cancel(topic: Topic) -> None:
                arrive(topic)
                if next(left, None) == 0:
                    cancelled.cancel()

            monkeypatch.setattr(Topic, "arrive", arrive_and_cancel)
        else:
            await turns(3)
            cancelled.cancel()
        await asyncio.wait({cancelled})
        monkeypatch.undo()
        return await heard_in(layer, channel, groups=3)

    assert asyncio.run(take_over()) == {"a", "b", "c"}


def test_messages_received_on_another_loop_are_not_received_again(
    redis_url: str, private_server: RedisServer, prefix: str
) -> None:
    """Neither by the channel's server nor by the group's, though it lies unread in a socket of the
    loop that stood still.
    """
    layer = RedisPubSubChannelLayer(
        hosts=[redis_url, private_server.url], prefix=prefix, capacity=1000
    )
    groups = (f"group{number}" for number in range(100))
    group = next(one for one in groups if layer.consistent_hash(layer._keys.group_topic(one)))
    topic = layer._keys.group_topic(group)
    large = "x" * 60_000
    total = 40

    async def join() -> str:
        while layer.consistent_hash(channel := await layer.new_channel()):
            pass
        await layer.group_add(group, channel)
        return channel

    async def take_over(channel: str) -> list[int]:
        waiting = asyncio.create_task(layer.receive(channel))
        await wait_for(lambda: topic in layer._get_layer().groups)
        for number in range(total):
            await layer.group_send(group, {"type": "test", "number": number, "text": large})
        heard = [(await waiting)["number"]]
        while len(heard) < total:
            heard.append((await layer.receive(channel))["number"])
        return heard

    async def come_back(channel: str) -> list[Any]:
        waiting = asyncio.create_task(layer.receive(channel))
        await wait_for(lambda: topic in layer._get_layer().groups)
        await layer.group_send(group, {"type": "test", "number": total})
        first = await waiting
        return [first["number"]]

    standing = asyncio.new_event_loop()
    channel = standing.run_until_complete(join())
    assert asyncio.run(take_over(channel)) == list(range(total))
    assert standing.run_until_complete(come_back(channel)) == [total]
    standing.run_until_complete(standing.shutdown_asyncgens())
    standing.close()
