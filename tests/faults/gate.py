"""A connection that stops where it is told to: at any await between the layer and the server.

Connections and their pools count every step at which redis-py may make its caller wait. The gate
lets all steps pass but one; there the step stays until it is released, while the test does what
it likes to those who wait for it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio.connection import Connection, ConnectionPool

from tests.conftest import class_of


class Gate:
    """Counts steps, and stops the one with the number ``stop_at``."""

    def __init__(self) -> None:
        self.passed = 0
        self.stopped_at: str | None = None
        self._stop_at = 0
        self._reached = asyncio.Event()
        self._released = asyncio.Event()

    def arm(self, stop_at: int) -> None:
        """Stop the step with this number, counted from now and from 1."""
        self.passed = 0
        self._stop_at = stop_at

    async def step(self, name: str, connection: Any = None) -> None:
        """Pass the gate, or stand before it; closing the connection opens the gate as well."""
        self.passed += 1
        if self._stop_at and self.passed == self._stop_at:
            self.stopped_at = name
            self._reached.set()
            while True:
                await asyncio.sleep(0.002)
                if self._released.is_set() or _is_closed(connection):
                    return

    async def reached_before(self, task: asyncio.Task[Any], limit_s: float) -> bool:
        """Wait until a step was stopped, or the task has ended; tell whether one was stopped."""
        reaching = asyncio.create_task(self._reached.wait())
        await asyncio.wait({reaching, task}, return_when=asyncio.FIRST_COMPLETED, timeout=limit_s)
        reaching.cancel()
        return self._reached.is_set()

    def release(self) -> None:
        """Let the stopped step go on, and stop no other."""
        self._stop_at = 0
        self._released.set()


def _is_closed(connection: Any) -> bool:
    if connection is None:
        return False
    return connection._writer is None or connection._writer.transport.is_closing()


def gated_layer(kind: str, gate: Gate, host: str, port: int, **options: Any) -> Any:
    """Return a layer whose every connection goes through the gate."""

    class GatedConnection(Connection):
        async def connect(self) -> None:
            await gate.step("connect")
            await super().connect()
            await gate.step("connected")

        async def read_response(self, *args: Any, **options: Any) -> Any:
            await gate.step("read", self)
            return await super().read_response(*args, **options)

        async def disconnect(self, *args: Any, **options: Any) -> None:
            await gate.step("disconnect", self)
            await super().disconnect(*args, **options)
            await gate.step("disconnected", self)

    class GatedPool(ConnectionPool):
        async def get_connection(self, *args: Any, **options: Any) -> Any:
            await gate.step("get connection")
            connection = await super().get_connection(*args, **options)
            try:
                await gate.step("got connection")
            except BaseException:
                await self.release(connection)
                raise
            return connection

        async def release(self, connection: Any) -> None:
            await gate.step("release", connection)
            await super().release(connection)

    class GatedLayer(class_of(kind)):  # type: ignore[misc]  # found at run time
        def create_pool(self, index: int) -> ConnectionPool:
            pool = super().create_pool(index)
            pool.__class__ = GatedPool
            return pool

    entry = {"host": host, "port": port, "connection_class": GatedConnection}
    return GatedLayer(hosts=[entry], **options)
