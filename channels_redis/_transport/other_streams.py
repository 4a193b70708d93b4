"""A connection that does not use redis-py's streams, such as one of ``fakeredis``.

It is written and read with the methods that redis-py's clients use, each in a task. This is slower
than using a transport, but works with any connection class.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError, ResponseError

from .._runtime.tasks import ended, started
from .replies import ERROR_REPLIES, Inbox, is_unasked

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    from .._config.secrets import Secrets


class ForeignStream(Inbox):
    """The transport of such a connection, and the replies that it receives."""

    def __init__(
        self, connection: AbstractConnection, loop: asyncio.AbstractEventLoop, secrets: Secrets
    ) -> None:
        super().__init__(loop, secrets)
        self._connection = connection
        self._unwritten: deque[bytes] = deque()
        self._closing = False
        self._writer: asyncio.Task[None] | None = None
        self._reader = started(self._read_on(), loop, "channels_redis foreign reader")

    # As a transport

    def write(self, data: bytes) -> None:
        """Write bytes soon."""
        self._unwritten.append(data)
        if self._writer is None:
            name = "channels_redis foreign writer"
            self._writer = started(self._write_all(), self._loop, name)

    def is_closing(self) -> bool:
        """Return whether reading and writing have ended."""
        return self._closing

    def abort(self) -> None:
        """Stop reading and writing."""
        self._fail(ConnectionError("the connection was closed"))
        for task in self._tasks():
            task.cancel()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return None, because no socket is known."""
        return default

    # Ends

    async def ended(self) -> None:
        """Return after reading and writing have ended; used after :meth:`abort`."""
        await ended(self._tasks())

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for task in (self._reader, self._writer) if task is not None]

    def _fail(self, error: Exception) -> None:
        self._closing = True
        self._take = None
        self._end(error)

    async def _write_all(self) -> None:
        try:
            while self._unwritten and not self._closing:
                data = self._unwritten.popleft()
                await self._connection.send_packed_command(data, check_health=False)
        except Exception as error:  # noqa: BLE001 (whatever such a class raises)
            self._fail(error)
        finally:
            self._writer = None

    async def _read_on(self) -> None:
        try:
            while not self._closing:
                reply = await self._read_one()
                if not is_unasked(reply):
                    self._offer(reply)
                    self._wake()
        except Exception as error:  # noqa: BLE001 (as above, and what those who take a reply raise)
            self._fail(error)

    async def _read_one(self) -> Any:
        try:
            reply = await self._connection.read_response(
                disable_decoding=True, disconnect_on_error=False, push_request=True
            )
        except (ResponseError, *ERROR_REPLIES) as error:
            return error
        if reply is None and not self._connection.is_connected:
            raise ConnectionError("Connection closed by server.")
        return reply


def is_stream(connection: AbstractConnection) -> bool:
    """Return whether a connection is one of redis-py's classes with a transport of asyncio."""
    transport = getattr(getattr(connection, "_writer", None), "transport", None)
    return all(hasattr(transport, name) for name in ("write", "abort", "set_protocol"))
