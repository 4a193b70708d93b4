"""Parses replies as they arrive in the transport, and passes them to the reader of a connection.

redis-py reads with a stream and six coroutines per reply, which is most of the cost of a reply.
After the handshake, the transport can feed hiredis's parser directly. Without hiredis, or if a
custom class reads in its own way, redis-py continues to read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelManagedConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    InvalidResponse,
)

from .._config.secrets import NO_SECRETS, Secrets
from .handshake import error_reply

if TYPE_CHECKING:
    from redis._parsers.base import BaseParser

Take = Callable[[Any], bool]
"""Takes one reply; returns whether it wants the next one."""

_new_parser: Any = None
_Push: Any = None
with contextlib.suppress(ImportError):  # an extra
    from hiredis import Reader as _new_parser
with contextlib.suppress(ImportError):  # since 3.2; before, pushes look like replies
    from hiredis import PushNotification as _Push

#: Error replies that redis-py raises as lost connections, although the connection still works.
ERROR_REPLIES = (AuthenticationError, BusyLoadingError)

#: Where redis-py itself reads replies.
_REDIS_PY = (AbstractConnection.read_response, SentinelManagedConnection.read_response)


#: The ends of the kinds of pushes that belong to a subscription.
PUB_SUB = (b"message", b"subscribe")

#: In one read of a socket.
READ_BYTES = 256 * 1024

#: In place of a push that redis-py has read, and that belongs to none.
UNASKED: Any = object()


class Inbox:
    """The replies of one connection that have arrived, and the task that waits for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, secrets: Secrets) -> None:
        self._loop = loop
        self._secrets = secrets
        self._arrived: deque[Any] = deque()
        self._lost: Exception | None = None
        # True where whoever takes replies wants no more.
        self._reading: asyncio.Future[bool] | None = None
        self._take: Take | None = None

    async def read(self) -> Any:
        """Return the next reply. Raises ``redis.exceptions.RedisError`` or ``OSError`` when the
        connection is lost, after all earlier replies.

        The waiting task is woken one iteration after those that get their replies with
        :meth:`hand_over`: senders continue first, and the server works while a reader handles
        messages.
        """
        while not self._arrived:
            if self._lost is not None:
                raise self._lost
            self._reading = self._loop.create_future()
            try:
                await self._reading
            finally:
                self._reading = None
        return self._arrived.popleft()

    def arrived(self) -> list[Any]:
        """Return the replies that have not been read."""
        arrived = list(self._arrived)
        self._arrived.clear()
        return arrived

    async def hand_over(self, take: Take) -> None:
        """Call ``take`` with each reply as it arrives, without a task in between, until it returns
        false. Raises what :meth:`read` raises, and the exceptions of ``take``.
        """
        while self._arrived:
            if not take(self._arrived.popleft()):
                return
        if self._lost is None:
            self._take = take
            self._reading = self._loop.create_future()
            try:
                if await self._reading:
                    return
            finally:
                self._reading = self._take = None
        assert self._lost is not None  # nothing else ends the wait
        raise self._lost

    def _offer(self, reply: Any) -> None:
        """Pass a reply to ``take``, or keep it until it is read; raises what ``take`` raises."""
        if isinstance(reply, Exception):
            reply = error_reply(reply, self._secrets)
        if self._take is None:
            self._arrived.append(reply)
        elif not self._take(reply):
            self._take = None
            _resolve(self._reading, True)

    def _wake(self) -> None:
        """Wake the waiting task for the replies that have arrived."""
        if self._arrived and self._reading is not None:
            self._loop.call_soon(_resolve, self._reading, False)

    def _end(self, error: Exception) -> None:
        self._lost = self._lost or error
        _resolve(self._reading, False)


class Replies(Inbox, asyncio.Protocol):
    """The parsed replies of a connection, including error replies.

    Replaces the protocol of redis-py's stream, which is only notified of the end.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        loop: asyncio.AbstractEventLoop,
        secrets: Secrets = NO_SECRETS,
    ) -> None:
        assert connection._reader is not None
        assert connection._writer is not None
        transport: Any = connection._writer.transport
        self._transport: asyncio.WriteTransport = transport
        errors: BaseParser = connection._parser
        super().__init__(loop, secrets)
        self._parser = _new_parser(protocolError=InvalidResponse, replyError=errors.parse_error)
        self._stream: Any = transport.get_protocol()
        transport.set_protocol(self)
        # The stream may know of the end already, and then no call follows.
        error = connection._reader.exception()
        if error is not None or connection._reader.at_eof() or transport.is_closing():
            self._end(error or ConnectionError("Connection closed by server."))

    def data_received(self, data: bytes) -> None:
        """Parse the complete replies in the received data."""
        self._parser.feed(data)
        try:
            while (reply := self._parser.gets()) is not False:
                if type(reply) is _Push and is_unasked(reply):
                    continue
                self._offer(reply)
        except Exception as error:  # noqa: BLE001 (its owner is the task that awaits the end)
            self._take = None
            # At once: commands written before that task runs would be lost without a reply.
            self._transport.abort()
            self._end(error)
            return
        self._wake()

    def read_socket(self, descriptor: int) -> None:
        """Parse what lies in a socket that was taken away from the loop, and wake nobody there."""
        with contextlib.suppress(OSError):  # there is no more of it, for one
            while data := os.read(descriptor, READ_BYTES):
                self._parser.feed(data)
        while (reply := self._parser.gets()) is not False:
            if not is_unasked(reply):
                self._offer(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the reader, and the stream, whose end redis-py awaits."""
        self._stream.connection_lost(exc)
        self._end(exc or ConnectionError("Connection closed by server."))

    def pause_writing(self) -> None:
        """Notify the stream."""
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """Notify the stream."""
        self._stream.resume_writing()


def _resolve(reading: asyncio.Future[bool] | None, enough: bool) -> None:
    if reading is not None and not reading.done():
        reading.set_result(enough)


def is_unasked(reply: Any) -> bool:
    """Return whether a reply belongs to no command: a push of the server (RESP3) that belongs to no
    subscription, such as announcements of maintenance, which a custom pool may enable in redis-py.
    """
    if reply is UNASKED:
        return True
    return type(reply) is _Push and not reply[0].endswith(PUB_SUB)


async def take_push(push: list[Any], *_: Any, **__: Any) -> Any:
    """Replaces redis-py's push handler, which logs contents and reacts to announcements."""
    kind = push[0].encode() if isinstance(push[0], str) else push[0]
    return push if kind.endswith(PUB_SUB) else UNASKED


def short_way(
    connection: AbstractConnection,
    loop: asyncio.AbstractEventLoop,
    secrets: Secrets = NO_SECRETS,
) -> Replies | None:
    """Return the replies of a connection whose handshake is over; None if redis-py has to continue
    to read: without hiredis, and for classes that read in their own way.
    """
    reads = type(connection).read_response
    if _new_parser is None or reads not in _REDIS_PY:
        return None
    buffered = getattr(connection._reader, "_buffer", None)
    if buffered is None or len(buffered):
        return None
    try:
        return Replies(connection, loop, secrets)
    except NotImplementedError:  # rloop's transports keep their protocol.
        return None
