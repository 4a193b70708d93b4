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


async def types_until(
    layer: Any, channel: str, last: str, first: asyncio.Task[Any] | None = None
) -> list[str]:
    """The types of the messages of a channel up to ``last``; ``first`` waits already."""
    types = [] if first is None else [(await asyncio.wait_for(first, 10))["type"]]
    while last not in types:
        types.append((await receive(layer, channel))["type"])
    return types


async def test_each_consumer_is_notified_once_of_the_loss_and_the_return(
    kind: str, shards: list[RedisServer], make_layer: Any
) -> None:
    """One event each per mailbox and outage, whatever the number of shards."""
    layer = make_layer(kind, hosts=[server.url for server in shards], **EVENTS)
    channels = [await layer.new_channel() for _ in range(4)]
    waiting = [await waiting_receive(layer, channel) for channel in channels]
    await asyncio.to_thread(outage, shards)
    for channel, task in zip(channels, waiting, strict=True):
        heard = await types_until(layer, channel, "redis.back", task)
        await send_when_back(layer, channel)
        heard += await types_until(layer, channel, "later")
        assert heard == ["redis.lost", "redis.back", "later"]


async def test_after_the_return_every_message_arrives(
    kind: str, private_server: RedisServer, make_layer: Any
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


async def test_a_general_channel_gets_no_messages_about_outages(
    kind: str, private_server: RedisServer, make_layer: Any
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


async def test_without_the_options_consumers_are_not_notified_of_outages(
    kind: str, private_server: RedisServer, make_layer: Any
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


async def test_consumers_on_two_loops_are_notified_once_of_an_outage(
    kind: str, private_server: RedisServer, make_layer: Any
) -> None:
    """Each loop has connections of its own, and all of them are lost: still one event each."""
    layer = make_layer(kind, hosts=[private_server.url], **EVENTS)
    here = asyncio.get_running_loop()
    ready: asyncio.Future[str] = here.create_future()

    async def listen_elsewhere() -> list[str]:
        channel = await layer.new_channel()
        first = await waiting_receive(layer, channel)
        here.call_soon_threadsafe(ready.set_result, channel)
        return await types_until(layer, channel, "later", first)

    elsewhere = asyncio.create_task(asyncio.to_thread(asyncio.run, listen_elsewhere()))
    other = await asyncio.wait_for(ready, 60)
    channel = await layer.new_channel()
    first = await waiting_receive(layer, channel)
    await asyncio.to_thread(outage, [private_server])
    heard = await types_until(layer, channel, "redis.back", first)
    for name in (other, channel):
        await send_when_back(layer, name)
    heard += await types_until(layer, channel, "later")
    assert heard == ["redis.lost", "redis.back", "later"]
    assert await asyncio.wait_for(elsewhere, 60) == ["redis.lost", "redis.back", "later"]
