"""Replies as they arrive: the short way from a socket to whoever reads a connection.

redis-py reads through a stream and six coroutines per reply, which is most of what a reply costs.
Once its handshake is over, the parser that it uses where hiredis is installed can as well be fed
by the transport itself.  Without hiredis, or where a class of the user's reads in its own way,
redis-py goes on reading.
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
from .refusals import error_reply

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

#: Error replies that redis-py raises as lost connections, though the connection lives on.
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
    """The replies of one connection, as far as they have arrived, and who waits for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, secrets: Secrets) -> None:
        self._loop = loop
        self._secrets = secrets
        self._arrived: deque[Any] = deque()
        self._lost: Exception | None = None
        # True where whoever takes replies wants no more.
        self._reading: asyncio.Future[bool] | None = None
        self._take: Take | None = None

    async def read(self) -> Any:
        """Return the next reply.  Raises ``redis.exceptions.RedisError`` or ``OSError`` when the
        connection is lost, after all replies that came before.

        Who waits is woken a turn of the loop after those to whom replies are handed over: senders
        go on first, and the server works while a reader deals with messages.
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
        """Return the replies that nobody has read."""
        arrived = list(self._arrived)
        self._arrived.clear()
        return arrived

    async def hand_over(self, take: Take) -> None:
        """Call ``take`` with each reply as it arrives, with no task in between, until it wants
        no more.  Raises what :meth:`read` raises, and what ``take`` does.
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
        """Hand a reply over, or keep it until somebody reads; raises what ``take`` does."""
        if isinstance(reply, Exception):
            reply = error_reply(reply, self._secrets)
        if self._take is None:
            self._arrived.append(reply)
        elif not self._take(reply):
            self._take = None
            _resolve(self._reading, True)

    def _wake(self) -> None:
        """Wake who waits for what has arrived."""
        if self._arrived and self._reading is not None:
            self._loop.call_soon(_resolve, self._reading, False)

    def _end(self, error: Exception) -> None:
        self._lost = self._lost or error
        _resolve(self._reading, False)


class Replies(Inbox, asyncio.Protocol):
    """What a connection receives, parsed; errors that the server replied are among it.

    Takes the place of the stream's protocol, which hears of nothing more than the end.
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
        # Whatever the stream was told of the end is not told again.
        error = connection._reader.exception()
        if error is not None or connection._reader.at_eof() or transport.is_closing():
            self._end(error or ConnectionError("Connection closed by server."))

    def data_received(self, data: bytes) -> None:
        """Parse what came, as far as it is complete."""
        self._parser.feed(data)
        try:
            while (reply := self._parser.gets()) is not False:
                if type(reply) is _Push and is_unasked(reply):
                    continue
                self._offer(reply)
        except Exception as error:  # noqa: BLE001 (its owner is the task that awaits the end)
            self._take = None
            # At once: what is written before that task runs would be lost without an answer.
            self._transport.abort()
            self._end(error)
            return
        self._wake()

    def read_socket(self, descriptor: int) -> None:
        """Parse what lies in the socket, for a loop that stands still and so does not read it."""
        with contextlib.suppress(OSError):  # there is no more of it, for one
            while data := os.read(descriptor, READ_BYTES):
                self.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the reader know, and the stream, whose end redis-py awaits."""
        self._stream.connection_lost(exc)
        self._end(exc or ConnectionError("Connection closed by server."))

    def pause_writing(self) -> None:
        """Let the stream know."""
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """Let the stream know."""
        self._stream.resume_writing()


def _resolve(reading: asyncio.Future[bool] | None, enough: bool) -> None:
    if reading is not None and not reading.done():
        reading.set_result(enough)


def is_unasked(reply: Any) -> bool:
    """Return whether what came answers no command: a push of the server (RESP3) that belongs to no
    subscription.  Maintenance is announced so, where a pool of the user's has redis-py ask for it.
    """
    if reply is UNASKED:
        return True
    return type(reply) is _Push and not reply[0].endswith(PUB_SUB)


async def take_push(push: list[Any], *_: Any, **__: Any) -> Any:
    """Take the place of redis-py's handler, which logs contents and goes by announcements."""
    kind = push[0].encode() if isinstance(push[0], str) else push[0]
    return push if kind.endswith(PUB_SUB) else UNASKED


def short_way(
    connection: AbstractConnection,
    loop: asyncio.AbstractEventLoop,
    secrets: Secrets = NO_SECRETS,
) -> Replies | None:
    """Return the replies of a connection whose handshake is over; None where redis-py has to go
    on reading: without hiredis, and for classes that read in their own way.
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
