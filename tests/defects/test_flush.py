"""``flush()`` and ``close_pools()``: what they end, and what they must leave alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import NoPermissionError

from channels_redis.exceptions import ConfigurationError
from channels_redis.testing.servers import RedisServer
from tests.helpers import is_older, numbered, receive, receive_until_marker, waiting


@pytest.mark.parametrize("tail", ["", "*", "[a-z]", "?", "\\"])
async def test_flush_touches_no_foreign_keys(
    make_layer: Callable[..., Any], server: Any, prefix: str, tail: str
) -> None:
    """Keys that only begin alike belong to somebody else, and the prefix is no pattern (307)."""
    mine = prefix + tail
    foreign = [f"{mine}2:cache:page", f"{prefix}2:work", f"{mine}plain", f"{mine}:group:text"]
    for key in foreign:
        server.command("SET", key, "precious", "EX", 60)
    other = f"{prefix}2:group:room"
    server.command("ZADD", other, 1, "member")
    server.command("EXPIRE", other, 60)
    layer = make_layer("core", prefix=mine)
    await layer.send("work", numbered(1))
    await layer.flush()
    assert [server.command("EXISTS", key) for key in [*foreign, other]] == [1] * 5
    assert await receive_until_marker(layer, "work") == []


async def test_flush_removes_all_that_the_layer_and_its_predecessors_made(
    make_layer: Callable[..., Any], server: Any, prefix: str
) -> None:
    """Queues, groups and the lists of messages in flight of 4.3.0 go."""
    layer = make_layer("core")
    channel = await layer.new_channel()
    await layer.send(channel, numbered(1))
    await layer.send("work", numbered(1))
    await layer.group_add("room", channel)
    server.command("ZADD", f"{prefix}work$inflight", 1, "old")
    await layer.flush()
    assert server.command("KEYS", f"{prefix}*") == []


async def test_flush_needs_no_keys_command(make_layer: Callable[..., Any]) -> None:
    """A server that has KEYS renamed away is flushed all the same, in steps that hold up nobody."""
    with RedisServer(config={"rename-command": 'KEYS ""'}) as server:
        layer = make_layer("core", hosts=[server.url])
        for number in range(50):
            await layer.send(f"work{number}", numbered(number))
        await layer.flush()
        assert server.command("DBSIZE") == 0
        await layer.close()


async def test_close_pools_harms_no_running_receiver(
    make_layer: Callable[..., Any], redis_url: str
) -> None:
    """People call it after every ``send``: who waits, in this loop or another, goes on."""
    layer = make_layer("core")
    channel = await layer.new_channel()
    wait = waiting(layer, channel)
    await layer.send("work", numbered(1))

    async def send_and_close(number: int) -> None:
        await layer.send("work", numbered(number))
        await layer.close_pools()

    await send_and_close(2)
    thread = threading.Thread(target=lambda: asyncio.run(send_and_close(3)))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert not wait.done()
    await layer.send(channel, numbered(4))
    assert await asyncio.wait_for(wait, 10) == numbered(4)
    assert sorted([(await receive(layer, "work"))["n"] for _ in range(3)]) == [1, 2, 3]


FORBIDDEN = {
    "to see the keys": ["-scan", "-keys"],
    "to look at the keys": ["resetkeys", "~other*"],
    "to delete the keys": ["-unlink", "-del"],
}


@pytest.mark.parametrize("missing", FORBIDDEN)
async def test_flush_says_when_it_may_not(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str, missing: str
) -> None:
    """Without the right to see or delete the keys ``flush()`` raises, and reports no success."""
    if is_older(private_server, (6,)):
        pytest.skip("users came with Redis 6.0")
    private_server.command("ZADD", f"{prefix}work", 1, "member")
    rules = ["on", ">word", "~*", "&*", "+@all", *FORBIDDEN[missing]]
    private_server.command("ACL", "SETUSER", "app", *rules)
    layer = make_layer(
        "core", hosts=[f"redis://app:word@{private_server.host}:{private_server.port}"]
    )
    with pytest.raises((NoPermissionError, ConfigurationError)):
        await layer.flush()
    assert private_server.command("EXISTS", f"{prefix}work") == 1


async def test_flush_finds_keys_with_keys_where_scan_is_forbidden(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """Also as the first thing that a layer does."""
    if is_older(private_server, (6,)):
        pytest.skip("users came with Redis 6.0")
    private_server.command("ZADD", f"{prefix}work", 1, "member")
    private_server.command(
        "ACL", "SETUSER", "app", "on", ">word", "~*", "+@all", "-scan", "-unlink"
    )
    layer = make_layer(
        "core", hosts=[f"redis://app:word@{private_server.host}:{private_server.port}"]
    )
    await layer.flush()
    assert private_server.command("EXISTS", f"{prefix}work") == 0
