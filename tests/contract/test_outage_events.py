"""``on_disconnect`` and ``on_reconnect``: who hears of an outage, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis.exceptions

from channels_redis.testing.servers import RedisServer
from tests.contract.steps import waiting_receive
from tests.helpers import receive, wait_for

EVENTS = {"on_disconnect": "redis.lost", "on_reconnect": "redis.back"}
LATER = {"type": "later"}


@pytest.fixture
def shards() -> Iterator[list[RedisServer]]:
    """Two private servers that may be stopped."""
    with ExitStack() as stack:
        yield [stack.enter_context(RedisServer()) for _ in range(2)]


def outage(servers: list[RedisServer]) -> None:
    for server in servers:
        server.stop()
    for server in servers:
        server.start()


async def send_when_back(layer: Any, channel: str) -> None:
    """Send as soon as the layer reaches the server of the channel again."""

    async def sent() -> bool:
        try:
            await layer.send(channel, LATER)
        except redis.exceptions.ConnectionError:
            return False
        return True

    await wait_for(sent)


async def test_each_consumer_hears_of_loss_and_return_once(
    kind: str, make_layer: Any, shards: list[RedisServer]
) -> None:
    """One event each per mailbox and outage, whatever the number of shards."""
    layer = make_layer(kind, hosts=[server.url for server in shards], **EVENTS)
    channels = [await layer.new_channel() for _ in range(4)]
    waiting = [await waiting_receive(layer, channel) for channel in channels]
    await asyncio.to_thread(outage, shards)
    for channel, task in zip(channels, waiting, strict=True):
        types = [(await asyncio.wait_for(task, 10))["type"]]
        while types[-1] != "redis.back":
            types.append((await receive(layer, channel))["type"])
        await send_when_back(layer, channel)
        while types[-1] != "later":
            types.append((await receive(layer, channel))["type"])
        assert types == ["redis.lost", "redis.back", "later"]


async def test_after_the_return_every_message_arrives(
    kind: str, make_layer: Any, private_server: RedisServer
) -> None:
    """``on_reconnect`` comes only once the consumer hears again."""
    layer = make_layer(kind, hosts=[private_server.url], on_reconnect="redis.back")
    sender = make_layer(kind, hosts=[private_server.url], connect_wait_s=10)
    channel = await layer.new_channel()
    waiting = await waiting_receive(layer, channel)
    await asyncio.to_thread(outage, [private_server])
    assert (await asyncio.wait_for(waiting, 10))["type"] == "redis.back"
    await sender.send(channel, LATER)
    assert await receive(layer, channel) == LATER


async def test_a_general_channel_hears_nothing_of_outages(
    kind: str, make_layer: Any, private_server: RedisServer
) -> None:
    """Workers get messages that somebody sent, and no events."""
    layer = make_layer(kind, hosts=[private_server.url], **EVENTS)
    consumer = await layer.new_channel()
    listening = await waiting_receive(layer, consumer)
    waiting = await waiting_receive(layer, "tasks")
    await asyncio.to_thread(outage, [private_server])
    assert (await asyncio.wait_for(listening, 10))["type"] == "redis.lost"
    assert (await receive(layer, consumer))["type"] == "redis.back"
    await send_when_back(layer, "tasks")
    assert await asyncio.wait_for(waiting, 10) == LATER


async def test_without_the_options_nobody_hears_of_outages(
    kind: str, make_layer: Any, private_server: RedisServer
) -> None:
    """A consumer that knows no such handler is not killed by an unknown type."""
    layer = make_layer(kind, hosts=[private_server.url])
    channel = await layer.new_channel()
    waiting = await waiting_receive(layer, channel)
    await asyncio.to_thread(outage, [private_server])

    async def answered() -> bool:
        await send_when_back(layer, channel)
        return waiting.done()

    await wait_for(answered)
    assert waiting.result() == LATER
