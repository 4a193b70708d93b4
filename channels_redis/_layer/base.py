"""The common part of both layers: options, checks, serialization, events for consumers, closing."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from .._config import keywords, options, pools
from .._config.hosts import describe_host, doctor_command, is_cluster, redact_hosts
from .._config.presence import check_presence
from .._config.secrets import Secrets
from .._format.encryption import Binding, person_secret
from .._format.keyspace import Keyspace, consistent_hash, random_hex
from .._format.slots import Address
from .._receiving.mailboxes import Mailboxes
from .._receiving.queues import LocalQueue
from .._runtime import fork
from .._runtime.loops import LoopStates
from .._runtime.plans import Plan, run, run_blocking, submit
from .._runtime.weakly import weakly
from .._session import Context, Session
from .._watch.events import Event, Hooks, Operation, Reporter, timed
from .._watch.outages import Health, Outage
from .._watch.tally import Tallies
from .._watch.traces import SendTracer
from ..exceptions import ConfigurationError, InvalidName, LayerClosed, MessageTooLarge
from ..stats import LayerStats, NodeStats
from ..sync import SyncFace
from .encoding import Encoding, is_separable, make_binding
from .presence import PresenceLayer

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool, Redis, RedisCluster

Loop = asyncio.AbstractEventLoop

#: The error text for waiting receivers.
CLOSED = "The channel layer was closed while receive() waited."

#: Seconds that flush() and close() wait for the other event loops of the process.
OTHER_LOOPS_S = 1.0


class BaseRedisLayer(PresenceLayer):
    """The base class of both channel layers.

    Constructing a layer opens no connection and needs no event loop. One object can be used by any
    number of threads and event loops.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]
    # Channels' specification has both of them on the layer.
    ChannelFull: ClassVar[type[Exception]] = ChannelFull
    MessageTooLarge = MessageTooLarge

    def __init__(  # noqa: PLR0913 (the options are Channels' and earlier releases')
        self,
        hosts: Any = None,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = options.CAPACITY,
        channel_capacity: Any = None,
        symmetric_encryption_keys: Any = None,
        random_prefix_length: int = 12,
        serializer_format: str = "msgpack",
        *,
        on_disconnect: str | None = None,
        on_reconnect: str | None = None,
        max_message_bytes: int = options.MAX_MESSAGE_BYTES,
        max_buffered_bytes: int = options.MAX_BUFFERED_BYTES,
        max_queued_bytes: int = options.MAX_QUEUED_BYTES,
        connect_wait_s: float = 3,
        command_timeout_s: float = 10,
        serializer_default: Any = None,
        encryption_binding: str = "off",
        history: Any = None,
        max_catch_up: int = options.MAX_CATCH_UP,
        presence: Any = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            keywords.refuse_host_keywords(unknown, hosts)
            parameters = inspect.signature(BaseRedisLayer).parameters.values()
            options.refuse_unknown(
                unknown, [one.name for one in parameters if one.kind is not one.VAR_KEYWORD]
            )
        self._has_capacity = capacity is not options.CAPACITY
        super().__init__(capacity=options.check_count("capacity", capacity))
        self.expiry = options.check_seconds("expiry", expiry)
        self.channel_capacity = self.compile_capacities(options.check_capacities(channel_capacity))
        self.hosts = pools.decode_hosts(hosts)
        self.ring_size = len(self.hosts)
        self.prefix = options.check_prefix(prefix)
        self.group_expiry = options.check_seconds("group_expiry", group_expiry)
        self.on_disconnect = options.check_event_type("on_disconnect", on_disconnect)
        self.on_reconnect = options.check_event_type("on_reconnect", on_reconnect)
        self.max_message_bytes = options.check_count("max_message_bytes", max_message_bytes)
        self.max_buffered_bytes = options.check_count("max_buffered_bytes", max_buffered_bytes)
        self.max_queued_bytes = options.check_count("max_queued_bytes", max_queued_bytes)
        self.connect_wait_s = options.check_seconds("connect_wait_s", connect_wait_s)
        self.command_timeout_s = options.check_seconds("command_timeout_s", command_timeout_s)
        self.random_prefix_length = options.check_random_prefix_length(random_prefix_length)
        self.serializer_default = options.check_default(serializer_default)
        self.encryption_binding = options.check_binding(encryption_binding)
        self.history = self._compiled_rules(options.check_history(history))
        self.max_catch_up = options.check_count("max_catch_up", max_catch_up)
        self._serializer = self._serializer_for(serializer_format, symmetric_encryption_keys)
        self._binding = self._make_binding(symmetric_encryption_keys)
        self.presence = check_presence(presence)
        self._person_secret = person_secret(symmetric_encryption_keys)
        #: Whether a subclass brings its own ``connection()``.
        self.has_own_connections = type(self).connection is not BaseRedisLayer.connection
        self._keys = Keyspace(self.prefix)
        self._check_history_slots()
        self._check_presence_slots()
        self._take_no_hooks()
        self._start_afresh()
        fork.watch(self)

    def _serializer_for(self, serializer_format: str, symmetric_encryption_keys: Any) -> Any:
        try:
            return self._make_serializer(serializer_format, symmetric_encryption_keys)
        except TypeError as error:
            if self.serializer_default is None or isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(
                f"serializer_default: the class of the format {serializer_format!r} does not "
                f"take a keyword default: {error}."
            ) from error

    def _make_serializer(self, serializer_format: str, symmetric_encryption_keys: Any) -> Any:
        raise NotImplementedError

    @property
    def _overrides_serialization(self) -> bool:
        mine = BaseRedisLayer
        return (
            type(self).serialize is not mine.serialize
            or type(self).deserialize is not mine.deserialize
        )

    def _make_binding(self, keys: Any) -> Binding | None:
        separable = not self._overrides_serialization and is_separable(self._serializer)
        crypter = self._serializer.crypter if separable else None
        return make_binding(crypter, keys, self.encryption_binding)

    def _make_encoding(self) -> Encoding:
        overrides = None
        if self._overrides_serialization:
            overrides = weakly(self.serialize, b""), weakly(self.deserialize, None)
        return Encoding(self._serializer, self._binding, self.max_message_bytes, overrides)

    def _start_afresh(self) -> None:
        """Create all state except the options: for a new object, a copy or a forked child."""
        self.client_prefix = random_hex()
        self._encoding = self._make_encoding()
        self._people = self._make_people()
        self._report = Reporter(self._logger, self._on_event)
        self._tallies = Tallies(self.ring_size)
        self._outage = Outage(weakly(self._outage_changed, None))
        self._health = [
            Health(
                describe_host(host),
                self._report,
                self._outage,
                Secrets(host),
                doctor_command(host),
            )
            for host in self.hosts
        ]
        self._mailboxes = Mailboxes(
            weakly(self._capacity_set, None),
            weakly(self._dropped, None),
            self.expiry,
            self.group_expiry,
            self.max_buffered_bytes,
        )
        self._queues: dict[str, LocalQueue] = {}
        self._histories = self._make_histories()
        self._closings = 0
        self._sessions: LoopStates[Any] = LoopStates(self._make_session)
        self._turn = itertools.count()

    def __copy__(self) -> BaseRedisLayer:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._take_no_hooks()
        twin._start_afresh()
        fork.watch(twin)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> BaseRedisLayer:
        return self.__copy__()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hosts={redact_hosts(self.hosts)}, prefix={self.prefix!r})"

    @property
    def sync(self) -> SyncFace:
        """The blocking methods of the layer, for code without an event loop."""
        return SyncFace(self, self._prepare, self._run_blocking)

    # Names and bytes

    def serialize(self, message: Any) -> bytes:
        """Return a message as the bytes that go on the wire."""
        data: bytes = self._serializer.serialize(message)
        return data

    def deserialize(self, message: bytes) -> Any:
        """Undo :meth:`serialize`."""
        return self._serializer.deserialize(message)

    def _check_channel(self, name: Any) -> None:
        self._check_name("Channel", name, self.require_valid_channel_name)

    def _check_group(self, name: Any) -> None:
        self._check_name("Group", name, self.require_valid_group_name)

    def _check_name(self, kind: str, name: Any, require_valid: Callable[[Any], object]) -> None:
        try:
            require_valid(name)
        except TypeError as error:
            raise InvalidName(str(error)) from None
        # Channels' patterns let digits and letters of all scripts pass, and a last line feed.
        if not name.isascii() or name.endswith("\n"):
            raise InvalidName(self.invalid_name_error.format(kind))

    def _check_names(self, what: str, names: Any) -> frozenset[str]:
        """Return a set of names of channels."""
        if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
            raise InvalidName(
                f"{what} must be a list of channel names, such as "
                f"[self.channel_name], not {type(names).__name__}."
            )
        checked = tuple(names)
        for name in checked:
            self._check_channel(name)
        return frozenset(checked)

    # Hosts and connections

    def create_pool(self, index: int) -> ConnectionPool:
        """Return a new connection pool for the host with this index; opens no connection."""
        return pools.create_pool(self.hosts[index])

    def connection(self, index: int) -> Redis | RedisCluster:
        """Return this event loop's client of the host with this index; replies are bytes.

        If the host is a cluster, it is a ``redis.asyncio.RedisCluster``. Raises ``ValueError`` for
        an invalid index.
        """
        if not 0 <= index < self.ring_size:
            raise ValueError(f"There is no host {index}; the ring has {self.ring_size}.")
        fork.check()
        client: Redis | RedisCluster = self._sessions.get().client(index)
        return client

    def consistent_hash(self, name: str | bytes) -> int:
        """Return the index of the host for a name."""
        return consistent_hash(name, self.ring_size) if self.ring_size > 1 else 0

    def _make_client(self, index: int, at: Address | None = None) -> Redis | RedisCluster:
        """Return a client of a host, or of the given server of a cluster."""
        if at is not None:
            return pools.create_client(pools.aim_pool(self.create_pool(index), at))
        if is_cluster(self.hosts[index]):
            return pools.create_cluster_client(self.hosts[index])
        return pools.create_client(self.create_pool(index))

    def _make_session(self, loop: Loop) -> Session:
        return Session(self._context(), loop)

    def _context(self) -> Context:
        own_connection = weakly(self.connection, None) if self.has_own_connections else None
        return Context(
            hosts=self.hosts,
            expiry_s=self.expiry,
            connect_wait_s=self.connect_wait_s,
            command_timeout_s=self.command_timeout_s,
            keyspace=self._keys,
            histories=self._histories,
            tallies=self._tallies,
            healths=self._health,
            report=self._report,
            make_client=weakly(self._make_client, None),
            own_connection=own_connection,
            sweep=weakly(self._sweep, None),
            tell_missed=weakly(self._tell_missed, None),
            close=self._sessions.aclose,
            forget_loop=self._mailboxes.forget_loop,
        )

    # Capacities

    @property
    def _tells_channels_apart(self) -> bool:
        """Whether the capacity of a channel depends on its name."""
        own = type(self).get_capacity is not BaseChannelLayer.get_capacity
        return own or bool(self.channel_capacity)

    def _capacity_set(self, channel: str) -> int | None:
        """Return the capacity that the user has set for a channel; None if there is none.

        An explicit capacity limits the queue and the mailbox of a channel. If none is set, the
        queue of a general channel is limited to 100 messages, and mailboxes and the queue of a
        process are limited by bytes and by age, because a burst of short messages is no sign of a
        slow consumer.
        """
        capacity = int(self.get_capacity(channel))
        if self._has_capacity or capacity != options.CAPACITY:
            return capacity
        for pattern, _ in self.channel_capacity:
            if pattern.match(channel):
                return capacity  # which is set to the same number
        return None

    # Members of groups

    async def group_channels(self, group: str) -> list[str]:
        """Return the names of a group's members, in the order in which they joined.

        core: the channels that ``group_send()`` would address now, in all processes. Members of a
        killed process stay for up to 42 seconds.
        pubsub: the members of a group with presence (see the option ``presence``); raises
        :class:`Unsupported` for other groups, because a process does not know the members of
        others.
        """
        channels: list[str] = await self._run("group_channels", self._group_channels_plan, group)
        return channels

    async def group_size(self, group: str) -> int:
        """Return the number of names that :meth:`group_channels` would return, without fetching
        them.

        Raises :class:`Unsupported` on pubsub, except for groups with presence.
        """
        size: int = await self._run("group_size", self._group_size_plan, group)
        return size

    # Ends

    async def flush(self) -> None:
        """Delete all messages in this process and the layer's keys in Redis.

        core deletes all its queues and groups on every host. pubsub removes all channels of this
        process from their groups, and deletes the queues of the general channels that were used
        here. Waiting ``receive()`` calls continue to wait.
        """
        await self._run("flush", self._flush_plan)

    def _flush_plan(self) -> Plan:
        return self._flush_here

    async def _flush_here(self, session: Any) -> None:
        try:
            await self._flush_without_readers(session)
        except BaseException:
            # Commands in flight would delete messages that are sent from now on.
            await self._sessions.aclose()
            raise
        # Those in a handler subscribe and are read for again with their next receive().
        if not self._mailboxes.waiting() and not session.busy:
            await self._sessions.aclose()

    async def _flush_without_readers(self, session: Any) -> None:
        try:
            async with session.without_readers():
                self._mailboxes.empty()
                await self._forget_groups(session)
                await session.delete_keys(self._queues_to_delete())
        finally:
            for queue in list(self._queues.values()):
                queue.resume()

    async def _forget_groups(self, session: Any) -> None:
        """Leave the groups that are known to this process alone."""

    def _queues_to_delete(self) -> set[str] | None:
        """Return the names of the queues that ``flush()`` deletes; None for all keys."""
        return None

    async def close(self) -> None:
        """Close all readers and connections, on all event loops of this process.

        Waiting ``receive()`` calls raise :class:`LayerClosed`. The layer works again if it is used
        again.
        """
        await self._run("close", self._close_plan)

    def _close_plan(self) -> Plan:
        return self._close_here

    async def _close_here(self, session: Any) -> None:
        self._closings += 1
        self._mailboxes.fail(LayerClosed(CLOSED), session.loop)
        # The readers put back the messages that were not taken, before the rest is dropped.
        await self._on_all_loops(lambda _: self._sessions.aclose(), session)
        self._mailboxes.empty()

    async def _on_all_loops(self, work: Plan, session: Any) -> None:
        """Run something with every session, each on its own loop, with a time limit for other
        loops.
        """
        others = []
        for loop, other in self._sessions.all().items():
            if loop is not session.loop and loop.is_running():
                others.append(asyncio.wrap_future(submit(partial(work, other), loop)))
        await work(session)
        if others:
            done = asyncio.gather(*others, return_exceptions=True)
            await asyncio.wait({done}, timeout=OTHER_LOOPS_S)

    def _after_fork(self) -> Any:
        """Reset the state in a forked child; return the inherited state, to be kept alive."""
        entries = self._sessions.inherited()
        for entry in entries:
            entry.state.scope.silence()
        inherited = (entries, self._sessions, self._mailboxes, self._queues)
        self._start_afresh()
        return inherited

    # What operators see

    def _take_no_hooks(self) -> None:
        self._on_event: Hooks[Event] = Hooks(self._logger)
        self._on_operation: Hooks[Operation] = Hooks(self._logger)
        self._send_tracer: SendTracer | None = None

    def stats(self) -> LayerStats:
        """Return the statistics of the layer in this process.

        May be called in any thread, with or without an event loop. Sends no command to a server.
        """
        fork.check()
        in_flight: Counter[int] = Counter()
        for session in self._sessions.all().values():
            in_flight += session.in_flight()
        nodes = tuple(
            NodeStats(
                health.name,
                tally.sent,
                tally.refused,
                tally.received,
                in_flight[shard],
                health.reconnects,
                *health.seconds(),
            )
            for shard, (health, tally) in enumerate(
                zip(self._health, self._tallies.total(), strict=True)
            )
        )
        mailboxes, waiting, buffered, buffered_bytes = self._mailboxes.census()
        outage_s, outage_total_s = self._outage.seconds()
        keepers = self._all_keepers()
        return LayerStats(
            sent=sum(node.sent for node in nodes),
            refused=sum(node.refused for node in nodes),
            received=sum(node.received for node in nodes),
            in_flight=in_flight.total(),
            reconnects=sum(node.reconnects for node in nodes),
            delivered=self._mailboxes.delivered(),
            dropped=self._report.drops(),
            unreadable_queues=self._report.unreadable_queues,
            outage_s=outage_s,
            outage_total_s=outage_total_s,
            mailboxes=mailboxes,
            waiting=waiting,
            buffered=buffered,
            buffered_bytes=buffered_bytes,
            dead_processes=keepers.dead_processes if keepers is not None else 0,
            announced_leaves=keepers.announced_leaves if keepers is not None else 0,
            nodes=nodes,
        )

    def on_event(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``callback`` with each event of :mod:`channels_redis.events`, in this process and
        its forked children; return the function that removes it.

        It may be called in any thread, and must be fast. Its exceptions are logged, once a minute.
        """
        return self._on_event.add(callback)

    def on_operation(self, callback: Callable[[Operation], None]) -> Callable[[], None]:
        """Call ``callback`` with each finished :class:`~channels_redis.events.Operation`, like
        :meth:`on_event`.
        """
        return self._on_operation.add(callback)

    def trace_sending(self, tracer: SendTracer) -> Callable[[], None]:
        """Enter ``tracer(operation, arguments)``, a context manager, around each operation, and use
        the arguments that it yields; return the function that ends this.

        For ``send()`` and ``group_send()`` the arguments are the channel or group and the message.
        There is one tracer; a new one replaces it. See :func:`channels_redis.tracing.trace`.
        """
        self._send_tracer = tracer

        def end() -> None:
            if self._send_tracer is tracer:
                self._send_tracer = None

        return end

    async def _run(self, operation: str, prepare: Callable[..., Plan], *args: Any) -> Any:
        """Do an operation: ``prepare(*args)`` is its first part."""
        fork.check()
        if not (self._on_operation.callbacks or self._send_tracer):
            return await run(partial(prepare, *args), self._sessions)
        with self._watched(operation, args) as traced:
            return await run(partial(prepare, *traced), self._sessions)

    @contextmanager
    def _watched(self, operation: str, args: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        """Time and trace an operation; yield the arguments to use."""
        with timed(operation, self._on_operation):
            if self._send_tracer is None:
                yield args
                return
            with self._send_tracer(operation, args) as traced:
                yield traced

    def _prepare(self, operation: str, *args: Any, **keywords: Any) -> Plan:
        """Do the first part of an operation."""
        plan: Plan = getattr(self, f"_{operation}_plan")(*args, **keywords)
        return plan

    def _run_blocking(
        self, operation: str, timeout_s: float | None, *args: Any, **keywords: Any
    ) -> Any:
        """Do an operation in a thread without an event loop."""
        prepare = partial(self._prepare, operation, **keywords)
        if not (self._on_operation.callbacks or self._send_tracer):
            return run_blocking(partial(prepare, *args), self._sessions, timeout_s)
        with self._watched(operation, args) as traced:
            return run_blocking(partial(prepare, *traced), self._sessions, timeout_s)

    # The first parts of operations, which both layers define, beside those of their own methods

    def _group_channels_plan(self, group: str) -> Plan:
        raise NotImplementedError

    def _group_size_plan(self, group: str) -> Plan:
        raise NotImplementedError
