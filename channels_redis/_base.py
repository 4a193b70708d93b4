"""What both layers share: options, checks, serializing, queues, events for consumers, close."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import itertools
import logging
from typing import TYPE_CHECKING, Any, ClassVar

from channels.layers import BaseChannelLayer

from . import _fork, utils
from . import _options as options
from ._events import MessagesDropped, Reporter
from ._keyspace import ADDRESS_KEY, NONCE_KEY, Keyspace, random_hex
from ._loops import LoopStates, running_loop, running_loop_or_none
from ._mailbox import Mailbox, Mailboxes
from ._messages import Item, Original, Packed, Whole, splits_at_will
from ._outages import Health, Outage
from ._portal import portal
from ._queues import LocalQueue
from ._session import Session
from ._steps import Steps, run
from .exceptions import InvalidName, LayerClosed, MessageTooLarge
from .sync import SyncFace

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool, Redis

Loop = asyncio.AbstractEventLoop


class BaseRedisLayer(BaseChannelLayer):  # type: ignore[misc]  # Channels has no annotations
    """The options and the machinery of a channel layer on Redis.

    Constructing one opens nothing and needs no event loop; one object serves any number of
    threads and event loops.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]
    MessageTooLarge = MessageTooLarge

    _logger: ClassVar[logging.Logger]
    #: Whether an outage of Redis can lose messages that were sent in it.
    _loses_in_outage: ClassVar[bool]

    def __init__(  # noqa: PLR0913 (the options are Channels' and earlier releases')
        self,
        hosts: Any = None,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Any = None,
        symmetric_encryption_keys: Any = None,
        random_prefix_length: int = 12,
        serializer_format: str = "msgpack",
        *,
        on_disconnect: str | None = None,
        on_reconnect: str | None = None,
        max_message_bytes: int = options.MAX_MESSAGE_BYTES,
        connect_wait_s: float = 3,
        command_timeout_s: float = 10,
        **unknown: Any,
    ) -> None:
        if unknown:
            parameters = inspect.signature(BaseRedisLayer).parameters.values()
            options.refuse_unknown(
                unknown, [one.name for one in parameters if one.kind is not one.VAR_KEYWORD]
            )
        super().__init__(
            expiry=options.check_seconds("expiry", expiry),
            capacity=options.check_count("capacity", capacity),
        )
        self.channel_capacity = self.compile_capacities(options.check_capacities(channel_capacity))
        self.hosts = utils.decode_hosts(hosts)
        self.ring_size = len(self.hosts)
        self.prefix = options.check_prefix(prefix)
        self.group_expiry = options.check_seconds("group_expiry", group_expiry)
        self.on_disconnect = options.check_event_type("on_disconnect", on_disconnect)
        self.on_reconnect = options.check_event_type("on_reconnect", on_reconnect)
        self.max_message_bytes = options.check_count("max_message_bytes", max_message_bytes)
        self.connect_wait_s = options.check_seconds("connect_wait_s", connect_wait_s)
        self.command_timeout_s = options.check_seconds("command_timeout_s", command_timeout_s)
        self.random_prefix_length = options.check_random_prefix_length(random_prefix_length)
        self._serializer = self._make_serializer(serializer_format, symmetric_encryption_keys)
        #: Whether body, encryption and random bytes of a message may be done apart.
        self._splits = (
            splits_at_will(self._serializer)
            and type(self).serialize is BaseRedisLayer.serialize
            and type(self).deserialize is BaseRedisLayer.deserialize
        )
        self._keys = Keyspace(self.prefix)
        self._start_afresh()
        _fork.watch(self)

    def _make_serializer(self, serializer_format: str, symmetric_encryption_keys: Any) -> Any:
        raise NotImplementedError

    def _start_afresh(self) -> None:
        """Make everything that is not an option: for a new object, a copy, a forked child."""
        self.client_prefix = random_hex()
        self._report = Reporter(self._logger)
        self._outage = Outage(self._outage_changed)
        self._health = [
            Health(utils.describe_host(host), self._report, self._outage) for host in self.hosts
        ]
        self._mailboxes = Mailboxes(
            self.get_capacity, self._dropped_for_room, self.expiry, self.group_expiry
        )
        self._queues: dict[str, LocalQueue] = {}
        self._sessions: LoopStates[Any] = LoopStates(self._make_session)
        self._turn = itertools.count()

    def __copy__(self) -> BaseRedisLayer:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._start_afresh()
        _fork.watch(twin)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> BaseRedisLayer:
        return self.__copy__()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(hosts={utils.redact_hosts(self.hosts)}, prefix={self.prefix!r})"
        )

    @property
    def sync(self) -> SyncFace:
        """The same operations for code without an event loop, blocking."""
        return SyncFace(self)

    # Hosts and connections

    def create_pool(self, index: int) -> ConnectionPool:
        """Return a new connection pool for the host with this index; opens nothing."""
        return utils.create_pool(self.hosts[index])

    def connection(self, index: int) -> Redis:
        """Return this event loop's client of the host with this index; replies are bytes.

        Raises ``ValueError`` for an index that is not on the ring.
        """
        if not 0 <= index < self.ring_size:
            raise ValueError(f"There is no host {index}; the ring has {self.ring_size}.")
        client: Redis = self._sessions.get().client(index)
        return client

    def consistent_hash(self, name: str | bytes) -> int:
        """Return the index of the host that serves a name."""
        return utils._consistent_hash(name, self.ring_size)

    def _make_client(self, index: int) -> Redis:
        return utils.create_client(self.create_pool(index))

    def _make_session(self, loop: Loop) -> Session:
        return Session(self, loop)

    # Names, sizes, bytes

    def serialize(self, message: Any) -> bytes:
        """Return a message as the bytes that go on the wire."""
        data: bytes = self._serializer.serialize(message)
        return data

    def deserialize(self, message: bytes) -> Any:
        """Undo :meth:`serialize`."""
        return self._serializer.deserialize(message)

    def _check_channel(self, name: Any) -> None:
        try:
            self.require_valid_channel_name(name)
        except TypeError as error:
            raise InvalidName(str(error)) from None

    def _check_group(self, name: Any) -> None:
        try:
            self.require_valid_group_name(name)
        except TypeError as error:
            raise InvalidName(str(error)) from None

    def _check_size(self, message: Any, wire_bytes: int | None = None) -> None:
        """Raise :class:`MessageTooLarge` by the size of the user's message, before addresses
        and encryption.  ``wire_bytes``, if known, is at least as large.
        """
        if wire_bytes is not None and wire_bytes <= self.max_message_bytes:
            return
        pack = self._serializer.as_bytes if self._splits else self.serialize
        size = len(pack(message))
        if size > self.max_message_bytes:
            raise MessageTooLarge(
                f"A message of {size} bytes is over the limit of {self.max_message_bytes}; "
                "send a reference to the data, or raise the option max_message_bytes."
            )

    def _for_many(self, message: Any) -> Item:
        """Return an item that each of many receivers can open."""
        if self._splits:
            return Packed(self._serializer.as_bytes(message), self._serializer.from_bytes)
        return Original(message)

    # Queues

    def _queue(self, name: str, *, specific: bool, shards: list[int]) -> LocalQueue:
        queue = self._queues.get(name)
        if queue is None:
            queue = LocalQueue(self, name, specific=specific, shards=shards)
            self._queues[name] = queue
        return queue

    def _home(self, loop: Loop) -> Session | None:
        """Return the session that runs readers for receivers on ``loop``, the running one; None
        if the portal was asked to run them.
        """
        if not portal.serves(loop):
            session: Session = self._sessions.get()
            return session
        return None

    def _general_queue(self, name: str) -> LocalQueue:
        """Return a queue that many processes read: on every shard, as messages go round."""
        return self._queue(name, specific=False, shards=list(range(self.ring_size)))

    def _next_shard(self) -> int:
        """Return the shard for the next direct message to a general channel."""
        return next(self._turn) % self.ring_size

    def _hand_over(self, queue: LocalQueue, member: bytes, loop: Loop) -> None:
        """Put a message of a process-specific queue into the mailboxes it is for."""
        raise NotImplementedError

    def _unpack_queued(self, member: bytes) -> Any:
        """Return the message inside a member of a queue, without the layer's own keys."""
        message = self.deserialize(member)
        if isinstance(message, dict):
            message.pop(ADDRESS_KEY, None)
            message.pop(NONCE_KEY, None)
        return message

    # Receiving

    async def receive(self, channel: str) -> Any:
        """Return the next message of a channel, as soon as there is one: a dict of one's own.

        May be cancelled at any time without losing a message, and does not raise because of
        the network.  Raises :class:`InvalidName`, :class:`ForeignChannelError` for a channel
        of another process (core), and :class:`LayerClosed` when the layer is closed meanwhile.
        """
        # One coroutine and one future for each consumer that waits, as a site may have 10,000.
        mailboxes = self._mailboxes
        box = mailboxes.boxes.get(channel)
        if box is None or not box.fed:
            box = await self._open(channel)
        loop = running_loop()
        while True:
            item = mailboxes.take(box, loop)
            if isinstance(item, asyncio.Future):
                try:
                    failure = await item
                except BaseException:
                    mailboxes.withdraw(box, item)
                    raise
                if failure is not None:
                    raise copy.copy(failure)
                continue
            try:
                message = item.open()
                if isinstance(message, dict) or self._lets_pass(channel, message):
                    return message
                raise TypeError("not a dict")
            except Exception as error:  # noqa: BLE001 (whatever a serializer raises)
                self._undecodable(channel, error)

    async def _open(self, channel: str) -> Mailbox:
        """Return the mailbox of a channel with a source: a queue, or a subscription."""
        raise NotImplementedError

    def _lets_pass(self, channel: str, message: Any) -> bool:
        """Tell whether a message that is no dict is legal on a channel."""
        return False

    def _undecodable(self, channel: str, error: Exception) -> None:
        self._logger.debug("Undecodable message for %s: %s", channel, type(error).__name__)
        self._report(MessagesDropped(channel, "undecodable"))

    def _dropped_for_room(self, channel: str) -> None:
        self._report(MessagesDropped(channel, "capacity"))

    # Outages

    def _is_specific(self, channel: str) -> bool:
        """Tell whether a channel is read by one process only."""
        raise NotImplementedError

    def _outage_changed(self, began: bool, outage_s: float) -> None:
        """Tell the consumers of this process."""
        kind = self.on_disconnect if began else self.on_reconnect
        if kind is None:
            return
        with self._mailboxes.lock:
            boxes = [box for box in self._mailboxes.boxes.values() if self._is_specific(box.name)]
            for box in boxes:
                facts = {
                    "type": kind,
                    "outage_s": round(outage_s, 3),
                    "may_have_missed": self._loses_in_outage,
                    "groups": sorted(box.groups or ()),
                }
                self._mailboxes.put(box, Whole(facts), running_loop_or_none())

    # Ends

    def _sweep(self, session: Session) -> None:
        """End the mailboxes whose consumers have gone for good."""
        gone = self._mailboxes.sweep(session)
        if gone:
            self._leave(session, gone)
        for name, queue in list(self._queues.items()):
            if queue.unused():
                del self._queues[name]
        self._report.flush_due()

    def _leave(self, session: Session, boxes: list[Mailbox]) -> None:
        """Leave the groups of ended mailboxes."""
        raise NotImplementedError

    async def close(self) -> None:
        """End all readers and connections, on all event loops of this process.

        Receivers that wait get :class:`LayerClosed`.  The layer works again if used again.
        """
        await run(self._close_steps(), self._sessions)

    def _close_steps(self) -> Steps[None]:
        yield self._close_here

    async def _close_here(self, session: Session) -> None:
        error = LayerClosed("The channel layer was closed while receive() waited.")
        self._mailboxes.fail(error, session.loop)
        self._mailboxes.empty()
        others = []
        for loop in self._sessions.all():
            if loop is not session.loop and loop.is_running():
                with contextlib.suppress(RuntimeError):
                    others.append(asyncio.run_coroutine_threadsafe(self._sessions.aclose(), loop))
        await self._sessions.aclose()
        if others:
            await asyncio.wait([asyncio.wrap_future(other) for other in others], timeout=1)

    def _after_fork(self) -> Any:
        """Start afresh in a forked child; return what was inherited, which must stay alive."""
        sessions = self._sessions.reset()
        for session in sessions:
            for descriptor in session.descriptors():
                _fork.silence(descriptor)
        inherited = (sessions, self._mailboxes, self._queues)
        self._start_afresh()
        return inherited

    # Operations as steps, which both layers define; the blocking face runs the same ones

    def _send_steps(self, channel: str, message: Any) -> Steps[None]:
        raise NotImplementedError

    def _group_add_steps(self, group: str, channel: str) -> Steps[None]:
        raise NotImplementedError

    def _group_discard_steps(self, group: str, channel: str) -> Steps[None]:
        raise NotImplementedError

    def _group_send_steps(self, group: str, message: Any) -> Steps[None]:
        raise NotImplementedError

    def _flush_steps(self) -> Steps[None]:
        raise NotImplementedError
