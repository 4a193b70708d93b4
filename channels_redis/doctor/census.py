"""Counts what is stored on the servers: queues by depth, groups by size.  Only reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from .._config.pools import close_pool
from .._format.keyspace import Keyspace, glob_escape
from .._layer.base import BaseRedisLayer
from .._runtime.loops import running_loop
from .._runtime.scope import Scope
from .._transport.wire import Wire
from .primaries import pools_of

_SCAN_COUNT = 1000


@dataclass(frozen=True, slots=True, order=True)
class Count:
    """One queue with its messages, or one group with its members.

    For a group of pubsub, which is not a key, ``is_topic`` is true, and the number is that of the
    event loops that have members in it.
    """

    number: int
    name: str
    is_group: bool
    is_topic: bool = False


async def count_shard(layer: BaseRedisLayer, index: int, *, is_pubsub: bool) -> list[Count]:
    """Return the queues and groups of a layer on one shard, the largest first.

    Raises ``redis.exceptions.RedisError`` or ``OSError`` if the server can't be queried.
    """
    counts = []
    for pool in await pools_of(layer, index):
        counts += await _count(layer, pool, is_pubsub=is_pubsub)
    return sorted(counts, reverse=True)


async def _count(layer: BaseRedisLayer, pool: Any, *, is_pubsub: bool) -> list[Count]:
    try:
        wire = await Wire.open(pool, Scope(running_loop()), layer.connect_wait_s)
        try:
            counts = [one async for one in _keys(wire, layer._keys)]
            if is_pubsub:
                counts += await _topics(wire, layer._keys)
        finally:
            await wire.close()
    finally:
        await close_pool(pool)
    return counts


async def _keys(wire: Wire, keyspace: Keyspace) -> AsyncIterator[Count]:
    async for key in _scan(wire, keyspace.owned_keys_pattern()):
        named = keyspace.name_of(key.decode("utf-8", "replace"))
        if named is None:
            continue
        # Unlike ZCARD, ZCOUNT is allowed for every user of a layer.  It fails for other types.
        number = await wire.ask("ZCOUNT", key, "-inf", "+inf")
        if isinstance(number, int):
            yield Count(number, named[1], named[0] == "group")


async def _scan(wire: Wire, pattern: str) -> AsyncIterator[bytes]:
    cursor, seen = b"0", set()
    while True:
        reply = await wire.ask("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
        try:
            cursor, found = _or_raise(reply)
        except (TypeError, ValueError):
            raise RedisError("the reply to SCAN is invalid") from None
        for key in found:
            if key not in seen:
                seen.add(key)
                yield key
        if cursor == b"0":
            return


async def _topics(wire: Wire, keyspace: Keyspace) -> list[Count]:
    start = keyspace.group_topic("")
    pattern = glob_escape(start) + "*"
    found = _or_raise(await wire.ask("PUBSUB", "CHANNELS", pattern))
    counted = _or_raise(await wire.ask("PUBSUB", "NUMSUB", *found)) if found else []
    # Servers without sharded Pub/Sub refuse this.
    sharded = await wire.ask("PUBSUB", "SHARDCHANNELS", pattern)
    if isinstance(sharded, list) and sharded:
        counted += _or_raise(await wire.ask("PUBSUB", "SHARDNUMSUB", *sharded))
    return [
        Count(int(number), topic.decode().removeprefix(start), True, True)
        for topic, number in zip(counted[::2], counted[1::2], strict=True)
    ]


def _or_raise(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply if isinstance(reply, RedisError) else RedisError(str(reply))
    return reply
