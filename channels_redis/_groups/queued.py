"""The groups with a history that this process has members of (core).

Messages come by the queue of the process, from senders that do not wait for each other, and not at
all where they exclude all its members. So they are put in the order of the log here, and what does
not come is read there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple

from .._format.histories import Histories, Log
from .._format.keyspace import GROUP_KEY, POSITION_KEY
from .._format.positions import Entry, Past, Position, read_plain
from .._receiving.catching_up import CatchUps, GroupLine
from .._receiving.mailbox import Mailbox
from .._receiving.mailboxes import Mailboxes
from .._receiving.messages import OVERHEAD_BYTES, Item, Packed, Placed
from .._receiving.resuming import Since
from .._runtime.loops import LoopStates
from .._session import Loop, Session
from .._watch.outages import Health
from ..history import Resumed

#: Seconds that a message waits for one that was sent before it, until the log is read.
HOLE_S = 0.005
#: The payload of a message that came by a queue, which is not encoded as in the log.
_HEARD = b"heard"


class QueuedLayer(NamedTuple):
    """What the groups need of their layer, which they do not hold."""

    #: Returns the log of a group; None if it has no history.
    log_of: Callable[[str], Log | None]
    #: Returns the shard of a group.
    shard_of: Callable[[str], int]
    #: Returns a message in a log as an item for many, and the channels that it excludes.
    item_of: Callable[[Log, bytes], tuple[Item, frozenset[str]] | None]


class QueuedGroups:
    """All groups with a history of a layer."""

    def __init__(
        self,
        layer: QueuedLayer,
        histories: Histories,
        mailboxes: Mailboxes,
        sessions: LoopStates[Any],
        healths: list[Health],
        tell_missed: Callable[[list[Mailbox]], object],
    ) -> None:
        self._layer = layer
        self._histories = histories
        self._mailboxes = mailboxes
        self._sessions = sessions
        self._healths = healths
        self._tell_missed = tell_missed
        self._catch_ups = CatchUps(self, histories, mailboxes.lock, hole_s=HOLE_S)
        # Log -> the channels that are members, and have their place in the line of the group.
        self._channels: dict[str, set[str]] = {}

    # Called by the layer

    async def join(
        self,
        log: Log,
        box: Mailbox,
        since: Since | None,
        join: Callable[[], Coroutine[Any, Any, None]],
    ) -> Resumed | None:
        """Add a channel to a group by calling ``join``, with what it has missed."""
        joins_others = box.name not in self._channels.get(log.name, {box.name})
        line = await self._catch_ups.begin(log)
        top = None
        if since is None and joins_others:
            # The line may be behind, where all members here were excluded.
            top = (await self.read_log(log, 0, 0)).top
        if since is not None:
            await self._catch_ups.resume_alone(line, box.name)
        with self._mailboxes.lock:
            line = self._catch_ups.keep(line)
            self._channels.setdefault(log.name, set()).add(box.name)
            if since is not None:
                line.resuming[box.name] = since
            elif top is not None:
                line.starts_at(box.name, top.offset, {top.offset: top.mark})
        try:
            await join()
        except BaseException:
            if since is not None:
                self._catch_ups.end_resuming(line, box, since, 0)
            if log.group not in (box.groups or ()):
                self.left(log, box.name)
            raise
        return await self._catch_ups.resume(line, box, since) if since is not None else None

    def left(self, log: Log, channel: str) -> None:
        """Note that a channel is no member any more."""
        with self._mailboxes.lock:
            channels = self._channels.get(log.name, set())
            channels.discard(channel)
            if not channels:
                self._channels.pop(log.name, None)
            self._catch_ups.left(log.name.encode(), channel, last=not channels)

    def rejoined(self, log: Log) -> None:
        """Note that a server had forgotten who is in a group: what was sent meanwhile is read in
        its log.
        """
        with self._mailboxes.lock:
            self._catch_ups.joined(log.name.encode())

    def look_after(self) -> None:
        """Have groups go on that wait for a loop that has ended."""
        self._catch_ups.look_after()

    def ended(self, boxes: list[Mailbox]) -> None:
        """Note that channels have ended."""
        for box in boxes:
            for group in box.groups or ():
                log = self._layer.log_of(group)
                if log is not None:
                    self.left(log, box.name)

    def forget(self) -> None:
        """Forget all groups."""
        with self._mailboxes.lock:
            self._channels.clear()
            self._catch_ups.groups.clear()

    def put(self, boxes: list[Mailbox], item: Item, running: Loop | None) -> None:
        """Put a group message into mailboxes; one of a group with a history in its turn."""
        found = self._place_of(item)
        if found is None:
            self._mailboxes.put_all(boxes, item, running)
            return
        group, position = found
        placed = Placed(item, self._histories.text(group.log, position))
        with self._mailboxes.lock:
            channels = self._channels.get(group.log.name, set())
            members = [box for box in boxes if box.name in channels]
            if len(members) < len(boxes):
                # Another process has added these, so nothing is known of what they have.
                strangers = [box for box in boxes if box.name not in channels]
                self._mailboxes.put_all(strangers, placed, running)
            entry = Entry(position, _HEARD, None, (members, placed))
            self._catch_ups.hear(group.log.name.encode(), group, entry)

    def _place_of(self, item: Item) -> tuple[GroupLine, Position] | None:
        """Return the group of a message and its position, if the group has members here."""
        if isinstance(item, Packed) and not item.mentions(POSITION_KEY):
            return None
        message = item.open()
        name, position = message.get(GROUP_KEY), read_plain(message.get(POSITION_KEY))
        log = self._layer.log_of(name) if isinstance(name, str) else None
        group = self._catch_ups.groups.get(log.name.encode()) if log is not None else None
        return (group, position) if group is not None and position is not None else None

    # What a group needs (see Listening)

    def members(self, log: Log) -> list[Mailbox]:
        """Return the members of a group in this process."""
        boxes = self._mailboxes.boxes
        names = self._channels.get(log.name, ())
        return [box for name in names if (box := boxes.get(name)) is not None]

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
        boxes = list(boxes)
        if entry.heard is not None:
            _, item = entry.heard
        else:
            found = self._layer.item_of(log, entry.payload)
            if found is None:
                return 0
            item, excluded = found
            if excluded:
                boxes = [box for box in boxes if not excluded & {box.name, *names}]
            item = Placed(item, self._histories.text(log, entry.position))
        self._mailboxes.put_all(boxes, item, self._session.loop)
        return len(boxes)

    def has_room(self, box: Mailbox, entries: Sequence[Entry]) -> bool:
        """Return whether messages fit into a mailbox at once."""
        size_bytes = sum(OVERHEAD_BYTES + len(entry.payload) for entry in entries)
        return self._mailboxes.has_room(box, len(entries), size_bytes)

    async def read_log(self, log: Log, offset: int, limit: int) -> Past:
        """Return the newest position, and entries of a log."""
        past: Past = await self._session.past(self._shard(log), log, offset, limit)
        return past

    async def write_log(self, log: Log, payload: bytes, known: Position) -> Position:
        """Append to a log."""
        return await self._session.append(self._shard(log), log, payload, known, published=False)

    def health_of(self, log: Log) -> Health:
        """Return what is known of the shard of a group."""
        return self._healths[self._shard(log)]

    def tell_missed(self, boxes: list[Mailbox]) -> None:
        """Tell consumers now of what they have missed, unless the end of an outage will."""
        self._tell_missed(boxes)

    def background(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run something whose end the session of the running loop awaits."""
        return self._session.background(work, name)

    def later(self, delay_s: float, work: Callable[[], object]) -> None:
        """Call something on the running loop."""
        self._session.loop.call_later(delay_s, work)

    def _shard(self, log: Log) -> int:
        return self._layer.shard_of(log.group)

    @property
    def _session(self) -> Session:
        session: Session = self._sessions.get()
        return session
