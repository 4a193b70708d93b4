"""A subscriber that hears nothing for a while proves that it still would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer
from tests.conftest import find_server_or_skip
from tests.faults.ledger import BACK, EVENTS, LOST
from tests.helpers import calls_by_command, numbered, receive, subscribers, wait_for, waiting
from tests.proxy import Link, Proxy

#: Silence is noticed after half of the command time-out.
QUICK = {"command_timeout_s": 1}
#: Where nothing must go wrong, a busy machine has to keep up with it.
STEADY = {"command_timeout_s": 1.6}
SILENCE_S = 0.8


@pytest.fixture
def two_servers() -> Iterator[list[RedisServer]]:
    """Two servers that know nothing of each other."""
    find_server_or_skip()
    with ExitStack() as stack:
        yield [stack.enter_context(RedisServer()) for _ in range(2)]


def link_that_sent(proxy: Proxy, text: bytes) -> Link:
    return next(link for link in proxy.links if link.has_sent(text))


async def heard_itself(layer: Any) -> str:
    """Return a channel on which a layer has received a message of its own."""
    channel: str = await layer.new_channel()
    await layer.send(channel, numbered(0))
    assert await receive(layer, channel) == numbered(0)
    return channel


async def test_a_subscriber_at_the_wrong_server_is_replaced(
    make_layer: Callable[..., Any], two_servers: list[RedisServer]
) -> None:
    """Left behind on a server where nobody publishes any more, and which answers every command,
    it is found out and subscribes where the others publish.
    """
    old, new = two_servers
    with Proxy(old.host, old.port) as proxy:
        layer = make_layer("pubsub", hosts=[proxy.url], **QUICK, **EVENTS)
        channel = await heard_itself(layer)
        proxy.redirect(new.host, new.port)
        link_that_sent(proxy, b"PUBLISH").cut()
        assert (await receive(layer, channel))["type"] == LOST
        assert (await receive(layer, channel))["type"] == BACK
        assert subscribers(new, channel) == 1
        await layer.send(channel, numbered(1))
        assert await receive(layer, channel) == numbered(1)


async def test_a_publisher_at_the_wrong_server_is_replaced(
    make_layer: Callable[..., Any], two_servers: list[RedisServer]
) -> None:
    """Where the multiplexer was left behind, it follows the subscriber."""
    old, new = two_servers
    with Proxy(old.host, old.port) as proxy:
        layer = make_layer("pubsub", hosts=[proxy.url], **QUICK, **EVENTS)
        channel = await heard_itself(layer)
        proxy.redirect(new.host, new.port)
        link_that_sent(proxy, b"SUBSCRIBE").cut()
        for expected in (LOST, BACK, LOST, BACK):
            assert (await receive(layer, channel))["type"] == expected
        await layer.send(channel, numbered(1))
        assert await receive(layer, channel) == numbered(1)


async def test_an_idle_subscriber_asks_little(
    make_layer: Callable[..., Any], private_server: RedisServer
) -> None:
    """In each silence one SUBSCRIBE and one PUBLISH, whatever the number of channels."""
    layer = make_layer("pubsub", hosts=[private_server.url], **STEADY, **EVENTS)
    for _ in range(20):
        await layer.new_channel()
    private_server.command("CONFIG", "RESETSTAT")
    await wait_for(lambda: calls_by_command(private_server).get("publish", 0) >= 2)
    calls = calls_by_command(private_server)
    assert 2 <= calls["subscribe"] <= 3
    assert 2 <= calls["publish"] <= 3
    assert set(calls) <= {"subscribe", "publish", "config|resetstat", "info", "client|setinfo"}


async def test_a_busy_subscriber_asks_nothing(
    make_layer: Callable[..., Any], private_server: RedisServer
) -> None:
    """Who hears messages needs no proof."""
    layer = make_layer("pubsub", hosts=[private_server.url], **STEADY)
    channel = await layer.new_channel()
    private_server.command("CONFIG", "RESETSTAT")
    loop = asyncio.get_running_loop()
    heard_at = loop.time()
    end, longest_s = heard_at + 2.5 * SILENCE_S, 0.0
    while loop.time() < end:
        await layer.send(channel, numbered(1))
        assert await receive(layer, channel) == numbered(1)
        longest_s, heard_at = max(longest_s, loop.time() - heard_at), loop.time()
        await asyncio.sleep(SILENCE_S / 10)
    was_silent = longest_s > SILENCE_S / 2  # The machine's doing.
    assert was_silent or "subscribe" not in calls_by_command(private_server)


async def test_where_publishing_is_forbidden_nothing_is_concluded(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """A process that may only listen is not cut off every few seconds."""
    rules = ["reset", "on", ">secret", f"&{prefix}*", "+subscribe", "+unsubscribe"]
    private_server.command("ACL", "SETUSER", "listener", *rules)
    url = f"redis://listener:secret@{private_server.host}:{private_server.port}"
    layer = make_layer("pubsub", hosts=[url], **STEADY, **EVENTS)
    sender = make_layer("pubsub", hosts=[private_server.url])
    channel = await layer.new_channel()
    wait = waiting(layer, channel)
    private_server.command("CONFIG", "RESETSTAT")
    await wait_for(lambda: calls_by_command(private_server).get("subscribe", 0) >= 3)
    await sender.send(channel, numbered(1))
    assert await asyncio.wait_for(wait, 10) == numbered(1)


async def test_a_half_open_connection_is_found_within_the_command_timeout(
    make_layer: Callable[..., Any], server: Any, proxy: Proxy
) -> None:
    """A subscriber whose connection carries nothing any more, and does not break, is replaced."""
    layer = make_layer("pubsub", hosts=[proxy.url], command_timeout_s=1, **EVENTS)
    channel = await layer.new_channel()
    wait = waiting(layer, channel)
    loop = asyncio.get_running_loop()
    link_that_sent(proxy, b"SUBSCRIBE").stall()
    stalled_at = loop.time()
    assert (await asyncio.wait_for(wait, 10))["type"] == LOST
    assert loop.time() - stalled_at < 5
    assert (await receive(layer, channel))["type"] == BACK
    await layer.send(channel, numbered(1))
    assert await receive(layer, channel) == numbered(1)
