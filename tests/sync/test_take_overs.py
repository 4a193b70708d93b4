"""Pub/Sub: a channel whose event loop has ended, and which another loop receives now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from channels_redis.pubsub import RedisPubSubChannelLayer
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


@pytest.mark.parametrize("later", range(1, 8))
def test_a_take_over_that_was_cancelled_costs_no_group(
    layer: RedisPubSubChannelLayer, channel: str, later: int
) -> None:
    """However far it was, the next ``receive()`` is in all groups."""

    async def take_over() -> set[Any]:
        cancelled = asyncio.create_task(layer.receive(channel))
        await turns(later)
        cancelled.cancel()
        await asyncio.wait({cancelled})
        return await heard_in(layer, channel, groups=3)

    assert asyncio.run(take_over()) == {"a", "b", "c"}
