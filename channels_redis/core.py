"""The layer that stores every message in Redis, in a sorted set per queue, until it is read."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import Any

from channels.exceptions import ChannelFull

from ._compat import BoundedQueue, ChannelLock, CoreNames, RedisLoopLayer
from ._config.options import given
from ._format.bounds import ADDRESSES
from ._format.encryption import Place
from ._format.histories import Log
from ._format.keyspace import (
    ADDRESS_KEY,
    EXCLUDE_KEY,
    GROUP_KEY,
    NO_BEGINNING,
    NONCE_KEY,
    POSITION_KEY,
    in_parts,
    non_local_name,
    random_hex,
    without,
)
from ._format.positions import Position
from ._groups.leases import Keeper, Keepers
from ._groups.people import Entry
from ._groups.queued import QueuedGroups, QueuedLayer
from ._layer.encoding import check_message
from ._receiving.mailbox import Mailbox
from ._receiving.messages import Item, Message
from ._receiving.queues import LocalQueue, OwnQueue, QueueContext
from ._receiving.resuming import Since
from ._runtime import fork
from ._runtime.plans import Plan, Then
from ._runtime.weakly import weakly
from ._session import Frame, Session, failure_of
from ._transport import scripts
from ._transport.scripts import Bound
from ._watch.events import GroupOverCapacity
from .exceptions import ConnectionLost, ForeignChannelError, InvalidName
from .history import Resumed
from .serializers import registry

__all__ = ["BoundedQueue", "ChannelFull", "ChannelLock", "RedisChannelLayer", "RedisLoopLayer"]

logger = logging.getLogger("channels_redis.core")


class RedisChannelLayer(CoreNames):
    """A channel layer with queues in Redis: a message waits up to ``expiry`` seconds for its
    reader.

    Positional options: ``hosts``, ``prefix``, ``expiry`` and ``group_expiry`` (seconds),
    ``capacity`` and ``channel_capacity`` (messages), ``symmetric_encryption_keys``,
    ``random_prefix_length`` (bytes), ``serializer_format``; all others are keyword-only.
    :doc:`configuration` describes each option. Raises :class:`ConfigurationError` for invalid
    options.
    """

    _logger = logger
    _loses_in_outage = False

    # Sending and receiving

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send a message to one channel.

        Raises ``ChannelFull`` if its queue holds ``capacity`` messages, :class:`InvalidName`,
        :class:`InvalidMessage`, :class:`MessageTooLarge`, :class:`SerializationError`,
        :class:`WrongKeyType`, and :class:`ConnectionLost` if Redis could not be reached or did not
        reply.
        """
        await self._run("send", self._send_plan, channel, message)

    def _send_plan(self, channel: str, message: dict[str, Any]) -> Plan:
        self._check_channel(channel)
        check_message(message)
        name = non_local_name(channel)
        specific = self._is_specific(channel)
        member = self._member(name, message, {ADDRESS_KEY: channel} if specific else {})
        shard = self.consistent_hash(name) if specific else self._next_shard()
        bound = self._queue_bound([channel], len(member))
        frame = Frame(shard, self._keys.queue(name), member, bound)
        return partial(Session.send, channel=channel, frame=frame)

    async def _open(self, channel: str) -> Mailbox:
        self._check_channel(channel)
        if not self._is_specific(channel):
            return self._general_queue(channel).open(channel)
        if not self._is_own(channel):
            raise ForeignChannelError(
                f"receive() of {channel!r}: the channel belongs to another process or layer."
            )
        return self._open_own(channel)

    def _open_own(self, channel: str) -> Mailbox:
        return self._queue(non_local_name(channel), self._make_own_queue).open(channel)

    def _make_own_queue(self, context: QueueContext, name: str) -> LocalQueue:
        return OwnQueue(
            context,
            name,
            self.consistent_hash(name),
            partial(self._encoding.read_frame, name=name, place_of=self._keys.queue_place),
            weakly(self._undecodable, None),
            unique=self._encoding.separable and self.random_prefix_length >= 8,
            put_in_order=self._queued.put if self._queued is not None else None,
        )

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return a new channel name on which only this layer in this process can receive.

        Raises :class:`InvalidName` for a prefix with which no name can begin, and
        :class:`TooManyChannels` if 20,000 channels were created and never received on.
        """
        fork.check()
        try:
            channel = self._keys.new_core_channel(prefix, self.client_prefix)
            self._check_channel(channel)
            self._mailboxes.check_room()
        except (InvalidName, ValueError):
            raise InvalidName(NO_BEGINNING) from None
        self._mailboxes.made_here(self._open_own(channel))
        return channel

    # Groups

    # Channels' own returns None, always.
    async def group_add(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        group: str,
        channel: str,
        *,
        since: str | None = None,
        formerly: Iterable[str] = (),
        presence: dict[str, Any] | None = None,
    ) -> Resumed | None:
        """Add a channel to a group, or refresh its membership for ``group_expiry`` seconds.

        With ``since``, a position in the group's history or ``"start"`` for all that is kept, what
        the channel has missed is put into its mailbox before anything newer: all of it, or nothing.
        What excludes the channel, or one of the names that the consumer had before (``formerly``),
        is left out. The result says which it was.

        ``presence`` says who it is, for :meth:`group_presence`; it replaces what was said before.

        Raises :class:`InvalidName`, :class:`WrongKeyType` if the group's key in Redis is not a
        sorted set, and :class:`ConnectionLost` if Redis could not be reached or did not reply.
        With ``since`` also :class:`HistoryDisabled` and :class:`InvalidPosition`; with
        ``presence`` :class:`PresenceDisabled`, :class:`InvalidPresence`, and
        :class:`MessageTooLarge` for more than the option's ``max_bytes``; and with either
        :class:`ForeignChannelError` for a channel of another process.
        """
        plan = partial(self._group_add_plan, since=since, formerly=formerly, presence=presence)
        resumed: Resumed | None = await self._run("group_add", plan, group, channel)
        return resumed

    def _group_add_plan(
        self,
        group: str,
        channel: str,
        since: str | None = None,
        formerly: Iterable[str] = (),
        presence: dict[str, Any] | None = None,
    ) -> Plan:
        self._check_group(group)
        self._check_channel(channel)
        past = self._since(group, channel, since, formerly)
        if self._is_own(channel):
            entry = self._entry(group, channel, presence)
            return self._join_plan(group, self._open_own(channel), past, entry)
        if past is not None or presence is not None:
            raise ForeignChannelError(
                f"group_add() of {channel!r}: only a channel of this process can resume here, or "
                "have presence."
            )
        key, shard = self._group_key(group), self.consistent_hash(group)
        return lambda session: scripts.join(
            session.commands(shard, key), key, channel, self.group_expiry
        )

    def _join_plan(
        self, group: str, box: Mailbox, since: Since | None, entry: Entry | None
    ) -> Plan:
        join = partial(self._keepers.of(group).join, group=group, box=box, entry=entry)
        log = self._log(group)
        if log is None or self._queued is None:
            return join
        queued = self._queued
        return lambda session: queued.join(log, box, since, lambda: join(session))

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; no error if it is not a member.

        Raises :class:`InvalidName`, :class:`WrongKeyType` if the group's key in Redis is not a
        sorted set, and :class:`ConnectionLost` if Redis could not be reached or did not reply.
        """
        await self._run("group_discard", self._group_discard_plan, group, channel)

    def _group_discard_plan(self, group: str, channel: str) -> Plan:
        self._check_group(group)
        self._check_channel(channel)
        if self._is_own(channel):
            log = self._log(group)
            if log is not None and self._queued is not None:
                self._queued.left(log, channel)
            return partial(self._keepers.of(group).leave, group=group, channel=channel)
        key, shard = self._group_key(group), self.consistent_hash(group)
        return lambda session: scripts.leave(session.commands(shard, key), key, channel)

    async def group_send(
        self, group: str, message: dict[str, Any], *, exclude: Iterable[str] = ()
    ) -> None:
        """Send a message to every member of a group except the channels in ``exclude``. Full
        channels are skipped and counted.

        Raises the same exceptions as :meth:`send` except ``ChannelFull``. If some members have the
        message and others could not be reached, ``ConnectionLost.maybe_executed`` is true.
        """
        await self._run("group_send", self._group_send_plan, group, message, exclude)

    def _group_send_plan(
        self, group: str, message: dict[str, Any], exclude: Iterable[str] = ()
    ) -> Plan:
        self._check_group(group)
        excluded = self._check_names("group_send(): exclude", exclude)
        check_message(message)
        if self.history:
            message = _unplaced(message)
            log = self._log(group)
            if log is not None:
                return self._send_logged_plan(log, message, excluded)
        body = self._encoding.body(message)
        if self._encoding.format is not None:
            # No user's code is needed any more, so all can be one plan, wherever it runs.
            return partial(self._send_to_group, group=group, body=body, excluded=excluded)

        async def read_members(session: Session) -> Then:
            members = await self._keepers.of(group).members(session, group)
            named = without(members, excluded)
            return Then(partial(self._send_to_plan, group, message, named))

        return read_members

    def _send_to_plan(self, group: str, message: Message, members: list[str]) -> Plan:
        frames = self._frames(message, members)
        return partial(self._send_frames, group=group, frames=frames, members=len(members))

    async def _send_to_group(
        self, session: Session, group: str, body: bytes, excluded: frozenset[str]
    ) -> None:
        members = await self._keepers.of(group).members(session, group)
        named = without(members, excluded)
        await self._send_frames(session, group, self._frames(body, named), len(named))

    def _send_logged_plan(self, log: Log, message: Message, excluded: frozenset[str]) -> Plan:
        """Send to a group with a history: append to its log first, then to all queues."""
        body = self._encoding.body(message) if self._encoding.format is not None else message
        own = {EXCLUDE_KEY: sorted(excluded)} if excluded else {}
        payload = self._encoding.encode(message, own, log.name, self._log_place)
        shard, keeper = self._history_shard(log.group), self._keepers.of(log.group)

        async def append(session: Session) -> Then | None:
            position, members = await session.append_and_list(
                shard, log, payload, lambda reply: keeper.members(session, log.group, reply)
            )
            named = without(members, excluded)
            send = partial(self._send_placed_plan, log, body, position, named)
            if isinstance(body, bytes):
                await send()(session)
                return None
            # A user's serializer has to encode the message for each queue.
            return Then(send)

        return append

    def _send_placed_plan(
        self, log: Log, message: Message | bytes, position: Position, members: list[str]
    ) -> Plan:
        place = {POSITION_KEY: position.plain, GROUP_KEY: log.group}
        frames = self._frames(message, members, place)

        async def send(session: Session) -> None:
            try:
                await self._send_frames(session, log.group, frames, len(members))
            except ConnectionLost as error:
                # Whoever resumes gets it from the log.
                raise ConnectionLost(str(error), maybe_executed=True) from error

        return send

    def _frames(
        self, message: Message | bytes, members: list[str], place: dict[str, Any] | None = None
    ) -> list[Frame]:
        """Return the frames for the members of a group: one per queue, unless there are very many
        members.

        A message in bytes was already encoded in the layer's own format. ``place`` are the keys
        that say where it belongs in the history of the group.
        """
        more = place or {}
        by_queue: dict[str, list[str]] = {}
        for channel in members:
            by_queue.setdefault(non_local_name(channel), []).append(channel)
        frames = []
        for name, all_channels in by_queue.items():
            for channels in in_parts(all_channels, ADDRESSES):
                member = self._member(name, message, {**more, ADDRESS_KEY: channels})
                bound = self._queue_bound(channels, len(member))
                shard, key = self.consistent_hash(name), self._keys.queue(name)
                frames.append(Frame(shard, key, member, bound))
        return frames

    async def _send_frames(
        self, session: Session, group: str, frames: list[Frame], members: int
    ) -> None:
        outcomes = await session.send_all(frames)
        full = sum(outcome is False for outcome in outcomes)
        if full:
            self._report(GroupOverCapacity(group, full, members))
        failure = failure_of(outcomes)
        if failure is not None:
            raise failure

    def _group_channels_plan(self, group: str) -> Plan:
        self._check_group(group)
        return partial(self._keepers.of(group).members, group=group)

    def _group_size_plan(self, group: str) -> Plan:
        self._check_group(group)
        return partial(self._keepers.of(group).size, group=group)

    def _log_name(self, group: str) -> str:
        return self._group_key(group).decode()

    def _history_shard(self, group: str) -> int:
        return self.consistent_hash(group)

    def _log_place(self, name: str) -> Place:
        return self._keys.log_place(name)

    # Called by the common parts

    def _make_serializer(self, serializer_format: str, symmetric_encryption_keys: Any) -> Any:
        return registry.get_serializer(
            serializer_format,
            symmetric_encryption_keys=symmetric_encryption_keys,
            random_prefix_length=self.random_prefix_length,
            expiry=self.expiry,
            **given(default=self.serializer_default),
        )

    def _member(self, name: str, message: Message | bytes, own: dict[str, Any]) -> bytes:
        """Return a unique member of a queue for a message; ``own`` are the layer's own keys."""
        if not self._encoding.separable or self.random_prefix_length <= 0:
            own[NONCE_KEY] = random_hex()
        if isinstance(message, bytes):
            return self._encoding.encode_more(message, own, name, self._keys.queue_place)
        return self._encoding.encode(message, own, name, self._keys.queue_place)

    def _queue_bound(self, channels: list[str], frame_bytes: int) -> Bound:
        """Return when the queue of these channels is full.

        If no capacity is set, the queue of a process is limited by bytes: a limit on the number
        would be reached in a few milliseconds in which its process is busy, and the queue of a
        killed process takes no more than the limit until ``expiry``. The sizes of messages have to
        be checked only if there are more messages than would reach the limit if all were as large
        as this frame.
        """
        if len(channels) > 1 and not self._tells_channels_apart:
            channels = channels[:1]
        bounds = [self._capacity_set(channel) for channel in channels]
        messages = max((bound for bound in bounds if bound is not None), default=0)
        if None not in bounds:
            return Bound(messages)
        if not self._is_specific(channels[0]):
            return Bound(self.capacity)
        budget_bytes = self.max_queued_bytes
        return Bound(max(messages, self.capacity, budget_bytes // frame_bytes), budget_bytes)

    def _group_key(self, group: str) -> bytes:
        """Return the key of a group: a sorted set of channel name -> time of joining in seconds."""
        return self._keys.group(group)

    def _is_specific(self, channel: str) -> bool:
        return "!" in channel

    def _is_own(self, channel: str) -> bool:
        return non_local_name(channel).endswith(f".{self.client_prefix}!")

    # Groups with a history

    def _item(self, log: Log, payload: bytes) -> tuple[Item, frozenset[str]] | None:
        """Return a message in a log as an item for many, and the channels that it excludes."""
        try:
            message = self._encoding.decode(payload, log.name, self._log_place)
            excluded = frozenset(message.pop(EXCLUDE_KEY, ()))
        except Exception as error:  # noqa: BLE001 (whatever a serializer raises)
            self._undecodable(log.group, error)
            return None
        return self._encoding.for_many(message, len(payload)), excluded

    # Memberships that the servers may forget

    def _start_afresh(self) -> None:
        super()._start_afresh()
        rejoined = weakly(self._rejoined, None) if self.history else None
        send_event = weakly(self._send_event, None)
        self._keepers = Keepers(
            self,
            self._keys,
            self._people,
            send_event,
            logger,
            stores_groups=True,
            rejoined=rejoined,
        )
        self._queued = self._make_queued() if self.history else None

    def _rejoined(self, group: str) -> None:
        log = self._log(group)
        if log is not None and self._queued is not None:
            self._queued.rejoined(log)

    def _make_queued(self) -> QueuedGroups:
        return QueuedGroups(
            QueuedLayer(
                weakly(self._log, None), weakly(self.consistent_hash, 0), weakly(self._item, None)
            ),
            self._histories,
            self._mailboxes,
            self._sessions,
            self._health,
            weakly(self._tell_missed, None),
        )

    def _keeper_of(self, group: str) -> Keeper:
        return self._keepers.of(group)

    def _all_keepers(self) -> Keepers:
        return self._keepers

    def _leave(self, session: Session, boxes: list[Mailbox]) -> None:
        self._keepers.leave(session, boxes)
        if self._queued is not None:
            self._queued.ended(boxes)

    def _sweep(self, session: Session) -> None:
        if self._keepers.is_relieved(session):
            return
        super()._sweep(session)
        if self._queued is not None:
            self._queued.look_after()
        self._keepers.tick(session)

    async def _forget_groups(self, session: Session) -> None:
        if self._queued is not None:
            self._queued.forget()
        await self._keepers.forget(session)

    async def _close_here(self, session: Session) -> None:
        if self._queued is not None:
            self._queued.forget()
        await super()._close_here(session)
        self._keepers.forget_closed()


def _unplaced(message: Message) -> Message:
    """Return a message without the place that it had where it was received."""
    if POSITION_KEY not in message and GROUP_KEY not in message:
        return message
    return {key: value for key, value in message.items() if key not in (POSITION_KEY, GROUP_KEY)}
