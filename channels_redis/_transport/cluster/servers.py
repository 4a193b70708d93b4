"""The servers of a Redis Cluster: a multiplexer for each, and commands that follow their slots.

A command whose slot has moved goes where the server says; one that can't be placed waits a
little.  Servers that come and go are found in the map (see :mod:`.map`).
"""

from __future__ import annotations

import asyncio
import random
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ..._format.slots import Address, Remap, named_address
from ..._runtime import clock
from ..._runtime.scope import Part, Stage
from ..._runtime.tasks import ended, ignore, started
from ...exceptions import ConfigurationError
from ..commands import Command, is_ask, recognised
from ..multiplexer import Multiplexer
from ..node import RENEW_S, Node, NodeContext
from ..packing import pack
from ..wire import Wire, hold_client
from .map import SlotMap
from .survey import Chart, interview

if TYPE_CHECKING:
    from redis.asyncio import Redis

MOVED_AWAY = "another server of the cluster serves it now"

#: How long a command that can't be placed waits for its next try.
PARKED_S = 0.1
#: A command that was redirected this often waits a little before the next attempt.
MAX_HOPS = 8
#: How long a server that is asked for keys under migration need not be in the map.
ASKED_S = 10.0
#: Replies which say that another server, or none just now, serves the slot.
ELSEWHERE = (AskError, ClusterDownError, TryAgainError)  # redis-py's MovedError is an AskError
#: The same from within a script, whose key went while the script dropped the last of its content,
#: before it wrote anything else.
_GONE = "non local key"


def is_elsewhere(reply: Exception) -> bool:
    """Return whether an error reply says that another server, or none now, serves the slot."""
    return isinstance(reply, ELSEWHERE) or (
        isinstance(reply, ResponseError) and _GONE in str(reply)
    )


class Entry(NamedTuple):
    """What an entry of ``hosts`` says of a cluster."""

    seeds: list[Address]
    remap: Remap | None
    #: None: by what the servers can do.
    sharded: bool | None


class Server(NamedTuple):
    """One server that is, or was just now, a primary."""

    node: ClusterNode
    multiplexer: Multiplexer


class Servers:
    """All servers of one cluster, as one event loop sees them.

    ``make_client`` makes the redis-py client of one server, whose pool is aimed at it.
    """

    def __init__(
        self,
        entry: Entry,
        make_client: Callable[[Address], Redis],
        context: NodeContext,
    ) -> None:
        self.entry = entry
        self.context = context
        self.health = context.health
        self.scope = scope = context.scope
        self.map = SlotMap(self, context.health, scope)
        #: Those whose ``map_changed()`` is called when slots have other servers.
        self.watchers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._make_client = make_client
        self._clients: dict[Address, tuple[Redis, Part]] = {}
        self._servers: dict[Address, Server] = {}
        self._asked: dict[Address, float] = {}
        self._parked: list[Command] = []
        self._unparking = scope.timer(self._unpark)
        self._closed = False
        scope.hold(Stage.COMMANDS, self.aclose)

    def owner(self, slot: int) -> Address | None:
        """Return the primary of a slot, if there is one and the map is known."""
        return self.map.owners[slot]

    def server(self, address: Address, *, asked: bool = False) -> Server:
        """Return the server at an address; ``asked``: for keys that are on their way to it."""
        if asked:
            self._asked[address] = clock.monotonic()
        server = self._servers.get(address)
        if server is None:
            node = ClusterNode(self, address)
            server = self._servers[address] = Server(node, Multiplexer(node))
        return server

    def client(self, address: Address) -> Redis:
        """Return the redis-py client of a server, which owns the pool of its connections."""
        known = self._clients.get(address)
        if known is None:
            client = self._make_client(address)
            known = self._clients[address] = client, hold_client(client, self.scope)
        return known[0]

    # Commands that are redirected

    def issue(self, command: Command) -> None:
        """Send a command to the server of its slot, or keep it for a while."""
        assert command.slot is not None
        owner = self.map.owners[command.slot]
        if owner is None or self._closed:
            self._park(command)
        else:
            self.server(owner).multiplexer.issue(command)

    def redirect(self, command: Command, reply: Exception, asked: Address) -> None:
        """Send a command that got such a reply to the right server, or again later."""
        self.note(reply, asked)
        command.hops += 1
        target = self.address_in(reply, asked) if is_ask(reply) else None
        if command.hops > MAX_HOPS or isinstance(reply, (ClusterDownError, TryAgainError)):
            self._park(command)
        elif target is not None:
            # Both are written in this order on one connection, with nothing between them.
            multiplexer = self.server(target, asked=True).multiplexer
            allowed = self.scope.loop.create_future()
            allowed.add_done_callback(ignore)
            multiplexer.issue(Command(pack("ASKING"), allowed, command.asked_at, True), command)
        else:
            self.issue(command)

    def note(self, reply: Exception | None, asked: Address) -> None:
        """Learn from such a reply; None: the server dropped a subscription unasked."""
        if isinstance(reply, MovedError):
            address = self.address_in(reply, asked)
            if address is not None and self.map.assign(reply.slot_id, address):
                self._notify_watchers()
        elif isinstance(reply, ClusterDownError):
            self.map.mark_down(str(reply))
        if not is_ask(reply):
            self.map.stale()

    def address_in(self, reply: MovedError | AskError, asked: Address) -> Address | None:
        """Return where a redirection points to."""
        return named_address(reply.host, reply.port, asked, self._remap)

    def _remap(self, address: Address) -> Address:
        """Translate an address as the user wants it; the error names the option."""
        remap = self.entry.remap
        try:
            return remap(address) if remap is not None else address
        except Exception as error:
            reason = f"hosts: address_remap raised {type(error).__name__}: {error} for {address}"
            # A retry can help where it has worked before, as everywhere.
            kind = ConnectionError if self.health.proven else ConfigurationError
            raise kind(reason) from error

    def _park(self, command: Command) -> None:
        if self._closed:
            self._fail(command, "the layer was closed")
            return
        self._parked.append(command)
        self.map.stale()
        if not self._unparking.running:
            self._unparking.start(PARKED_S)

    def _unpark(self) -> None:
        """Try again to send waiting commands, and fail those that have waited too long."""
        self._unparking.cancel()
        parked, self._parked = self._parked, []
        too_old = clock.monotonic() - self.context.connect_wait_s
        for command in parked:
            if command.asked_at <= too_old:
                self._fail(command, "no server serves the slot")
            elif not command.future.done():
                command.hops = 0
                self.issue(command)

    def _fail(self, command: Command, reason: str) -> None:
        command.fail(self.health.abandoned(reason, maybe_executed=command.may_have_run))

    # What the map asks for (see Surveyor)

    @property
    def waiting(self) -> bool:
        """Whether commands wait for their slot to have a server."""
        return bool(self._parked)

    def whom_to_ask(self) -> Iterator[Callable[[], Awaitable[Chart]]]:
        """Return the servers to query: connected ones, other known ones, those of the entry."""
        connected = [at for at, one in self._servers.items() if one.multiplexer.connected]
        known = list(self.map.primaries)
        seeds = list(self.entry.seeds)
        for group in (connected, known, seeds):
            random.shuffle(group)
        for address in dict.fromkeys((*connected, *known, *seeds)):
            yield partial(self._ask, address)

    async def _ask(self, address: Address) -> Chart:
        where, remap = self.health.name, self._remap
        server = self._servers.get(address)
        if server is not None and server.multiplexer.connected:
            call = server.multiplexer.call
            return await interview(
                lambda *words: call(pack(*words), True), address, remap, where=where
            )
        wire = await ClusterNode(self, address).connect()
        try:
            chart = await interview(wire.ask, address, remap, where=where)
        finally:
            await wire.close()
        if self.health.down and address in self.map.primaries:
            # While anything is lost, more queries follow, so a connection is kept for them.
            staying = self.server(address).multiplexer.call(pack("PING"), True)
            staying.add_done_callback(ignore)
        return chart

    def map_changed(self) -> None:
        """Move everything that waits at the wrong server to the right one."""
        self._notify_watchers()
        self._retire_others()
        for server in list(self._servers.values()):
            server.multiplexer.hand_on()

    def map_learnt(self) -> None:
        """Try again to place what waits."""
        self._unpark()

    def map_refused(self, error: ConfigurationError) -> None:
        """Raise in all who wait."""
        parked, self._parked = self._parked, []
        for command in parked:
            command.fail(error)

    def _notify_watchers(self) -> None:
        for watcher in tuple(self.watchers):
            watcher.map_changed()
        self.health.moved()

    # Ends

    def _retire_others(self) -> None:
        """Close the connections to all servers that are not in the map."""
        recently = clock.monotonic() - ASKED_S
        asked = {address for address, when in self._asked.items() if when > recently}
        for address in self._servers.keys() - set(self.map.primaries) - asked:
            server = self._servers.pop(address)
            self._asked.pop(address, None)
            server.node.retire()
            server.multiplexer.hand_on()
            self.health.gone(server.multiplexer)
            closing = self._close(server, self._clients.pop(address, None))
            self.scope.start(closing, f"close of {address[0]}:{address[1]}")

    async def _close(self, server: Server, known: tuple[Redis, Part] | None) -> None:
        """Close the connections to a server after the commands in flight had time to finish.

        Where this is cancelled, they are closed with the scope.
        """
        server.multiplexer.renew(MOVED_AWAY)
        # Readers take as long, and have their connections from the same pool.
        await asyncio.sleep(2 * RENEW_S)
        server.multiplexer.hand_on()
        await server.multiplexer.aclose()
        if known is not None:
            client, part = known
            # What is in use is closed by whoever uses it.
            await client.connection_pool.disconnect(inuse_connections=False)
            part.release()

    async def aclose(self) -> None:
        """Fail what could not be placed.  The scope closes the rest."""
        self._closed = True
        parked, self._parked = self._parked, []
        for command in parked:
            self._fail(command, "the layer was closed")


class NodeInCluster(Node):
    """A node of a cluster, whose map is read while replies are missing."""

    in_cluster: ClassVar[bool] = True

    def __init__(self, cluster: Servers, client: Callable[[], Redis]) -> None:
        super().__init__(client, cluster.context)
        self._cluster = cluster

    def reply_missing(self, user: object) -> None:
        """Read the map repeatedly while a user is missing a reply."""
        self._cluster.map.reply_missing(user)

    def reply_came(self, user: object) -> None:
        """Note that the user has got the reply, or no longer waits for it."""
        self._cluster.map.reply_came(user)


class ClusterNode(NodeInCluster):
    """One server of a cluster."""

    def __init__(self, cluster: Servers, address: Address) -> None:
        super().__init__(cluster, partial(cluster.client, address))
        self.address = address
        self._left: asyncio.Future[None] = cluster.scope.loop.create_future()

    async def dial(self) -> Wire:
        """Return a fresh connection; give up when the server leaves the map meanwhile."""
        if self.health.down:
            self._cluster.map.stale()
        name = f"channels_redis dial {self.address[0]}:{self.address[1]}"
        dialling = started(self.connect(), self.scope.loop, name)
        try:
            waiting: set[asyncio.Future[Any]] = {dialling, self._left}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if self.retired:
                raise ConnectionError(MOVED_AWAY)
            return await dialling
        except BaseException as error:
            dialling.cancel()
            try:
                await ended({dialling})
            finally:
                if not dialling.cancelled() and dialling.exception() is None:
                    await dialling.result().close()
            if isinstance(error, (RedisError, OSError)):
                self._cluster.map.stale()
            raise

    async def connect(self) -> Wire:
        """Return a fresh connection."""
        return await super().dial()

    def retire(self) -> None:
        """Note that the server is not in the map any more."""
        self.retired = True
        if not self._left.done():
            self._left.set_result(None)

    def renew(self, reason: str) -> None:
        """Replace all connections, and read the map again."""
        self._cluster.map.stale()
        super().renew(reason)

    def redirects(self, command: Command, reply: Exception) -> bool:
        """Take over a command that got an error reply, if it is to go elsewhere or later."""
        reply = recognised(reply)
        if command.slot is None or not is_elsewhere(reply):
            return False
        self._cluster.redirect(command, reply, self.address)
        return True

    def is_elsewhere(self, reply: Exception) -> bool:
        """Return whether an error reply says that another server, or none now, serves a name."""
        return is_elsewhere(recognised(reply))

    def note(self, reply: Exception | None) -> None:
        """Learn from such a reply; None: the server dropped a subscription unasked."""
        self._cluster.note(recognised(reply) if reply is not None else None, self.address)

    def reroute(self, commands: deque[Command]) -> list[Command]:
        """Remove and return the commands that now belong to other servers."""
        moving = [command for command in commands if not self._keeps(command)]
        if moving:
            staying = [command for command in commands if self._keeps(command)]
            commands.clear()
            commands.extend(staying)
        for command in moving:
            self._cluster.issue(command)
        return moving

    def _keeps(self, command: Command) -> bool:
        if command.slot is None:
            return True
        return not self.retired and self._cluster.owner(command.slot) == self.address

    def explain(self, error: Exception) -> Exception:
        """Return the error to raise; a redirection is no mistake in the options here."""
        if isinstance(error, AskError):  # MOVED is one to redis-py
            return error
        return super().explain(error)
