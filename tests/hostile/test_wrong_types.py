"""A key under the prefix of another type, written by somebody else: no outage, an error for one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
import redis.exceptions

from channels_redis.events import QueueUnreadable
from channels_redis.exceptions import ChannelsRedisError, WrongKeyType
from tests.helpers import bounded, numbered, queue_key, receive, wait_for, waiting


async def test_a_key_of_another_type_fails_only_the_receivers_of_its_queue(
    make_layer: Callable[..., Any],
    server: Any,
    prefix: str,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No outage, no events for consumers; an error that names the key, counted and logged once."""
    layer = make_layer(kind, on_disconnect="lost", on_reconnect="back")
    events: list[Any] = []
    layer.on_event(events.append)
    channel = await layer.new_channel()
    other = waiting(layer, channel)
    server.command("SET", queue_key(prefix, "victim"), "x")
    with caplog.at_level(logging.INFO, "channels_redis"):
        for _ in range(2):
            with pytest.raises(WrongKeyType, match=f"{prefix}victim.*sorted set") as raised:
                await bounded(layer.receive("victim"))
    assert isinstance(raised.value, redis.exceptions.ResponseError)
    assert isinstance(raised.value, ChannelsRedisError)
    await layer.send(channel, numbered(1))
    assert await bounded(other) == numbered(1)
    stats = layer.stats()
    assert (stats.unreadable_queues, stats.reconnects, stats.outage_total_s) == (2, 0, 0)
    assert events == [QueueUnreadable("victim")] * 2
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert vars(caplog.records[0])["event"] == "queue_unreadable"


async def test_a_queue_is_read_again_once_the_key_is_gone(
    make_layer: Callable[..., Any], server: Any, prefix: str, kind: str
) -> None:
    """Nothing has to be restarted."""
    layer = make_layer(kind)
    server.command("SET", queue_key(prefix, "victim"), "x")
    with pytest.raises(WrongKeyType):
        await bounded(layer.receive("victim"))
    server.command("DEL", queue_key(prefix, "victim"))
    await layer.send("victim", numbered(1))
    assert await receive(layer, "victim") == numbered(1)


async def test_the_queue_of_a_process_recovers_under_its_consumers(
    make_layer: Callable[..., Any], server: Any, prefix: str
) -> None:
    """Who waited gets the error; who receives again when the key is gone gets messages."""
    layer, sender = make_layer("core"), make_layer("core")
    channel = await layer.new_channel()
    server.command("SET", queue_key(prefix, channel), "x")
    with pytest.raises(WrongKeyType):
        await bounded(layer.receive(channel))
    # Nobody waits now. The reader looks again, but not all the time.
    await wait_for(lambda: layer.stats().unreadable_queues >= 2)
    assert layer.stats().unreadable_queues < 10
    server.command("DEL", queue_key(prefix, channel))
    await sender.send(channel, numbered(1))
    assert await receive(layer, channel) == numbered(1)


@pytest.mark.parametrize("type", ["string", "list", "hash"])
async def test_senders_get_a_documented_error(
    make_layer: Callable[..., Any], server: Any, prefix: str, kind: str, type: str
) -> None:
    """From every method that touches the key."""
    layer = make_layer(kind)
    write: Any = {
        "string": lambda key: server.command("SET", key, "x"),
        "list": lambda key: server.command("LPUSH", key, "x"),
        "hash": lambda key: server.command("HSET", key, "x", "y"),
    }[type]
    write(queue_key(prefix, "victim"))
    calls = [layer.send("victim", numbered(1))]
    if kind == "core":
        write(f"{prefix}:group:room")
        server.command("ZADD", f"{prefix}:group:mixed", 2e9, "victim", 2e9, "fine")
        calls += [
            layer.group_add("room", "fine"),
            layer.group_discard("room", "fine"),
            layer.group_send("room", numbered(2)),
            layer.group_channels("room"),
            layer.group_size("room"),
            layer.group_send("mixed", numbered(3)),
        ]
    for call in calls:
        with pytest.raises(WrongKeyType, match=prefix):
            await bounded(call)
    if kind == "core":
        # The other members have it all the same.
        assert await receive(layer, "fine") == numbered(3)
    with pytest.raises(WrongKeyType):
        await asyncio.to_thread(layer.sync.send, "victim", numbered(1))
