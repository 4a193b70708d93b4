"""Which node serves a name, and how to open a checked connection to it.

The topology is queried for each connection attempt: redis-py queries the Sentinels for the primary
when one of its Sentinel connections connects, and this module checks the server's role.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import ssl
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ConnectionError,
    MovedError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from .._config.pools import uses_tls
from .._config.secrets import causes_of
from .._runtime.scope import Scope
from .._runtime.tasks import apart
from .._watch.outages import Health
from .._watch.tally import NodeTally
from ..exceptions import ConfigurationError
from .commands import Command, Commands, forbidden_command, recognised
from .wire import Wire, last_words

if TYPE_CHECKING:
    from collections import deque

    from redis.asyncio import ConnectionPool, Redis

#: The oldest server that has BZPOPMIN, and replicates what a script did instead of the script.
OLDEST_SERVER = (5, 0)

#: How long a connection that is given up for another server may finish what is under way.
RENEW_S = 0.25

_BACKOFF_FIRST_S = 0.05
_BACKOFF_LAST_S = 0.5


def backoff_s(failures: int) -> float:
    """Return the pause after a number of failures: random, from 50 ms doubling to 500 ms."""
    limit_s: float = min(_BACKOFF_FIRST_S * 2 ** min(failures, 10), _BACKOFF_LAST_S)
    return limit_s * random.uniform(0.5, 1)


# What no retry can help: class of the error, what its text has in lower case, what to do.
_ADVICE: tuple[tuple[type[Exception], str, str], ...] = (
    (AuthenticationError, "", "check the user name and password of this entry of hosts"),
    (NoPermissionError, "", "the documentation lists the commands, keys and channels to allow"),
    (
        ssl.SSLCertVerificationError,
        "",
        "check 'ssl_ca_certs', or 'ssl_cert_reqs' for a self-signed certificate",
    ),
    (ResponseError, "db index", "check the database number"),
    (ResponseError, "sentinel", "'sentinels' must list Sentinels, not monitored servers"),
    (ResponseError, "hello", "RESP3 needs Redis 6.0 or newer: set 'protocol' to 2"),
    (ResponseError, "unknown", "Redis 5.0 or newer is required, with no command renamed"),
)


# What the layers do without where it is refused.
_DISPENSABLE = ("evalsha", "scan", "unlink")

_NO_TLS = "the server does not seem to use TLS on this port; redis:// connects without TLS"


class Redirected(ConnectionError):
    """Other servers of the cluster serve the name: not an outage, only a reason to reconnect."""


class User(Protocol):
    """The owner of a connection to a node."""

    def renew(self, reason: str) -> None:
        """Let the connection go, and ask the topology anew for where to connect."""


class NodeContext(NamedTuple):
    """The common parts of all nodes of one entry of ``hosts``, on one event loop."""

    health: Health
    #: Where connections live, and what dials them.
    scope: Scope
    tally: NodeTally
    connect_wait_s: float
    command_timeout_s: float


class Node:
    """A server that can be dialled, as one event loop sees it: here the one behind an entry of
    ``hosts``; in :mod:`.cluster.servers` those of a cluster.

    ``client`` returns the loop's ``redis.asyncio.Redis`` of this entry: connections come from
    its pool, so that subclasses which override it are obeyed.  ``first_dialled`` is called when
    there was the first one.
    """

    #: Whether the server is meant to be part of a cluster.
    in_cluster: ClassVar[bool] = False
    #: Whether ASKING has to stand in front of each command.
    asking = False
    #: Whether it serves no names any more.
    retired = False

    def __init__(
        self,
        client: Callable[[], Redis],
        context: NodeContext,
        first_dialled: Callable[[Node], None] | None = None,
    ) -> None:
        self._client = client
        self._first_dialled = first_dialled
        self.health, self.scope, self.tally, self.connect_wait_s, self.command_timeout_s = context
        self.users: weakref.WeakSet[User] = weakref.WeakSet()
        self._renewals = 0

    def call_at_next_dial(self, dialled: Callable[[Node], None]) -> None:
        """Call a function at the next connection, as at the first one."""
        self._first_dialled = dialled

    def pool(self) -> ConnectionPool:
        """Return the pool that all connections come from."""
        return self._client().connection_pool

    def renew(self, reason: str) -> None:
        """Replace all connections, because another server may serve the names now."""
        self._renewals += 1
        for user in tuple(self.users):
            user.renew(reason)
        self.health.moved()

    async def dial(self) -> Wire:
        """Return a new connection to the present primary.

        Raises :class:`ConfigurationError` for errors that no retry can help (only until the shard
        has worked once), ``redis.exceptions.RedisError`` or ``OSError`` for all others.
        """
        try:
            return await self._dial()
        except Exception as error:
            self.health.secrets.error(error)
            raise

    async def _dial(self) -> Wire:
        pool = self.pool()
        renewals = self._renewals
        try:
            wire = await Wire.open(pool, self.scope, self.command_timeout_s)
        except Exception as error:
            reason = await self._why(error, pool)
            if reason is error:
                raise
            raise reason from error
        try:
            if isinstance(pool, SentinelConnectionPool):
                await self._check_primary(wire)
            if not self.health.proven:
                await self._check_server(wire)
            if renewals != self._renewals:
                raise ConnectionError("another server took over during the handshake")
        except BaseException:
            await wire.close()
            raise
        dialled, self._first_dialled = self._first_dialled, None
        if dialled is not None:
            dialled(self)
        return wire

    async def _why(self, error: Exception, pool: ConnectionPool) -> Exception:
        """Return the error to raise if no connection could be made: the given one, or a clearer
        one.
        """
        explained = self.explain(error)
        causes = list(causes_of(error))
        if any(isinstance(cause, MasterNotFoundError) for cause in causes):
            await self._check_master_name(pool, error)
        if explained is not error:
            return explained
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return ConnectionError(f"{str(error).rstrip('.')}; {_NO_TLS}")
        if "while writing to socket" in str(error):
            # The server has said why, and redis-py did not get to read it.
            return ConnectionError(await last_words(pool) or "the server closes new connections")
        return error

    async def _check_primary(self, wire: Wire) -> None:
        """Refuse a demoted server: a stale Sentinel may name it, and messages published there are
        lost.
        """
        role = await wire.ask("ROLE")
        if isinstance(role, list) and role[0] != b"master":
            raise ConnectionError("the server named by Sentinel is not a primary")

    async def _check_server(self, wire: Wire) -> None:
        """Raise a clear error if a server is too old, or not a single server; does nothing if INFO
        is refused.
        """
        info = await wire.ask("INFO", "server")
        if not isinstance(info, bytes):
            return
        # Valkey 8 has a name of its own for it.
        if re.search(rb"(redis|server)_mode:cluster", info) and not self.in_cluster:
            raise self._is_one_of_a_cluster()
        if b"_mode:sentinel" in info:
            raise await self._is_a_sentinel(wire)
        found = re.search(rb"redis_version:((\d+)\.(\d+)[^\s]*)", info)
        if found and (int(found[2]), int(found[3])) < OLDEST_SERVER:
            raise ConfigurationError(
                f"Redis at {self.health.name} is {found[1].decode()}, which is too old: "
                f"Redis 5.0 or newer is required. For details, run: {self.health.doctor}"
            )

    async def _is_a_sentinel(self, wire: Wire) -> ConfigurationError:
        masters = await wire.ask("SENTINEL", "MASTERS")
        names = [one[1].decode() for one in masters if isinstance(one, list)]
        kwargs = self.pool().connection_kwargs
        place = (kwargs.get("host", "localhost"), int(kwargs.get("port", 6379)))
        entry = {"sentinels": [place], "master_name": names[0] if names else "..."}
        return ConfigurationError(
            f"Redis at {self.health.name} is a Sentinel. Its entry of hosts is {entry!r}, with the "
            "other Sentinels in the list, and all keywords of the primary beside it. "
            f"For details, run: {self.health.doctor}"
        )

    async def _check_master_name(self, pool: Any, error: Exception) -> None:
        """Raise :class:`ConfigurationError` if a Sentinel replies and does not know the name."""
        if self.health.proven:
            return
        for sentinel in pool.sentinel_manager.sentinels:
            with contextlib.suppress(RedisError, OSError):
                asking = sentinel.sentinel_masters()
                known = await apart(asking, self.scope.loop, "question to a Sentinel")
                if pool.service_name not in known:
                    raise ConfigurationError(
                        f"hosts: the Sentinels of {self.health.name} do not know a master named "
                        f"{pool.service_name!r}; correct 'master_name' (known: {sorted(known)}); "
                        f"for details, run: {self.health.doctor}"
                    ) from error
                return

    def silence(self) -> str:
        """Return why there is no connection yet, as far as known while it is being made."""
        if self.health.proven or not uses_tls(self.pool().connection_class):
            return "not connected"
        return f"no reply to the TLS handshake; {_NO_TLS}"

    # What a cluster does otherwise

    async def pause(self, seconds: float) -> None:
        """Wait before the next connection attempt, unless a change makes this unnecessary."""
        await asyncio.sleep(seconds)

    def reply_missing(self, user: object) -> None:
        """Note that a user is missing a reply."""

    def reply_came(self, user: object) -> None:
        """Note that the user has got the reply, or no longer waits for it."""

    def redirects(self, command: Command, reply: Exception) -> bool:
        """Take over a command that got an error reply, if it has to be sent elsewhere or later."""
        return False

    def is_elsewhere(self, reply: Exception) -> bool:
        """Return whether an error reply says that another server, or none now, serves a name."""
        return False

    def note(self, reply: Exception | None) -> None:
        """Handle such a reply; None if the server dropped a subscription without a request."""

    def reroute(self, commands: deque[Command]) -> list[Command]:
        """Remove and return the commands that now belong to other servers."""
        return []

    def same_server(self, commands: Commands) -> Commands:
        """Return the object that sends to the server connected last, given the one that sends by
        name.
        """
        return commands

    def _is_one_of_a_cluster(self) -> ConfigurationError:
        kwargs = self.pool().connection_kwargs
        tls = issubclass(self.pool().connection_class, SSLConnection)
        place = f"{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}"
        entry = f'{{"cluster": True, "address": "redis{"s" if tls else ""}://{place}"}}'
        return ConfigurationError(
            f"Redis at {self.health.name} is one server of a Redis Cluster. Its entry of hosts is "
            f"{entry}, with user name, password and all other keywords beside them. "
            f"For details, run: {self.health.doctor}"
        )

    def explain(self, error: Exception) -> Exception:
        """Return the error to raise: a :class:`ConfigurationError` if no retry can help and
        the shard never worked (or is part of a cluster), else the error itself.
        """
        if isinstance(recognised(error), (MovedError, AskError)):
            return self._is_one_of_a_cluster()
        if self.health.proven:
            return error
        for cause in causes_of(error):
            if forbidden_command(cause) in _DISPENSABLE:
                return error
            advice = _advice(cause)
            if advice is not None:
                said = str(cause).rstrip(".")
                return ConfigurationError(
                    f"Redis at {self.health.name} refuses: {said}; {advice}; "
                    f"for details, run: {self.health.doctor}"
                )
        return error


def _advice(cause: BaseException) -> str | None:
    """Return the advice for an error reply that no retry can help; None for any other error."""
    text = str(cause).lower()
    for kind, words, advice in _ADVICE:
        if isinstance(cause, kind) and words in text:
            return advice
    return None
