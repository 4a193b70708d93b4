"""The order in which a multiplexer writes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from redis.exceptions import AskError

from channels_redis._runtime.scope import Scope
from channels_redis._transport.cluster.cluster import Cluster
from channels_redis._transport.cluster.servers import Entry
from channels_redis._transport.commands import Command
from channels_redis._transport.multiplexer import PIECE_BYTES
from channels_redis._transport.node import NodeContext
from channels_redis._transport.packing import pack
from channels_redis._watch.outages import Health, Outage

HERE, THERE = ("here", 1), ("there", 2)


class Wire:
    """A connection that keeps what is written."""

    lost = False

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    async def close(self) -> None:
        pass


async def test_nothing_comes_between_asking_and_its_command() -> None:
    """Though so much waits that it is written in the middle of the tick."""
    loop = asyncio.get_running_loop()
    unused: Any = SimpleNamespace()
    scope = Scope(loop)
    health = Health("here", unused, Outage(lambda *change: None))
    cluster = Cluster(
        Entry([HERE], None, None),
        unused,
        NodeContext(health, scope, unused, connect_wait_s=3, command_timeout_s=10),
    )
    multiplexer = cluster.server(THERE).multiplexer
    wire: Any = Wire()
    multiplexer._wire = wire
    moved = Command(pack("GET", "moved"), loop.create_future(), loop.time(), False, 5)
    await asyncio.sleep(0.01)
    replies = [moved.future]
    while multiplexer._backlog_bytes < PIECE_BYTES - 1000:
        replies.append(multiplexer.call(pack("GET", "other")))
    cluster.redirect(moved, AskError("5 there:2"), HERE)
    assert pack("ASKING") + moved.data in wire.written
    multiplexer._wire = None
    await scope.aclose()
    await asyncio.gather(*replies, return_exceptions=True)
