"""The layer that sends with Redis Pub/Sub.  It stores in Redis only queues of general channels, and
the logs and members of groups with the options ``history`` and ``presence``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable
from functools import partial
from typing import Any

from ._compat import PubSubNames, RedisPubSubLoopLayer, RedisSingleShardConnection
from ._config.options import given
from ._format.encryption import Place
from ._format.histories import Log
from ._format.keyspace import EXCLUDE_KEY, NO_BEGINNING, NONCE_KEY, TopicKeyspace, random_hex
from ._groups.leases import Keeper, Keepers
from ._groups.people import Entry
from ._layer.base import CLOSED, Loop
from ._layer.encoding import check_message
from ._receiving.mailbox import Mailbox
from ._receiving.messages import Item, Packed
from ._receiving.topics import TopicSession
from ._runtime import fork
from ._runtime.plans import Plan, run, submit
from ._runtime.weakly import weakly
from ._session import Frame, Session, SessionEnded
from ._transport.scripts import Bound
from .exceptions import ConnectionLost, ForeignChannelError, InvalidName, LayerClosed, Unsupported
from .history import Resumed
from .serializers import BaseMessageSerializer, registry

__all__ = ["RedisPubSubChannelLayer", "RedisPubSubLoopLayer", "RedisSingleShardConnection"]

logger = logging.getLogger("channels_redis.pubsub")

#: General channels whose queues ``flush()`` deletes: so many names are remembered.
_REMEMBERED_NAMES = 10_000


class RedisPubSubChannelLayer(PubSubNames):
    """A channel layer with Pub/Sub: messages are lost if no process is subscribed.

    General channels (workers) use the same queues in Redis as the core layer. Accepts the same
    options as :class:`~channels_redis.core.RedisChannelLayer`.
    """

    _logger = logger
    _loses_in_outage = True

    # Sending and receiving

    async def send(self, channel: str, message: Any) -> None:
        """Send a message to one channel.

        Raises ``ChannelFull`` if the queue of a general channel holds ``capacity`` messages,
        :class:`InvalidName`, :class:`InvalidMessage`, :class:`MessageTooLarge`,
        :class:`SerializationError`, :class:`WrongKeyType` if the key of a general channel in Redis
        is not a sorted set, and :class:`ConnectionLost` if Redis could not be reached or did not
        reply.
        """
        await self._run("send", self._send_plan, channel, message)

    def _send_plan(self, channel: str, message: Any) -> Plan:
        self._check_channel(channel)
        if self._is_specific(channel):
            return self._publish_plan(channel, message)
        if not self._lets_pass(channel, message):
            check_message(message)
        member = self._member(channel, message)
        self._remember(channel)
        bound = Bound(self.get_capacity(channel))
        frame = Frame(self._next_shard(), self._keys.queue(channel), member, bound)
        return partial(Session.send, channel=channel, frame=frame)

    def _publish_plan(
        self,
        topic: str,
        message: Any,
        excluded: frozenset[str] = frozenset(),
        log: Log | None = None,
    ) -> Plan:
        check_message(message)
        own = {EXCLUDE_KEY: sorted(excluded)} if excluded else {}
        payload = self._encoding.encode(message, own, topic, self._keys.topic_place)
        if log is not None:
            return partial(TopicSession.publish_logged, log=log, payload=payload)
        shard = self.consistent_hash(topic)
        return partial(Session.publish, shard=shard, topic=topic, payload=payload)

    async def _open(self, channel: str) -> Mailbox:
        self._check_channel(channel)
        if self._is_specific(channel):
            return await self._listen(channel)
        self._remember(channel)
        return self._general_queue(channel).open(channel)

    async def _listen(self, channel: str) -> Mailbox:
        """Return the mailbox of a process-specific channel, however long that takes."""
        closings = self._closings
        while True:
            try:
                return await self._listen_within(channel, None)
            except SessionEnded:
                if self._closings != closings:
                    raise LayerClosed(CLOSED) from None

    async def new_channel(self, prefix: str = "specific.") -> str:
        """Return a new channel name that is already subscribed, so messages sent to it from now on
        are received.

        Raises :class:`InvalidName` for a prefix with which no name can begin,
        :class:`ConnectionLost` if Redis could not be reached, and :class:`TooManyChannels` if
        20,000 channels were created and never received on.
        """
        fork.check()
        try:
            channel = self._keys.new_topic_channel(prefix)
        except ValueError:
            raise InvalidName(NO_BEGINNING) from None
        self._mailboxes.check_room()
        box = await self._listen_within(channel, self.connect_wait_s)
        self._mailboxes.made_here(box)
        return channel

    async def _listen_within(self, channel: str, limit_s: float | None) -> Mailbox:
        plan = partial(TopicSession.listen, channel=channel, limit_s=limit_s)
        box: Mailbox = await run(lambda: plan, self._sessions)
        return box

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
        """Add a channel of this process to a group; the group is subscribed when this returns.

        ``presence`` says who it is, for :meth:`group_presence`; it replaces what was said before.

        With ``since``, a position in the group's history or ``"start"`` for all that is kept, what
        the channel has missed is put into its mailbox before anything newer: all of it, or nothing.
        What excludes the channel, or one of the names that the consumer had before (``formerly``),
        is left out. The result says which it was.

        Raises :class:`InvalidName`, :class:`ForeignChannelError` for a channel that this process
        does not receive on, :class:`ConnectionLost` if the server could not be reached or did
        not confirm; with ``since`` :class:`HistoryDisabled` and :class:`InvalidPosition`; and with
        ``presence`` :class:`PresenceDisabled`, :class:`InvalidPresence`, and
        :class:`MessageTooLarge` for more than the option's ``max_bytes``.
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
        box = self._mailboxes.boxes.get(channel)
        if box is None:
            raise ForeignChannelError(
                f"group_add() of {channel!r}: a channel can join a group only in the process "
                "that receives it, which is not this one."
            )
        past = self._since(group, channel, since, formerly)
        entry = self._entry(group, channel, presence)
        if entry is not None:
            return lambda session: self._join_with_presence(session, group, box, past, entry)
        return lambda session: self._at_home(session, box, TopicSession.group_add, group, box, past)

    async def _join_with_presence(
        self, session: TopicSession, group: str, box: Mailbox, past: Any, entry: Entry
    ) -> Any:
        outcome = await self._at_home(session, box, TopicSession.group_add, group, box, past)
        await self._keeper_of(group).join(session, group, box, entry)
        return outcome

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; no error if it is not a member.

        Raises :class:`InvalidName`, and :class:`ConnectionLost` if the event loop on which the
        channel is received does not respond. Network errors raise nothing.
        """
        await self._run("group_discard", self._group_discard_plan, group, channel)

    def _group_discard_plan(self, group: str, channel: str) -> Plan:
        self._check_group(group)
        self._check_channel(channel)
        box = self._mailboxes.boxes.get(channel)
        if box is None:
            return _nothing
        if self._people.options(group) is not None:
            return lambda session: self._leave_with_presence(session, group, box)
        return lambda session: self._at_home(session, box, TopicSession.group_discard, group, box)

    async def _leave_with_presence(self, session: TopicSession, group: str, box: Mailbox) -> None:
        await self._at_home(session, box, TopicSession.group_discard, group, box)
        with contextlib.suppress(ConnectionLost):  # written again when the server is back
            await self._keeper_of(group).leave(session, group, box.name)

    async def group_send(
        self, group: str, message: dict[str, Any], *, exclude: Iterable[str] = ()
    ) -> None:
        """Send a message to every member of a group, in all processes, except the channels in
        ``exclude``.

        Processes of releases before 5.0 deliver it to these channels, too, with the key
        ``__asgi_exclude__`` in the message. Raises the same exceptions as :meth:`send` except
        ``ChannelFull``.
        """
        await self._run("group_send", self._group_send_plan, group, message, exclude)

    def _group_send_plan(
        self, group: str, message: dict[str, Any], exclude: Iterable[str] = ()
    ) -> Plan:
        self._check_group(group)
        excluded = self._check_names("group_send(): exclude", exclude)
        log = self._log(group) if self.history else None
        return self._publish_plan(self._keys.group_topic(group), message, excluded, log)

    def _log_name(self, group: str) -> str:
        return self._keys.group_topic(group)

    def _history_shard(self, group: str) -> int:
        return self.consistent_hash(self._keys.group_topic(group))

    def _log_place(self, name: str) -> Place:
        return self._keys.topic_place(name)

    def _group_channels_plan(self, group: str) -> Plan:
        if self._people.options(group) is None:
            raise self._knows_no_members("group_channels")
        return partial(self._keeper_of(group).present_channels, group=group)

    def _group_size_plan(self, group: str) -> Plan:
        if self._people.options(group) is None:
            raise self._knows_no_members("group_size")
        return partial(self._keeper_of(group).present_size, group=group)

    @staticmethod
    def _knows_no_members(method: str) -> Unsupported:
        return Unsupported(
            f"{method}(): on pubsub each process knows its own members of a group and nobody "
            "knows all. Add a pattern for the group to the option presence, or use the core layer; "
            "layer.groups holds the members in this process."
        )

    # Called by the common parts

    def _make_serializer(self, serializer_format: str, symmetric_encryption_keys: Any) -> Any:
        return registry.get_serializer(
            serializer_format,
            symmetric_encryption_keys=symmetric_encryption_keys,
            **given(default=self.serializer_default),
        )

    def _start_afresh(self) -> None:
        super()._start_afresh()
        self._used_names: dict[str, None] = {}
        self._keepers: Keepers | None = None
        if self.presence:
            keys, send_event = TopicKeyspace(self.prefix), weakly(self._send_event, None)
            self._keepers = Keepers(
                self, keys, self._people, send_event, logger, stores_groups=False
            )

    def _keeper_of(self, group: str) -> Keeper:
        assert self._keepers is not None  # the group has presence
        return self._keepers.of(group)

    def _all_keepers(self) -> Keepers | None:
        return self._keepers

    def _sweep(self, session: Session) -> None:
        if self._keepers is None:
            super()._sweep(session)
        elif not self._keepers.is_relieved(session):
            super()._sweep(session)
            self._keepers.tick(session)

    async def _close_here(self, session: Session) -> None:
        await super()._close_here(session)
        if self._keepers is not None:
            self._keepers.forget_closed()

    def _make_session(self, loop: Loop) -> TopicSession:
        return RedisPubSubLoopLayer(self, loop)

    def _check_channel(self, name: Any) -> None:
        # The layer's own names may be longer than others, or have a prefix with other signs.
        if not (isinstance(name, str) and self._is_specific(name)):
            super()._check_channel(name)

    def _remember(self, channel: str) -> None:
        """Note the name of a general channel, for ``flush()``."""
        if channel not in self._used_names:
            with self._mailboxes.lock:
                self._used_names[channel] = None
                if len(self._used_names) > _REMEMBERED_NAMES:
                    del self._used_names[next(iter(self._used_names))]

    async def _forget_groups(self, session: TopicSession) -> None:
        await self._on_all_loops(TopicSession.leave_all, session)
        if self._keepers is not None:
            self._keepers.request(session)

    def _queues_to_delete(self) -> set[str]:
        with self._mailboxes.lock:
            names = set(self._used_names)
            self._used_names.clear()
        return names

    def _is_specific(self, channel: str) -> bool:
        return self._keys.is_topic_channel(channel)

    def _lets_pass(self, channel: str, message: Any) -> bool:
        # 4.3.0 carries text on the general channels of this layer, so there may be workers for it.
        return isinstance(message, str) and not self._is_specific(channel)

    def _read_published(self, topic: str, payload: bytes) -> tuple[Item, frozenset[str]]:
        """Return a published message as an item for many consumers, and the excluded channels, if
        they can be seen without decoding every message; ``receive()`` checks again.
        """
        item = self._encoding.published(payload, topic, self._keys.topic_place)
        if not isinstance(item, Packed) or not item.mentions(EXCLUDE_KEY):
            return item, frozenset()
        message = item.open()
        names = message.get(EXCLUDE_KEY, ()) if isinstance(message, dict) else ()
        return item, frozenset(names)

    def _random_bytes(self) -> int:
        """Return the number of random bytes in front of a queued message, as in core."""
        if isinstance(self._serializer, BaseMessageSerializer):
            return max(0, self.random_prefix_length)
        return 0

    def _member(self, name: str, message: Any) -> bytes:
        """Return the member of a general channel's queue, with the bytes of the core layer."""
        place_of, length = self._keys.queue_place, self._random_bytes()
        if length:
            return os.urandom(length) + self._encoding.encode(message, {}, name, place_of)
        own = {NONCE_KEY: random_hex()} if isinstance(message, dict) else {}
        return self._encoding.encode(message, own, name, place_of)

    def _unpack_queued(self, name: str, member: bytes) -> Any:
        return super()._unpack_queued(name, member[self._random_bytes() :])

    def _publications_are_unique(self) -> bool:
        """Return whether no two publications of any sender are the same bytes: tokens are not."""
        return self._encoding.separable and self._serializer.crypter is not None

    def _leave(self, session: Session, boxes: list[Mailbox]) -> None:
        assert isinstance(session, TopicSession)
        for box in boxes:
            session.forget(box)
        if self._keepers is not None:
            self._keepers.leave(session, boxes)

    async def _at_home(self, here: TopicSession, box: Mailbox, operation: Any, *args: Any) -> Any:
        """Run a session's operation where the mailbox is subscribed."""
        home = box.home
        if home is None or home is here:
            return await operation(here, *args)
        call = submit(partial(operation, home, *args), home.loop)
        if call.cancelled():  # Its loop was closed this moment.
            return await operation(here, *args)
        outcome = asyncio.wrap_future(call)
        try:
            await asyncio.wait({outcome}, timeout=self.connect_wait_s)
        finally:
            call.cancel()  # no effect on one that has ended
        # Whoever cancels all tasks of that loop, as its end does, means nobody here.
        if not outcome.done() or outcome.cancelled():
            raise ConnectionLost(
                f"The event loop that receives {box.name!r} has ended or does not respond."
            )
        return outcome.result()


async def _nothing(_: Session) -> None:
    """A plan without anything to do."""
