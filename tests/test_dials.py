"""Dials that nobody wants any more."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from redis.asyncio.connection import Connection, SSLConnection

from channels_redis._runtime.scope import Scope
from channels_redis._transport import wire
from channels_redis._transport.wire import Wire


class Pool:
    """Stands for redis-py's: its one connection is ready when ``ready`` is set."""

    def __init__(self, connection_class: type[Connection]) -> None:
        self.connection_class = connection_class
        self.connection_kwargs: dict[str, Any] = {}
        self._available_connections: list[Any] = []
        self._in_use_connections: set[Any] = set()
        self.begun, self.ready = asyncio.Event(), asyncio.Event()
        self.connection = connection_class()
        self.outcome = ""

    async def get_connection(self) -> Connection:
        self.begun.set()
        try:
            await self.ready.wait()
        except asyncio.CancelledError:
            self.outcome = "cancelled"
            raise
        self.outcome = "connected"
        return self.connection

    async def release(self, connection: Connection) -> None:
        self.outcome += ", released"

    async def disconnect(self, inuse_connections: bool = True) -> None:
        pass


@pytest.mark.parametrize(
    ("connection_class", "outcome"),
    [(SSLConnection, "connected, released"), (Connection, "cancelled")],
)
async def test_a_handshake_over_tls_that_nobody_wants_may_succeed_first(
    connection_class: type[Connection], outcome: str
) -> None:
    """Cancelled just as it succeeds, it would leave a socket behind, which nobody knows of."""
    pool: Any = Pool(connection_class)
    dialling = asyncio.ensure_future(Wire.open(pool, Scope(asyncio.get_running_loop()), 5))
    await pool.begun.wait()
    dialling.cancel()
    await asyncio.sleep(0.01)
    pool.ready.set()
    await asyncio.wait({dialling})
    assert dialling.cancelled()
    assert pool.outcome == outcome


async def test_a_handshake_over_tls_that_does_not_end_is_cancelled() -> None:
    """A frozen server accepts wire, and says nothing."""
    pool: Any = Pool(SSLConnection)
    dialling = asyncio.ensure_future(Wire.open(pool, Scope(asyncio.get_running_loop()), 5))
    await pool.begun.wait()
    dialling.cancel()
    await asyncio.wait({dialling})
    assert pool.outcome == "cancelled"


async def test_a_handshake_over_tls_may_succeed_though_the_loop_was_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the server said meanwhile is read in the very turn in which the time is up."""
    monkeypatch.setattr(wire, "_HANDSHAKE_S", 0.05)
    pool: Any = Pool(SSLConnection)
    loop = asyncio.get_running_loop()
    dialling = asyncio.ensure_future(Wire.open(pool, Scope(loop), 5))
    await pool.begun.wait()
    dialling.cancel()
    await asyncio.sleep(0.01)
    time.sleep(0.1)
    loop.call_soon(pool.ready.set)
    await asyncio.wait({dialling})
    assert pool.outcome == "connected, released"
