"""Counts what is stored on the servers: queues by depth, groups by size, and lists processes with
their leases.  Only reads.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
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
_STATES = ("alive", "overdue", "dead")


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


@dataclass(frozen=True, slots=True)
class Lease:
    """A process that others know by its lease."""

    process: str
    #: ``"alive"``, ``"overdue"`` if its lease has run out, or ``"dead"`` if it was marked as such.
    state: str
    #: How long the lease lasts, is overdue, or the process has been marked.
    seconds: float


@dataclass(slots=True)
class Census:
    """What is stored on a server, or on all primaries of a cluster."""

    #: The largest first.
    counts: list[Count] = field(default_factory=list)
    #: The living first, and of the dead the last one that was found; in a cluster, one for each
    #: primary.
    leases: list[Lease] = field(default_factory=list)


async def count_shard(layer: BaseRedisLayer, index: int, *, is_pubsub: bool) -> Census:
    """Return the queues, groups and processes of a layer on one shard.

    Raises ``redis.exceptions.RedisError`` or ``OSError`` if the server can't be queried.
    """
    census = Census()
    for pool in await pools_of(layer, index):
        await _count(census, layer, pool, is_pubsub=is_pubsub)
    census.counts.sort(reverse=True)
    census.leases.sort(key=lambda lease: (_STATES.index(lease.state), lease.seconds))
    return census


async def _count(census: Census, layer: BaseRedisLayer, pool: Any, *, is_pubsub: bool) -> None:
    try:
        wire = await Wire.open(pool, Scope(running_loop()), layer.connect_wait_s)
        try:
            await _keys(census, wire, layer._keys)
            if is_pubsub:
                census.counts += await _topics(wire, layer._keys)
        finally:
            await wire.close()
    finally:
        await close_pool(pool)


async def _keys(census: Census, wire: Wire, keyspace: Keyspace) -> None:
    async for key in _scan(wire, keyspace.owned_keys_pattern()):
        name = key.decode("utf-8", "replace")
        if keyspace.owns_leases(name):
            census.leases += await _leases(wire, key)
        named = keyspace.name_of(name)
        if named is None:
            continue
        # Unlike ZCARD, ZCOUNT is allowed for every user of a layer.  It fails for other types.
        number = await wire.ask("ZCOUNT", key, "-inf", "+inf")
        if isinstance(number, int):
            census.counts.append(Count(number, named[1], named[0] == "group"))


async def _leases(wire: Wire, key: bytes) -> list[Lease]:
    flat = await wire.ask("ZRANGE", key, 0, -1, "WITHSCORES")
    if not isinstance(flat, list):  # the key is of another type, or has expired
        return []
    said = await wire.ask("TIME")
    now_s = int(said[0]) + int(said[1]) / 1e6 if isinstance(said, list) else time.time()
    return [
        _lease(name.decode("utf-8", "replace"), float(score), now_s)
        for name, score in zip(flat[::2], flat[1::2], strict=True)
    ]


def _lease(process: str, score: float, now_s: float) -> Lease:
    """Return what the score of a process in the leases means (``renew.lua``)."""
    if score < 0:
        return Lease(process, "dead", now_s + score)
    state = "alive" if score >= now_s else "overdue"
    return Lease(process, state, abs(score - now_s))


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
