"""A Redis Cluster: one multiplexer per primary, and commands that follow their slots.

A command whose slot has moved goes where the server says; one that can't be placed waits a
little.  Servers that come and go are found in the map (see :mod:`.map`).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import weakref
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    TryAgainError,
)

from ..._format.slots import Address, Remap, Served, named_address, slot_of
from ..._runtime import clock
from ..._runtime.scope import Part, Scope, Stage
from ..._runtime.tasks import ignore
from ..._watch.outages import Health
from ..._watch.tally import NodeTally
from ...exceptions import ConfigurationError
from ..commands import Command, Commands, is_ask
from ..multiplexer import Multiplexer
from ..node import RENEW_S, Node
from ..packing import pack
from ..wire import hold_client
from .map import SlotMap
from .nodes import MOVED_AWAY, ClusterNode, Route, SlotNode
from .survey import Chart, interview

if TYPE_CHECKING:
    from redis.asyncio import Redis

#: How long a command that can't be placed waits for its next try.
PARKED_S = 0.1
#: A command that is sent on so often waits a little before the next time.
MAX_HOPS = 8
#: Bytes before each message on sharded Pub/Sub, unlike those before any other: while a replica
#: takes over, servers of both roles pass a message on, and a subscriber of both hears it twice.
MARK_BYTES = 16
#: How long a server that is asked for keys under migration need not be in the map.
ASKED_S = 10.0


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


class Cluster:
    """All servers of one cluster, as one event loop sees them.

    ``make_client`` makes the redis-py client of one server, whose pool is aimed at it.
    """

    def __init__(
        self,
        entry: Entry,
        make_client: Callable[[Address], Redis],
        health: Health,
        scope: Scope,
        tally: NodeTally,
        *,
        connect_wait_s: float,
        command_timeout_s: float,
    ) -> None:
        self.entry = entry
        self.health = health
        self.scope = scope
        self.tally = tally
        self.connect_wait_s = connect_wait_s
        self.command_timeout_s = command_timeout_s
        self.map = SlotMap(self, health, scope)
        self.hash_forbidden = False
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
        self._published = itertools.count()
        self._mark = os.urandom(MARK_BYTES - 8)

    @property
    def sharded(self) -> bool:
        """Whether messages go by sharded Pub/Sub; final once the map is known."""
        return self.map.sharded if self.entry.sharded is None else self.entry.sharded

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

    # What a session needs (see Shard)

    @property
    def pending(self) -> int:
        """Number of commands that wait for their replies."""
        return len(self._parked) + sum(
            one.multiplexer.pending for one in list(self._servers.values())
        )

    def commands(self, key: bytes | str) -> Commands:
        """Return what sends commands about a key."""
        return Route(self, slot_of(key))

    def node(self, key: bytes | str) -> Node:
        """Return where to dial for a key."""
        node = SlotNode(self, slot_of(key))
        self.watchers.add(node)
        return node

    def publish(self, topic: str, payload: bytes) -> Awaitable[Any]:
        """Publish something, by the kind of Pub/Sub that all use."""
        if not self.map.known:
            return self._publish_later(topic, payload)
        if self.sharded:
            mark = self._mark + next(self._published).to_bytes(8, "big")
            command = pack("SPUBLISH", topic, mark + payload)
        else:
            command = pack("PUBLISH", topic, payload)
        commands = self.commands(topic)
        reply = commands.call(command)
        commands.push()
        return reply

    async def _publish_later(self, topic: str, payload: bytes) -> Any:
        await self.map.wait_until_known(self.connect_wait_s)
        return await self.publish(topic, payload)

    def served(self) -> Served:
        """Return who serves which key just now, as far as is known."""
        return Served(tuple(self.map.owners))

    async def everywhere(self) -> list[Commands]:
        """Return what sends to each server that has keys."""
        await self.map.wait_until_known(self.connect_wait_s)
        return [self.server(address).multiplexer for address in self.map.primaries]

    # Commands that do not stay where they were sent

    def issue(self, command: Command) -> None:
        """Send a command to the server of its slot, or keep it for a while."""
        assert command.slot is not None
        owner = self.map.owners[command.slot]
        if owner is None or self._closed:
            self._park(command)
        else:
            self.server(owner).multiplexer.issue(command)

    def redirect(self, command: Command, reply: Exception, asked: Address) -> None:
        """Send a refused command where it belongs, or later again."""
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
        """Learn from a refusal; None: the server dropped a subscription unasked."""
        if isinstance(reply, MovedError):
            address = self.address_in(reply, asked)
            if address is not None and self.map.assign(reply.slot_id, address):
                self._tell()
        elif isinstance(reply, ClusterDownError):
            self.map.suffer(str(reply))
        if not is_ask(reply):
            self.map.stale()

    def address_in(self, reply: MovedError | AskError, asked: Address) -> Address | None:
        """Return where a redirection points to."""
        return named_address(reply.host, reply.port, asked, self._remap)

    def _remap(self, address: Address) -> Address:
        """Translate an address as the user wants it; what goes wrong there is told by a name."""
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
        """Try again to place what waits, and fail what has waited too long."""
        self._unparking.cancel()
        parked, self._parked = self._parked, []
        too_old = clock.monotonic() - self.connect_wait_s
        for command in parked:
            if command.asked_at <= too_old:
                self._fail(command, "no server serves the slot")
            elif not command.future.done():
                command.hops = 0
                self.issue(command)

    def _fail(self, command: Command, reason: str) -> None:
        command.fail(self.map.lost(reason, maybe_executed=command.may_have_run))

    # What the map asks for (see Surveyor)

    @property
    def waiting(self) -> bool:
        """Whether commands wait for their slot to have a server."""
        return bool(self._parked)

    def whom_to_ask(self) -> Iterator[Callable[[], Awaitable[Chart]]]:
        """Return whom to ask: connected servers, other known ones, the ones of the entry."""
        connected = [at for at, one in self._servers.items() if one.multiplexer.connected]
        known = list(self.map.primaries)
        seeds = list(self.entry.seeds)
        for group in (connected, known, seeds):
            random.shuffle(group)
        for address in dict.fromkeys((*connected, *known, *seeds)):
            yield partial(self._ask, address)

    async def _ask(self, address: Address) -> Chart:
        where, remap = self.health.node, self._remap
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
            # More questions follow while anything is lost, which a connection that stays will take.
            staying = self.server(address).multiplexer.call(pack("PING"), True)
            staying.add_done_callback(ignore)
        return chart

    def map_changed(self) -> None:
        """Have all who wait at the wrong server go to the right one."""
        self._tell()
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

    def _tell(self) -> None:
        for watcher in tuple(self.watchers):
            watcher.map_changed()
        self.health.moved()

    # Ends

    def _retire_others(self) -> None:
        """Let go of all servers that are not in the map."""
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
        """Close the connections to a server once what is under way has had its chance.

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

    async def rest(self, *, alone: bool) -> None:
        """Close the connections for commands that nobody needs just now."""
        await asyncio.gather(*[one.multiplexer.rest() for one in self._servers.values()])

    async def aclose(self) -> None:
        """Fail what could not be placed.  The scope closes the rest."""
        self._closed = True
        parked, self._parked = self._parked, []
        for command in parked:
            self._fail(command, "the layer was closed")
