"""Everything of a layer that lives on one event loop: clients, connections, readers, timers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from channels.exceptions import ChannelFull

from ._config.hosts import is_cluster
from ._config.pools import startup_nodes
from ._format.histories import Histories, Log
from ._format.keyspace import Keyspace
from ._format.positions import Past, Position
from ._format.slots import Address
from ._runtime.portal import portal
from ._runtime.scope import Scope, Stage
from ._transport import deletion, logs, scripts
from ._transport.backend import Backend, SingleServer
from ._transport.cluster.cluster import Cluster
from ._transport.cluster.servers import Entry as ClusterEntry
from ._transport.commands import Commands
from ._transport.credentials import ClusterClient
from ._transport.node import NodeContext
from ._transport.reader import QueueOwner, QueueReader
from ._transport.wire import hold_client
from ._watch.events import Reporter, SenderClockUsed
from ._watch.outages import Health
from ._watch.tally import Tallies
from .exceptions import COMMAND_ERRORS, ConnectionLost

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

Loop = asyncio.AbstractEventLoop

#: The longest and the shortest interval between two checks of the mailboxes, in seconds.
SWEEP_S = 2.0
MIN_SWEEP_S = 0.05


class Frame(NamedTuple):
    """A message for one queue."""

    shard: int
    #: The key of the queue.
    key: str
    member: bytes
    bound: scripts.Bound


def failure_of(outcomes: list[bool | Exception]) -> Exception | None:
    """Return what to raise for a message to many queues: the first failure, which must not say
    that the message was not sent if some have it.
    """
    first = next((outcome for outcome in outcomes if isinstance(outcome, Exception)), None)
    if not isinstance(first, ConnectionLost) or first.maybe_executed:
        return first
    if any(outcome is True or getattr(outcome, "maybe_executed", False) for outcome in outcomes):
        return ConnectionLost(f"{first}; other receivers may have it", maybe_executed=True)
    return first


class SessionEnded(ConnectionLost):
    """A session ended while something was under way there; the layer may have a new one."""


@dataclass(frozen=True)
class Context:
    """What a session knows of its layer.  The callables do not hold the layer."""

    hosts: list[dict[str, Any]]
    expiry_s: float
    connect_wait_s: float
    command_timeout_s: float
    keyspace: Keyspace
    histories: Histories
    tallies: Tallies
    #: One for each entry of ``hosts``.
    healths: list[Health]
    report: Reporter
    #: Makes a client for an entry of ``hosts``, aimed at one server of a cluster if that is given;
    #: returns None where nobody holds the layer any more.
    make_client: Callable[[int, Address | None], Redis | RedisCluster | None]
    #: The ``connection()`` of a subclass that brings its own.
    own_connection: Callable[[int], Redis | RedisCluster | None] | None
    #: Looks after mailboxes and queues, on the session's loop.
    sweep: Callable[[Session], object]
    #: Tells the consumers of mailboxes that messages of groups with a history were missed.
    tell_missed: Callable[[Any], object]
    #: Closes the layer's session of the running loop.
    close: Callable[[], Awaitable[None]]
    #: Called when a loop was closed without warning.
    forget_loop: Callable[[Loop], object]


class Session:
    """The part of a layer that belongs to one event loop and ends with it.

    It does not hold the layer, and ends where nobody else does.
    """

    def __init__(self, context: Context, loop: Loop) -> None:
        self._context = context
        self.loop = loop
        #: Everything of this session that has to be ended, and how.
        self.scope = Scope(loop, self._closing)
        # The first part: waiting receive() calls must not be woken on a loop that has ended.
        self.scope.hold(Stage.RECEIVING, forget=self._forget)
        # The last one, so that messages that are sent at the end of the others are counted, too.
        self.scope.hold(Stage.CONNECTIONS, self._count, forget=self._close_tally)
        self._tally = context.tallies.open()
        self._pauses = 0
        self._clients: dict[int, Redis | RedisCluster] = {}
        self._backends: dict[int, Backend] = {}
        # Kept here, as what notifies them of new credentials has weak references.
        self._renewed: list[ClusterClient] = []
        self._readers: set[QueueReader] = set()
        self._sweep_s = max(MIN_SWEEP_S, min(SWEEP_S, context.expiry_s / 4))
        if portal.is_portal(loop):
            portal.host(self)
        self._sweeper = self.scope.timer(self._sweep)
        self._sweeper.start(self._sweep_s)

    @property
    def closing(self) -> bool:
        """Whether this session is about to end."""
        return self.scope.ended

    def client(self, shard: int) -> Redis | RedisCluster:
        """Return the redis-py client of a shard, which owns the pool of all connections.

        Raises :class:`SessionEnded` where it has to be made and nobody holds the layer any more.
        """
        client = self._clients.get(shard)
        if client is None:
            client = self._clients[shard] = self._make_client(shard)
            hold_client(client, self.scope)
            if is_cluster(self._context.hosts[shard]):
                whole = cast("RedisCluster", client)
                self._renewed.append(ClusterClient(whole, self.loop, self.background))
        return client

    def _make_client(self, shard: int, at: Address | None = None) -> Redis | RedisCluster:
        client = self._context.make_client(shard, at)
        if client is None:
            raise SessionEnded("Nobody holds the channel layer any more.")
        return client

    def clients(self) -> dict[int, Redis | RedisCluster]:
        """Return the clients that were made, by shard."""
        return dict(self._clients)

    def backend(self, shard: int) -> Backend:
        """Return what stands behind an entry of ``hosts`` on this loop."""
        backend = self._backends.get(shard)
        if backend is None:
            host = self._context.hosts[shard]
            make = self._cluster if is_cluster(host) else self._single_server
            backend = self._backends[shard] = make(shard)
        return backend

    def _single_server(self, index: int) -> Backend:
        return SingleServer(partial(self._connection, index), self._node_context(index))

    def _cluster(self, index: int) -> Backend:
        def make_client(address: Address) -> Redis:
            return cast("Redis", self._make_client(index, address))

        host = self._context.hosts[index]
        entry = ClusterEntry(
            startup_nodes(host), host.get("address_remap"), host.get("sharded_pubsub")
        )
        return Cluster(entry, make_client, self._node_context(index))

    def _node_context(self, index: int) -> NodeContext:
        return NodeContext(
            self._context.healths[index],
            self.scope,
            self._tally[index],
            self._context.connect_wait_s,
            self._context.command_timeout_s,
        )

    def _connection(self, shard: int) -> Redis:
        """Return what the layer's ``connection(shard)`` does; also while this session ends."""
        own = self._context.own_connection
        client = own(shard) if own is not None else None
        return cast("Redis", client or self.client(shard))

    def in_flight(self) -> Counter[int]:
        """Return how many commands wait for their replies, by shard; from any thread."""
        backends = list(self._backends.items())
        return Counter({shard: backend.pending for shard, backend in backends})

    @property
    def busy(self) -> bool:
        """Whether a call waits for a reply on this loop."""
        return any(backend.pending for backend in self._backends.values())

    def commands(self, shard: int, key: bytes | str) -> Commands:
        """Return what sends short commands about a key, over a shared connection."""
        there = self._backends.get(shard) or self.backend(shard)
        return there.commands(key)

    def start_reader(
        self, queue: QueueOwner, shard: int, before: QueueReader | None
    ) -> QueueReader | None:
        """Start the reader of a queue on one shard, in place of one that was replaced, if there is
        one; None if this session is about to end.
        """
        if self.closing or self._pauses:
            return None
        there = self.backend(shard)
        reader = QueueReader(queue, there.node(queue.key), there.commands(queue.key), before)
        self._readers.add(reader)
        assert reader.task is not None  # it has just begun
        reader.task.add_done_callback(lambda _: self._readers.discard(reader))
        return reader

    @property
    def readers(self) -> int:
        """How many readers run, each with a connection of its own."""
        return len(self._readers)

    @property
    def receiving(self) -> bool:
        """Whether messages are received on this loop."""
        return any(reader.wanted for reader in self._readers)

    def background(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a coroutine in a task whose end this session awaits."""
        return self.scope.start(work, name)

    async def send(self, channel: str, frame: Frame) -> None:
        """Add a message for a channel to its queue; raise ``ChannelFull`` if that is full."""
        shard, key, member, bound = frame
        commands = self.commands(shard, key)
        adding = scripts.send(commands, key, member, self._context.expiry_s, bound)
        commands.push()
        if not self._added(shard, await adding):
            raise ChannelFull(channel)

    async def send_all(self, frames: list[Frame]) -> list[bool | Exception]:
        """Add messages to many queues, all in one tick; return which were added, or why not."""
        issued: list[tuple[Commands, asyncio.Future[Any]]] = []
        for shard, key, member, bound in frames:
            commands = self.commands(shard, key)
            adding = scripts.send(commands, key, member, self._context.expiry_s, bound)
            issued.append((commands, adding))
        for commands, _ in issued:
            commands.push()
        outcomes: list[bool | Exception] = []
        try:
            for frame, (_, adding) in zip(frames, issued, strict=True):
                try:
                    outcomes.append(self._added(frame.shard, await adding))
                except COMMAND_ERRORS as error:
                    outcomes.append(error)
        finally:
            for _, adding in issued[len(outcomes) :]:
                if not self.loop.is_closed():
                    adding.cancel()  # takes a command back that was not written yet
        return outcomes

    def _added(self, shard: int, result: int) -> bool:
        if result & scripts.SENDER_CLOCK:
            self._context.report(SenderClockUsed(self._context.healths[shard].name))
        if result & scripts.ADDED:
            self._tally[shard].sent += 1
            return True
        self._tally[shard].refused += 1
        return False

    async def publish(self, shard: int, topic: str, payload: bytes) -> None:
        """Publish a message."""
        there = self._backends.get(shard) or self.backend(shard)
        await there.publish(topic, payload)
        self._tally[shard].sent += 1

    # The logs of groups with a history

    async def append(
        self, shard: int, log: Log, payload: bytes, known: Position, *, published: bool = True
    ) -> Position:
        """Append a message or a break to a log, and publish it; return the newest position."""
        there = self.backend(shard)
        way = await there.way() if published else logs.UNPUBLISHED
        new = logs.Append(log, payload, known)
        position, _ = await logs.append(lambda: there.commands(log.key), new, way)
        self._context.histories.note(log, position)
        return position

    async def append_and_list(
        self,
        shard: int,
        log: Log,
        payload: bytes,
        members: Callable[[logs.Reply], Awaitable[list[str]]],
    ) -> tuple[Position, list[str]]:
        """Append a message to a log, and list the members of its group directly after that."""
        histories, there = self._context.histories, self.backend(shard)
        new = logs.Append(log, payload, histories.newest(log))
        appending = logs.append(lambda: there.commands(log.key), new, logs.UNPUBLISHED, members)
        position, listed = await appending
        histories.note(log, position)
        return position, listed or []

    async def past(self, shard: int, log: Log, offset: int, limit: int) -> Past:
        """Return the newest position of a group, and entries of its log (see :mod:`.logs`)."""
        return await logs.past(self.commands(shard, log.key), log, offset, limit)

    async def delete_keys(self, names: set[str] | None = None) -> None:
        """Delete the layer's keys on every shard: all of them, or these queues."""
        await asyncio.gather(
            *[
                self._delete_keys(self.backend(index), names)
                for index in range(len(self._context.hosts))
            ]
        )

    async def _delete_keys(self, backend: Backend, names: set[str] | None) -> None:
        keyspace, at = self._context.keyspace, backend.commands
        if names is None:
            nodes = await backend.everywhere()
            await asyncio.gather(*[deletion.delete_owned(node, at, keyspace) for node in nodes])
        else:
            await deletion.delete_keys(at, [keyspace.queue(name).encode() for name in names])
            if self._context.histories.on:
                nodes = await backend.everywhere()
                deleting = [deletion.delete_histories(node, at, keyspace) for node in nodes]
                await asyncio.gather(*deleting)

    @contextlib.asynccontextmanager
    async def without_readers(self) -> AsyncIterator[None]:
        """Keep the readers of this loop from running for a while; what they popped stays."""
        self._pauses += 1
        try:
            await self._stop_readers()
            yield
        finally:
            self._pauses -= 1

    async def _stop_readers(self) -> None:
        readers = list(self._readers)
        for reader in readers:
            reader.stop()
        await asyncio.gather(*[reader.aclose() for reader in readers])

    def _closing(self) -> None:
        """Do what comes before all connections are closed."""

    async def _count(self) -> None:
        self._close_tally()

    def _close_tally(self) -> None:
        self._context.tallies.close(self._tally)

    async def rest(self) -> None:
        """Close what is not in use; it is created again when it is needed."""
        unwanted = [reader for reader in self._readers if not reader.wanted]
        await asyncio.gather(*[reader.aclose() for reader in unwanted])
        backends = list(self._backends.values())
        await asyncio.gather(*[one.rest(alone=not self.receiving) for one in backends])
        for client in list(self._clients.values()):
            pool = getattr(client, "connection_pool", None)  # the one for a cluster has many
            if pool is not None:
                await pool.disconnect(inuse_connections=False)

    async def retire(self) -> None:
        """End, unless this session is in use; the layer creates another one when it is needed."""
        if not (self.closing or self.receiving or self.busy):
            await self._context.close()

    def _forget(self) -> None:
        """Do what can be done after the loop was closed without warning."""
        self._context.forget_loop(self.loop)

    def _sweep(self) -> None:
        self._sweeper.start(self._sweep_s)
        self._context.sweep(self)
