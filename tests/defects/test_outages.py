"""Connections break and come back: nobody dies, everybody is told, the log stays readable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
import redis.exceptions

from channels_redis.testing.servers import RedisServer
from tests.helpers import numbered, receive, subscribers, wait_for, waiting
from tests.proxy import Proxy

HOOKS = {"on_disconnect": "redis.disconnect", "on_reconnect": "redis.reconnect"}


async def test_every_consumer_survives_a_while_without_redis(
    make_layer: Callable[..., Any], kind: str, server: Any, proxy: Proxy
) -> None:
    """No ``receive()`` raises when the server is away; all hear again (393, 164, 80)."""
    layer, sender = make_layer(kind, hosts=[proxy.url]), make_layer(kind)
    channels = await new_channels(layer, 50)
    await asyncio.gather(*(hear_one(layer, sender, channel) for channel in channels))
    waits = [waiting(layer, channel) for channel in channels]
    proxy.refuse()
    await asyncio.sleep(0.3)
    proxy.resume()
    assert not any(wait.done() for wait in waits)
    await hear_again(kind, server, sender, dict(zip(channels, waits, strict=True)))


async def hear_again(
    kind: str, server: Any, sender: Any, waits: dict[str, asyncio.Task[dict[str, Any]]]
) -> None:
    """Every waiting consumer receives what is sent now that the network is back."""
    if kind == "pubsub":
        await wait_for(lambda: all(subscribers(server, channel) for channel in waits))
    for number, (channel, wait) in enumerate(waits.items()):
        await sender.send(channel, numbered(number))
        assert await asyncio.wait_for(wait, 10) == numbered(number)


async def hear_one(layer: Any, sender: Any, channel: str) -> None:
    await sender.send(channel, {"type": "test.hello"})
    assert await receive(layer, channel) == {"type": "test.hello"}


async def test_an_idle_receiver_outlives_the_socket_timeout(
    make_layer: Callable[..., Any], kind: str, server: Any
) -> None:
    """``socket_timeout`` is for connecting and commands; who waits may wait for ever (422)."""
    host = {"host": server.host, "port": server.port, "socket_timeout": 0.2}
    layer, sender = make_layer(kind, hosts=[host]), make_layer(kind)
    channel = await layer.new_channel()
    waits = [waiting(layer, channel), waiting(layer, "work")]
    await asyncio.sleep(0.7)
    assert not any(wait.done() for wait in waits)
    await sender.send(channel, numbered(1))
    await sender.send("work", numbered(2))
    assert await asyncio.wait_for(asyncio.gather(*waits), 10) == [numbered(1), numbered(2)]


async def test_a_consumer_is_notified_of_an_outage_and_of_its_end(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy
) -> None:
    """``on_disconnect`` and ``on_reconnect`` arrive once each per mailbox and outage (406, 256)."""
    layer = make_layer(kind, hosts=[proxy.url], **HOOKS)
    channels = await new_channels(layer, 3)
    waits = [waiting(layer, channel) for channel in channels]
    for channel, wait in zip(channels, waits, strict=True):
        await layer.send(channel, numbered(0))
        await wait
    waits = [waiting(layer, channel) for channel in channels]
    proxy.cut()
    for channel, wait in zip(channels, waits, strict=True):
        assert (await asyncio.wait_for(wait, 10))["type"] == "redis.disconnect"
        assert (await receive(layer, channel))["type"] == "redis.reconnect"
        await layer.send(channel, numbered(1))
        assert await receive(layer, channel) == numbered(1)


async def test_on_reconnect_comes_only_when_messages_come_again(
    make_layer: Callable[..., Any], kind: str, proxy: Proxy
) -> None:
    """What is sent once ``on_reconnect`` was received is not lost, however slow the network."""
    layer, sender = make_layer(kind, hosts=[proxy.url], **HOOKS), make_layer(kind)
    channels = await new_channels(layer, 10)
    for channel in channels:
        await layer.group_add("room", channel)
        await hear_one(layer, sender, channel)
    waits = [waiting(layer, channel) for channel in channels]
    proxy.delay_s = 0.03
    proxy.cut()
    assert (await asyncio.wait_for(waits[0], 10))["type"] == "redis.disconnect"
    assert (await receive(layer, channels[0]))["type"] == "redis.reconnect"
    await sender.group_send("room", numbered(1))
    for channel in channels:
        await sender.send(channel, numbered(2))
    assert [await receive(layer, channels[0]) for _ in range(2)] == [numbered(1), numbered(2)]
    for channel, wait in zip(channels[1:], waits[1:], strict=True):
        assert (await asyncio.wait_for(wait, 10))["type"] == "redis.disconnect"
        assert (await receive(layer, channel))["type"] == "redis.reconnect"
        assert [await receive(layer, channel) for _ in range(2)] == [numbered(1), numbered(2)]


async def test_an_outage_is_one_warning_and_its_end_one_info(
    make_layer: Callable[..., Any],
    kind: str,
    server: Any,
    proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However many consumers and retries there are: one line each, and no traceback."""
    layer, sender = make_layer(kind, hosts=[proxy.url]), make_layer(kind)
    waits = {channel: waiting(layer, channel) for channel in await new_channels(layer, 10)}
    await hear_one(layer, layer, await layer.new_channel())

    def records() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name.startswith("channels_redis")]

    with caplog.at_level(logging.INFO, "channels_redis"):
        proxy.refuse()
        await asyncio.sleep(0.3)
        proxy.resume()
        await hear_again(kind, server, sender, waits)
        await layer.send("work", numbered(1))
        await wait_for(lambda: records()[-1].levelno == logging.INFO)
    assert [record.levelname for record in records()] == ["WARNING", "INFO"]
    assert not any(record.exc_info for record in records())


async def new_channels(layer: Any, count: int) -> list[str]:
    return [await layer.new_channel() for _ in range(count)]


async def test_a_short_outage_leaves_no_unretrieved_exception(
    make_layer: Callable[..., Any],
    kind: str,
    server: Any,
    proxy: Proxy,
    loop_errors: list[dict[str, Any]],
) -> None:
    """No "Task exception was never retrieved" after connections broke under load (78)."""
    layer, sender = make_layer(kind, hosts=[proxy.url]), make_layer(kind)
    targets = await new_channels(sender, 5)
    waits = {channel: waiting(layer, channel) for channel in await new_channels(layer, 5)}
    for _ in range(3):
        sends = [layer.send(target, numbered(1)) for target in targets for _ in range(10)]
        sending = asyncio.gather(*sends, return_exceptions=True)
        await asyncio.sleep(0)
        proxy.cut()
        await sending
    await hear_again(kind, server, sender, waits)


async def test_a_demoted_server_is_an_outage_and_no_error_of_the_consumer(
    make_layer: Callable[..., Any], kind: str, private_server: RedisServer
) -> None:
    """UNBLOCKED and READONLY count as a lost connection: receivers go on afterwards (80)."""
    layer = make_layer(kind, hosts=[private_server.url])
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    waits = [waiting(layer, channel), waiting(layer, "work")]
    await hear_one(layer, layer, await layer.new_channel())
    private_server.command("REPLICAOF", "127.0.0.1", 1)
    await asyncio.sleep(0.3)
    assert not any(wait.done() for wait in waits)
    private_server.command("REPLICAOF", "NO", "ONE")
    if kind == "pubsub":
        await wait_for(lambda: subscribers(private_server, channel))
    await wait_for_writes(layer)
    await layer.send(channel, numbered(1))
    await layer.send("work", numbered(2))
    assert await asyncio.wait_for(asyncio.gather(*waits), 10) == [numbered(1), numbered(2)]


async def wait_for_writes(layer: Any) -> None:
    """Until the layer has found out that the server takes writes again."""

    async def writes() -> bool:
        try:
            await layer.send("other", numbered(0))
        except redis.exceptions.ConnectionError:
            return False
        return True

    await wait_for(writes)
