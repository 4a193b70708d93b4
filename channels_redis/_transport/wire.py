"""One connection, which is taken from a redis-py pool and then controlled by the layer.

redis-py's connection objects provide TLS, authentication, Sentinel and the parser; the layer
controls the timing. Only this module and :mod:`.replies` use their private attributes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.asyncio import RedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool, SentinelManagedConnection
from redis.exceptions import (
    ConnectionError,
    InvalidResponse,
    ResponseError,
)

from .._config import pools
from .._config.secrets import Secrets
from .._runtime.loops import running_loop
from .._runtime.scope import Part, Scope, Stage, shut
from .._runtime.tasks import ended, started
from .._runtime.timers import Deadline
from .credentials import Credentials, renewals_of
from .handshake import error_reply, handshake_error, loss
from .other_streams import ForeignStream, is_stream
from .packing import pack
from .replies import ERROR_REPLIES, UNASKED, Replies, Take, is_unasked, short_way, take_push

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.connection import AbstractConnection, ConnectionPool

Loop = asyncio.AbstractEventLoop

#: Why a connection was closed whose server did not reply for too long.
NO_ANSWER = "no reply within the timeout"

#: How long a TLS handshake may continue that is no longer needed.  If it is cancelled as it
#: succeeds, asyncio closes TLS in the background, and the loop may end before that is done.
_HANDSHAKE_S = 1.0

#: How reading shows that a connection is lost: its end, what is no reply, a pool that was closed.
_LOSSES = (ConnectionError, InvalidResponse, OSError, EOFError, AttributeError, ValueError)

#: How long to wait for the reason why a server closes new connections.
_LAST_WORDS_S = 0.5


class Wire:
    """An open connection: writes without waiting, reads reply after reply.

    One task reads. A cancelled read loses nothing: the next one continues where it stopped.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_deadline_s",
        "_foreign",
        "_loop",
        "_part",
        "_pool",
        "_read_response",
        "_reason",
        "_replies",
        "_secrets",
        "_settings",
        "_transport",
        "renewed",
    )

    def __init__(
        self, connection: AbstractConnection, pool: ConnectionPool, scope: Scope, deadline_s: float
    ) -> None:
        self._connection = connection
        self._pool = pool
        loop = self._loop = scope.loop
        self._deadline_s = deadline_s
        self._reason = ""
        self._secrets = secrets_of(pool)
        self._foreign = None
        if not is_stream(connection):
            self._foreign = ForeignStream(connection, loop, self._secrets)
        self._replies = self._foreign or short_way(connection, loop, self._secrets)
        self._read_response = _reading_method(connection)
        self._settings = (connection.socket_timeout, connection.health_check_interval)
        parser: Any = connection._parser
        if hasattr(parser, "handle_push_response"):
            parser.handle_push_response = take_push
        # Timeouts and health checks of redis-py would read beside our reading task.
        connection.socket_timeout = None
        connection.health_check_interval = 0
        connection.set_re_auth_token(None)  # type: ignore[arg-type]  # it has the newest
        #: Writes new credentials (a packed command), in order with other commands.
        self.renewed: Callable[[bytes], None] | None = None
        self._transport: Any = self._foreign
        if self._foreign is None:
            assert connection._writer is not None
            self._transport = connection._writer.transport
        self._part = scope.hold(
            Stage.CONNECTIONS, self.close, forget=self._forget, descriptors=self.descriptors
        )

    @classmethod
    async def open(cls, pool: ConnectionPool, scope: Scope, deadline_s: float) -> Wire:
        """Take a connected connection from the pool.

        Raises what redis-py raises, and ``redis.exceptions.ConnectionError`` after
        ``deadline_s`` seconds: a frozen server accepts connections and never answers.
        """
        renewals = renewals_of(pool.connection_kwargs.get("credential_provider"))
        known = renewals.latest if renewals is not None else None
        dialling = pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py's annotations
        dial: asyncio.Task[Any] = started(dialling, scope.loop, "channels_redis dial")
        try:
            await asyncio.wait({dial}, timeout=deadline_s)
        except asyncio.CancelledError:
            await _undo(dial, pool)
            raise
        if not dial.done():
            await _undo(dial, pool)
            raise ConnectionError(f"no reply to the handshake within {deadline_s:g} s")
        if dial.cancelled():
            raise ConnectionError("the connection was abandoned")
        error = dial.exception()
        if error is not None:
            raise handshake_error(error, secrets_of(pool))
        connection = dial.result()
        if not connection.is_connected:
            await pool.release(connection)
            raise ConnectionError("the connection broke during the handshake")
        wire = cls(connection, pool, scope, deadline_s)
        if renewals is not None:
            renewals.notify(wire)
            if renewals.latest is not None and renewals.latest is not known:
                await wire._authenticate(renewals.latest)
        return wire

    async def _authenticate(self, credentials: Credentials) -> None:
        """Present credentials that came during the handshake."""
        try:
            reply = await self.ask("AUTH", *credentials)
            if isinstance(reply, Exception):
                raise reply
        except BaseException:
            await self.close()
            raise

    def take_token(self, token: Any, credentials: Credentials) -> None:
        """Send new credentials to the server, if the user of this connection supports it.

        Called from any thread.  redis-py presents them on the other connections of the pool, as
        each is given back.
        """
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._present, token, pack("AUTH", *credentials))

    def _present(self, token: Any, command: bytes) -> None:
        for connection in _connections(self._pool):
            connection.set_re_auth_token(token)
        if self.renewed is not None and not self.lost:
            self.renewed(command)

    @property
    def lost(self) -> bool:
        """Whether the connection is known to be closed."""
        return self._transport.is_closing() or not self._connection.is_connected

    @property
    def socket_timeout_s(self) -> float | None:
        """How long the user lets an ordinary command wait for its reply; None for no limit."""
        limit_s: float | None = self._settings[0]
        return limit_s or None

    @property
    def health_check_s(self) -> float:
        """Seconds of silence after which the user wants a sign of life; 0 for none."""
        interval_s: float = self._settings[1] or 0
        return interval_s

    def descriptors(self) -> set[int]:
        """Return the file descriptor of the socket, while it is open."""
        return _descriptors_of([self._transport])

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport.  Does nothing on a lost connection: reading raises."""
        if not self.lost:
            self._transport.write(data)

    def write_now(self, data: bytes) -> bool:
        """Write a few bytes although the loop does not run; return whether they were written."""
        descriptors = self.descriptors()
        is_plain = self._foreign is None and self._transport.get_extra_info("ssl_object") is None
        # Nothing may come between the parts of a command that the transport has begun to write.
        if self.lost or not (is_plain and descriptors) or self._transport.get_write_buffer_size():
            return False
        (descriptor,) = descriptors
        try:
            return os.write(descriptor, data) == len(data)
        except OSError:
            return False

    async def read(self) -> Any:
        """Return the next reply; an error reply is returned, not raised.

        Raises ``redis.exceptions.ConnectionError`` when the connection is lost.
        """
        try:
            if self._replies is not None:
                return await self._replies.read()
            reply = UNASKED
            while is_unasked(reply):
                reply = await self._read_response(
                    disable_decoding=True, disconnect_on_error=False, push_request=True
                )
            return reply
        except (ResponseError, *ERROR_REPLIES) as reply:
            return error_reply(reply, self._secrets)
        except _LOSSES as error:
            lost = error
        # Raised outside of the except block: what led to it may quote the server.
        raise loss(lost, self._reason, self._secrets)

    def arrived(self) -> list[Any]:
        """Return the replies that nobody has read and that need no wait."""
        return self._replies.arrived() if self._replies is not None else []

    def take_over(self) -> Leftovers | None:
        """Take the socket away from the loop of this connection, which stands still or does not
        answer: it finds the connection closed when it goes on.  None where nobody else can read
        what comes: over TLS, and without hiredis.  Raises OSError where no descriptor is left.
        """
        replies, descriptors = self._replies, self.descriptors()
        is_plain = self._transport.get_extra_info("ssl_object") is None
        if not (isinstance(replies, Replies) and descriptors and is_plain):
            return None
        (descriptor,) = descriptors
        closed, other = socket.socketpair()
        other.close()
        with closed:
            taken = socket.socket(fileno=os.dup(descriptor))
            # In one step, so that no byte is read by both.
            os.dup2(closed.fileno(), descriptor)
        return Leftovers(taken, replies)

    async def hand_over(self, take: Take) -> None:
        """Call ``take`` with each reply, as soon as it is there, until ``take`` returns False.

        Raises what ``take`` raises, and ``redis.exceptions.ConnectionError`` when the connection
        is lost.
        """
        if self._replies is None:
            while take(await self.read()):
                pass
            return
        try:
            await self._replies.hand_over(take)
            return
        except _LOSSES as error:
            lost = error
        raise loss(lost, self._reason, self._secrets)  # as above

    async def ask(self, *args: bytes | str | int) -> Any:
        """Send one command on a connection that nobody else uses yet; return the reply."""
        self.write(pack(*args))
        # Not a plain timer: if a test freezes time, a loop's clock jumps, and all of them fire.
        deadline = Deadline(self._loop, self._deadline_s, partial(self.abort, NO_ANSWER), grace_s=0)
        deadline.begin()
        try:
            return await self.read()
        finally:
            deadline.cancel()

    def abort(self, reason: str = "") -> None:
        """Close at once; the reading task raises an error with the reason."""
        self._reason = self._reason or reason
        self._transport.abort()

    async def close(self) -> None:
        """Close and give the connection object back to its pool."""
        self._transport.abort()
        if self._foreign is not None:
            await self._foreign.ended()
        self.renewed = None
        self._connection.set_re_auth_token(None)  # type: ignore[arg-type]  # for its next user
        vars(self._connection._parser).pop("handle_push_response", None)
        self._connection.socket_timeout, self._connection.health_check_interval = self._settings
        # In this task: a new one might never start, if the loop ends.
        with contextlib.suppress(Exception):
            await self._connection.disconnect()
        with contextlib.suppress(Exception):
            # The pool may have been closed or replaced meanwhile; then it raises.
            await self._pool.release(self._connection)
        self._part.release()

    def shut(self) -> None:
        """Shut the socket, while the loop stands still or is closed."""
        for descriptor in self.descriptors():
            shut(descriptor)

    def _forget(self) -> None:
        """Do what the transport would do in the next round of the loop, which was closed."""
        # First, as the transport forgets the socket: the server must see the end, or it goes on
        # popping messages for nobody.
        self.shut()
        transport: Any = self._transport
        while transport is not None:
            with contextlib.suppress(RuntimeError, AttributeError):
                transport.abort()
            with contextlib.suppress(RuntimeError, AttributeError):
                transport._call_connection_lost(None)
            transport = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
        self._connection._reader = self._connection._writer = None


class Leftovers:
    """What comes over a connection that was taken away from its loop."""

    def __init__(self, taken: socket.socket, replies: Replies) -> None:
        self._socket = taken
        self._replies = replies

    def arrived(self) -> list[Any]:
        """Return the replies that have come."""
        self._replies.read_socket(self._socket.fileno())
        return self._replies.arrived()

    def shut(self) -> None:
        """Close for writing, so that the server closes, and what it has sent can still be read."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _reading_method(connection: AbstractConnection) -> Callable[..., Awaitable[Any]]:
    """Return the method that reads a reply and does not handle READONLY itself.

    redis-py's Sentinel connections would close themselves, and lose the replies to all the commands
    after the refused one.
    """
    if isinstance(connection, SentinelManagedConnection):
        return super(SentinelManagedConnection, connection).read_response
    return connection.read_response


def secrets_of(pool: ConnectionPool) -> Secrets:
    """Return the secrets in the settings of a pool and of its Sentinels."""
    manager = getattr(pool, "sentinel_manager", None)
    return Secrets(pool.connection_kwargs, getattr(manager, "sentinel_kwargs", None))


def hold_client(client: Redis | RedisCluster, scope: Scope) -> Part:
    """Let a scope close a redis-py client, and list its connections: idle ones, used ones, and
    those that are being opened.
    """

    def connections() -> list[AbstractConnection]:
        if isinstance(client, RedisCluster):
            return [one for node in pools.nodes_of(client) for one in node._connections]
        return _connections(client.connection_pool)

    return scope.hold(
        Stage.CLIENTS,
        partial(pools.close_client, client),
        descriptors=lambda: _descriptors_of(
            [one._writer.transport for one in connections() if one._writer is not None]
        ),
    )


def _connections(pool: ConnectionPool) -> list[AbstractConnection]:
    return [*pool._available_connections, *pool._in_use_connections]


def _descriptors_of(transports: Iterable[asyncio.BaseTransport]) -> set[int]:
    sockets = [transport.get_extra_info("socket") for transport in transports]
    return {sock.fileno() for sock in sockets if sock is not None and sock.fileno() >= 0}


async def last_words(pool: ConnectionPool) -> str:
    """Return the text that a server sends on a new connection before it closes it, for example at
    its limit of clients; empty if there is none.
    """
    if isinstance(pool, SentinelConnectionPool):
        return ""
    connection: Any = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py's own
    reading = started(_first_line(connection), running_loop(), "channels_redis last words")
    try:
        # Not wait_for(), which swallows a cancellation that comes with its end until Python 3.12.
        await asyncio.wait({reading}, timeout=_LAST_WORDS_S)
    finally:
        reading.cancel()
        await ended({reading})
        _hang_up([connection])
        await connection.disconnect(nowait=True)
    said = b"" if reading.cancelled() or reading.exception() else reading.result()
    return said[1:].decode("utf-8", "replace").strip().removeprefix("ERR ")


async def _first_line(connection: Any) -> bytes:
    """Connect without a handshake; return what the server says, as far as the end of a line."""
    await connection._connect()
    line: bytes = await connection._reader.readline()
    return line


async def _undo(dial: asyncio.Task[Any], pool: ConnectionPool) -> None:
    """End a connection attempt that is no longer needed, also if it succeeds meanwhile."""
    limit = Deadline(dial.get_loop(), _HANDSHAKE_S, dial.cancel)
    if pools.uses_tls(pool.connection_class):
        limit.begin()
    else:
        dial.cancel()
    try:
        await ended({dial})
    finally:
        limit.cancel()
        if not dial.cancelled() and dial.exception() is None:
            _hang_up([dial.result()])
            await dial.result().disconnect()
            await pool.release(dial.result())
        # Cancelled in its handshake, a connection lies in the pool with replies on their way to
        # it, which the next user would take for the replies to other commands.
        _hang_up(pool._available_connections)
        with contextlib.suppress(Exception):
            await pool.disconnect(inuse_connections=False)


def _hang_up(connections: Iterable[AbstractConnection]) -> None:
    """Close sockets without TLS's close_notify, which waits for the server's."""
    for connection in connections:
        if connection._writer is not None and is_stream(connection):
            connection._writer.transport.abort()
