"""Channels and groups of the pubsub layer on one event loop: who listens to which topic."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING
from weakref import ref

from .._format.histories import Log
from .._format.positions import MARKED, Entry, Past, Position, read_marked
from .._runtime import clock
from .._session import Loop, Session, SessionEnded
from .._transport.backend import Backend, SingleServer
from .._transport.cluster.cluster import Cluster
from .._transport.cluster.pubsub import ClusterSubscriber
from .._transport.subscriber import Subscriber
from .._watch.events import MessagesDropped
from .._watch.outages import Health
from ..exceptions import COMMAND_ERRORS, ConnectionLost
from ..history import Resumed
from .catching_up import CatchUps, GroupLine
from .mailbox import Mailbox
from .messages import OVERHEAD_BYTES, Placed, Recent
from .resuming import Since

if TYPE_CHECKING:
    from ..pubsub import RedisPubSubChannelLayer


#: Seconds until the position of a group that could not be read is read again.
_PAUSE_S = 0.1


class _Joining:
    """Calls under way that join one mailbox to one topic: if none succeeds, nobody has joined."""

    __slots__ = ("calls", "joined")

    def __init__(self, joined: bool) -> None:
        self.calls = 0
        self.joined = joined


class GroupJoin:
    """A mailbox that joins a group, perhaps with its history."""

    __slots__ = ("__weakref__", "group", "line", "since")

    def __init__(self, group: str, line: GroupLine | None, since: Since | None) -> None:
        self.group = group
        self.line = line
        self.since = since


class TopicSession(Session):
    """A session with one subscriber per shard, and the members of each topic."""

    def __init__(self, layer: RedisPubSubChannelLayer, loop: Loop) -> None:
        super().__init__(layer._context(), loop)
        self._layer = ref(layer)
        self._keys = self._context.keyspace
        self._mailboxes = layer._mailboxes
        self._report = self._context.report
        self._subscribers: dict[int, Subscriber | ClusterSubscriber] = {}
        self._members: dict[bytes, dict[str, Mailbox]] = {}
        self._joining: dict[Mailbox, dict[str, _Joining]] = {}
        self._recalls = layer._publications_are_unique()
        self._recent = Recent()
        histories = self._context.histories
        #: The groups with a history that are subscribed here; None if the layer has none.
        self.catch_ups = (
            CatchUps(self, histories, contextlib.nullcontext()) if histories.on else None
        )

    @property
    def layer(self) -> RedisPubSubChannelLayer:
        """The layer this belongs to.  Raises :class:`SessionEnded` where nobody holds it."""
        layer = self._layer()
        if layer is None:
            raise SessionEnded("Nobody holds the channel layer any more.")
        return layer

    async def listen(self, channel: str, limit_s: float | None) -> Mailbox:
        """Return the mailbox of a process-specific channel, subscribed in this process.

        Raises :class:`ConnectionLost` when a new subscription was not made in ``limit_s``, and
        :class:`SessionEnded` when this session was closed before.
        """
        boxes = self._mailboxes
        # Again where it was forgotten meanwhile, as flush() does.
        while not (box := boxes.open(channel)).fed:
            try:
                await self._join(channel, box, limit_s)
            except BaseException as error:
                if not (box.fed or box.waiters or box.groups or box in self._joining):
                    boxes.discard(box)
                if isinstance(error, ConnectionLost) and self.closing:
                    raise SessionEnded(str(error)) from error
                raise
        return box

    async def group_add(
        self, group: str, box: Mailbox, since: Since | None = None
    ) -> Resumed | None:
        """Add a mailbox to a group, once the group's topic is subscribed, with what it missed."""
        topic = self._keys.group_topic(group)
        line = await self._line(group)
        if line is not None and since is not None and self.catch_ups is not None:
            await self.catch_ups.resume_alone(line, box.name)
        joining = GroupJoin(group, line, since)
        resumed = await self._join(topic, box, self.layer.connect_wait_s, joining)
        if box.home is not None and box.home is not self:
            # It was taken over meanwhile, by a loop that did not know of this group.
            again = TopicSession.group_add, group, box, since
            resumed = await self.layer._at_home(self, box, *again)
        return resumed

    def _log(self, group: str) -> Log | None:
        if self.catch_ups is None:
            return None
        return self._context.histories.log(group, self._keys.group_topic(group))

    async def _line(self, group: str) -> GroupLine | None:
        """Return the line of a group with a history, before it is subscribed."""
        log = self._log(group)
        if log is None or self.catch_ups is None:
            return None
        return await self.catch_ups.begin(log)

    async def group_discard(self, group: str, box: Mailbox) -> None:
        """Remove a mailbox from a group."""
        _forget_group(group, box)
        self._part(self._keys.group_topic(group), box)

    def forget(self, box: Mailbox) -> None:
        """Leave all topics of an ended mailbox."""
        for group in box.groups or ():
            self._part(self._keys.group_topic(group), box)
        if box.home is self:
            self._part(box.name, box)

    def taken_over(self, box: Mailbox) -> None:
        """Leave all topics of a mailbox that another loop feeds now; called on any thread."""
        self._carry(box)
        with contextlib.suppress(RuntimeError):  # Closed this moment.
            # Where this loop stands still, it comes before all that lies unread in the socket.
            self.loop.call_soon_threadsafe(self._leave_topics_of, box)

    def _carry(self, box: Mailbox) -> None:
        """Note with a mailbox up to where it has the messages of its groups with a history, for
        the loop that feeds it next.  Called on any thread, as this loop stands still.
        """
        if self.catch_ups is None:
            return
        carried: dict[str, Since] = {}
        for group in tuple(box.groups or ()):
            # What was not made up for here is still missing.
            before = (box.carried or {}).get(group) or self._stopped_at(group, box)
            if before is not None:
                # A new one: what this loop is about to do with the old one is not wanted any more.
                carried[group] = Since(before.log, before.position, before.names, carried=True)
        box.carried = carried or None

    def _stopped_at(self, group: str, box: Mailbox) -> Since | None:
        topic = self._keys.group_topic(group).encode()
        line = self.catch_ups.groups.get(topic) if self.catch_ups is not None else None
        if line is None or self._members.get(topic, {}).get(box.name) is not box:
            return None
        position = line.position_of(box.name)
        if position is None:
            return None
        return Since(line.log, position, frozenset(), carried=True)

    def _forget_home(self) -> None:
        with self._mailboxes.lock:
            boxes = self._mailboxes.boxes.values() if self.catch_ups is not None else ()
            for box in boxes:
                if box.home is self:
                    self._carry(box)
            self._mailboxes.forget_home(self)

    def _leave_topics_of(self, box: Mailbox) -> None:
        if box.home is self:
            return  # taken back meanwhile
        for topic, members in list(self._members.items()):
            if members.get(box.name) is box:
                self._part(topic.decode(), box)
                # What lies unread in the socket came elsewhere, even if it is joined again now.
                self.subscriber(self.layer.consistent_hash(topic.decode())).write_changes()

    async def leave_all(self) -> None:
        """Leave all groups, and the channels whose mailboxes were forgotten."""
        alive = self._mailboxes.boxes
        for topic, members in list(self._members.items()):
            for box in list(members.values()):
                if box.name.encode() != topic or alive.get(box.name) is not box:
                    self._part(topic.decode(), box)

    def subscriber(self, shard: int) -> Subscriber | ClusterSubscriber:
        """Return the Pub/Sub connections of a shard."""
        subscriber = self._subscribers.get(shard)
        if subscriber is None:
            subscriber = self._subscribers[shard] = self._make_subscriber(self.backend(shard))
        return subscriber

    def _make_subscriber(self, backend: Backend) -> Subscriber | ClusterSubscriber:
        in_use = self._members.__contains__
        if isinstance(backend, Cluster):
            return ClusterSubscriber(
                backend, self._published, in_use, self._new_own_topic, self._confirmed
            )
        assert isinstance(backend, SingleServer)
        own_topic = self._new_own_topic()
        return Subscriber(
            backend.node(own_topic),
            self._published,
            in_use,
            lambda: own_topic,
            backend.publish,
            on_join=self._confirmed,
        )

    def _confirmed(self, topic: bytes) -> None:
        """Note that a topic is subscribed, perhaps again."""
        if self.catch_ups is not None:
            self.catch_ups.joined(topic)

    def _new_own_topic(self) -> bytes:
        return self._keys.new_own_topic().encode()

    def _closing(self) -> None:
        # At once: who begins to wait here while the subscribers are closed would wait for ever.
        self._forget_home()

    def _forget(self) -> None:
        super()._forget()
        self._forget_home()

    def _sweep(self) -> None:
        super()._sweep()
        if self.catch_ups is not None:
            self.catch_ups.look_after()

    @property
    def busy(self) -> bool:
        """Whether somebody waits for a reply, or a confirmation, on this loop."""
        return bool(self._joining) or super().busy

    @property
    def receiving(self) -> bool:
        """Whether messages are received on this loop."""
        return bool(self._members) or super().receiving

    async def _join(
        self, topic: str, box: Mailbox, limit_s: float | None, join: GroupJoin | None = None
    ) -> Resumed | None:
        """Subscribe to a topic for a mailbox: that of its own name, or that of a group."""

        def arrived() -> None:
            if not self._claim(topic, box):
                return  # Another loop was first, and feeds it now; or this one is about to end.
            self._members.setdefault(topic.encode(), {})[box.name] = box
            if join is not None:
                box.groups = {**(box.groups or {}), join.group: clock.monotonic()}
                self._keep_line(join, box)
            else:
                self._rejoin_groups(box)

        resumed = None
        with self._noted(topic, box, join.group if join is not None else None) as joining:
            try:
                await self._subscribe(topic, arrived, limit_s)
                if join is not None and join.since is not None and box.home is self:
                    resumed = await self._resume(join, box)
            finally:
                self._end_resuming(join, box)
            joining.joined = True
        return resumed

    def _keep_line(self, join: GroupJoin, box: Mailbox) -> None:
        if join.line is None or self.catch_ups is None:
            return
        line = join.line = self.catch_ups.keep(join.line)
        carried = (box.carried or {}).get(join.group)
        if join.since is not None:
            # The consumer knows better what it has.
            if box.carried is not None:
                box.carried.pop(join.group, None)
            line.resuming[box.name], before = join.since, line.resuming.get(box.name)
            if before is not None:
                before.ended.set()
        elif carried is not None and box.name not in line.resuming:
            line.resuming[box.name] = carried
            work = self.catch_ups.make_up(line, box, carried)
            self.background(work, f"making up for {join.group}")

    def _end_resuming(self, join: GroupJoin | None, box: Mailbox) -> None:
        """Have a channel hear what comes, also where the call was cancelled in the tick of the
        confirmation.
        """
        line, since = (join.line, join.since) if join is not None else (None, None)
        if self.catch_ups is not None and line is not None and since is not None:
            self.catch_ups.end_resuming(line, box, since, 0)

    async def _resume(self, join: GroupJoin, box: Mailbox) -> Resumed:
        assert self.catch_ups is not None and join.line is not None and join.since is not None
        return await self.catch_ups.resume(join.line, box, join.since)

    @contextlib.contextmanager
    def _noted(self, topic: str, box: Mailbox, group: str | None) -> Iterator[_Joining]:
        """Note who joins a topic at once; if no one succeeds, undo what came of it."""
        under_way = self._joining.setdefault(box, {})
        joining = under_way.get(topic)
        if joining is None:
            is_member = self._members.get(topic.encode(), {}).get(box.name) is box
            # After a take-over it may be in a group that is only being joined again.
            joining = under_way[topic] = _Joining(is_member or group in (box.groups or ()))
        joining.calls += 1
        try:
            yield joining
        finally:
            joining.calls -= 1
            if not joining.calls:
                del under_way[topic]
            if not under_way:
                self._joining.pop(box, None)
            if not joining.calls and not joining.joined:
                # Cancelled in the very tick in which the confirmation came.
                self._undo(topic, box, group)

    def _undo(self, topic: str, box: Mailbox, group: str | None) -> None:
        self._part(topic, box)
        if group is not None:
            _forget_group(group, box)

    def _claim(self, topic: str, box: Mailbox) -> bool:
        own = topic == box.name
        return not self.closing and self._mailboxes.claim(box, self, subscribed=own)

    async def _subscribe(
        self, topic: str, arrived: Callable[[], None], limit_s: float | None
    ) -> None:
        if self.closing:
            raise SessionEnded("The layer was closed; not subscribed.")
        subscriber = self.subscriber(self.layer.consistent_hash(topic))
        await subscriber.subscribe(topic.encode(), arrived, limit_s)
        subscriber.release(topic.encode())

    def _rejoin_groups(self, box: Mailbox) -> None:
        """Have all joined that a mailbox is in: whoever fed it before joined these, and is gone."""
        with self._mailboxes.lock:
            groups = tuple(box.groups or ())
        for group in groups:
            self.background(self._rejoin(group, box), f"rejoining {group}")

    async def _rejoin(self, group: str, box: Mailbox) -> None:
        topic = self._keys.group_topic(group)
        join = GroupJoin(group, None, None)

        def arrived() -> None:
            # It may have been left, and the mailbox taken over again.
            if group in (box.groups or ()) and box.home is self and self._claim(topic, box):
                members = self._members.setdefault(topic.encode(), {})
                is_back = members.get(box.name) is not box
                members[box.name] = box
                self._keep_line(join, box)
                if is_back and join.line is not None and group not in (box.carried or ()):
                    # Nobody knows where the loop before has stopped.
                    box.missed = {*(box.missed or ()), group}
                    self.tell_missed([box])

        # Refused, or the end of this session: there is nobody to tell, and the group is kept.
        with contextlib.suppress(*COMMAND_ERRORS):
            log = self._log(group)
            if log is None:
                await self._subscribe(topic, arrived, None)
                return
            with self._delaying_end(topic, join) as delay:
                join.line = await self._line_again(log, box, delay)
                await self._subscribe(topic, arrived, None)
                # Its line by now, which may be an older one.
                since = join.line.resuming.get(box.name)
                if since is not None:
                    await since.ended.wait()

    async def _line_again(self, log: Log, box: Mailbox, failed: Callable[[], None]) -> GroupLine:
        """Return the line of a group to be joined again, however long its server is away."""
        assert self.catch_ups is not None  # the group has a history
        while True:
            try:
                return await self.catch_ups.begin(log)
            except SessionEnded:
                raise
            except ConnectionLost:
                if log.group not in (box.groups or ()) or box.home is not self:
                    raise
                failed()
                await asyncio.sleep(_PAUSE_S)
            except COMMAND_ERRORS:
                # The server refuses, and would again: what comes live is heard all the same.
                return GroupLine(log, self._context.histories.newest(log), queued=False)

    @contextlib.contextmanager
    def _delaying_end(self, topic: str, join: GroupJoin) -> Iterator[Callable[[], None]]:
        """Have an outage not end before a member has what it missed in a group; yields what is to
        be called where an outage may just have begun.
        """
        health = self._context.healths[self.layer.consistent_hash(topic)]

        def delay() -> None:
            if health.down:
                health.lost(join, "messages of groups were missed")

        delay()
        try:
            yield delay
        except (asyncio.CancelledError, ConnectionLost):
            health.gone(join)
            raise
        except COMMAND_ERRORS:
            health.works(join)
            raise
        health.works(join)

    def _part(self, topic: str, box: Mailbox) -> None:
        name = topic.encode()
        members = self._members.get(name)
        if members is None or members.get(box.name) is not box:
            return
        del members[box.name]
        if self.catch_ups is not None:
            self.catch_ups.left(name, box.name, last=not members)
        if box.home is self:
            box.subscribed = box.subscribed and topic != box.name
            if not box.subscribed and not box.groups:
                box.home = None
        if not members:
            del self._members[name]
            self.subscriber(self.layer.consistent_hash(topic)).release(name)

    def _published(self, topic: bytes, payload: bytes, mark: bytes = b"") -> None:
        """Put what was published into the mailboxes of all who listen, in one pass.

        ``mark`` is unlike that of any other message, where the transport gives them marks.
        """
        if payload[:1] == MARKED and self._has_heard_marked(topic, payload, mark):
            return
        members, layer = self._members.get(topic), self._layer()
        if not members or layer is None:
            return
        if self.catch_ups is not None:
            self.catch_ups.hear_unlogged(topic)
        name = topic.decode("utf-8", "replace")
        try:
            item, excluded = layer._read_published(name, payload)
        except Exception as error:  # noqa: BLE001 (whatever a serializer raises)
            layer._undecodable(name, error)
            return
        if not mark and self._recalls:
            mark = payload
        # Only now: what was refused as the wrong place's may come to the right one after it.
        if mark and self._recent.has(mark):
            self._report(MessagesDropped(name, "repeated"))
            return
        boxes: Iterable[Mailbox] = members.values()
        if excluded:
            boxes = [box for box in boxes if box.name not in excluded]
        self._mailboxes.put_all(boxes, item, self.loop)

    def _has_heard_marked(self, topic: bytes, payload: bytes, mark: bytes) -> bool:
        """Take a message of a group with a history, whether this process has that option or not;
        return False if it is none.
        """
        entry = read_marked(payload)
        if entry is None:
            return False
        group = self.catch_ups.groups.get(topic) if self.catch_ups is not None else None
        if group is not None and self.catch_ups is not None:
            self.catch_ups.hear(topic, group, entry)
        elif not entry.is_break:
            self._published(topic, entry.payload, mark or entry.position.mark)
        return True

    # What the groups with a history need (see Listening)

    def members(self, log: Log) -> list[Mailbox]:
        """Return the members of a group on this loop."""
        if self.closing:
            return []  # The next loop goes on from where this one was when it began to close.
        return list(self._members.get(log.name.encode(), {}).values())

    def deliver(
        self,
        boxes: Iterable[Mailbox],
        log: Log,
        entry: Entry,
        names: frozenset[str] = frozenset(),
    ) -> int:
        """Put a message into mailboxes, but for those that it excludes, and for all if it excludes
        one of ``names``; return their number.
        """
        layer = self._layer()
        if layer is None:
            return 0
        try:
            item, excluded = layer._read_published(log.name, entry.payload)
        except Exception as error:  # noqa: BLE001 (whatever a serializer raises)
            layer._undecodable(log.name, error)
            return 0
        if excluded:
            boxes = [box for box in boxes if not excluded & {box.name, *names}]
        boxes = list(boxes)
        text = self._context.histories.text(log, entry.position)
        self._mailboxes.put_all(boxes, Placed(item, text), self.loop)
        return len(boxes)

    def has_room(self, box: Mailbox, entries: Sequence[Entry]) -> bool:
        """Return whether messages fit into a mailbox at once."""
        size_bytes = sum(OVERHEAD_BYTES + len(entry.payload) for entry in entries)
        return self._mailboxes.has_room(box, len(entries), size_bytes)

    async def read_log(self, log: Log, offset: int, limit: int) -> Past:
        """Return the newest position, and entries of a log."""
        return await self.past(self.layer.consistent_hash(log.name), log, offset, limit)

    async def write_log(self, log: Log, payload: bytes, known: Position) -> Position:
        """Append to a log and publish."""
        return await self.append(self.layer.consistent_hash(log.name), log, payload, known)

    def health_of(self, log: Log) -> Health:
        """Return what is known of the shard of a group."""
        return self._context.healths[self.layer.consistent_hash(log.name)]

    def tell_missed(self, boxes: list[Mailbox]) -> None:
        """Tell consumers now of what they have missed, unless the end of an outage will."""
        self._context.tell_missed(boxes)

    def later(self, delay_s: float, work: Callable[[], object]) -> None:
        """Call something on the running loop."""
        self.loop.call_later(delay_s, work)

    async def publish_logged(self, log: Log, payload: bytes) -> None:
        """Publish a message of a group with a history."""
        shard = self.layer.consistent_hash(log.name)
        await self.append(shard, log, payload, self._context.histories.newest(log))
        self._tally[shard].sent += 1

    @property
    def groups(self) -> dict[str, set[str]]:
        """Topic of a group -> names of its members on this loop."""
        start = self._keys.group_topic("").encode()
        return {
            topic.decode(): set(members)
            # A copy, as other threads look too.
            for topic, members in list(self._members.items())
            if topic.startswith(start)
        }


def _forget_group(group: str, box: Mailbox) -> None:
    for known in (box.groups, box.carried):
        if known is not None:
            known.pop(group, None)
