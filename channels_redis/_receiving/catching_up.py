"""The groups with a history that one event loop listens to (pubsub), or a layer receives (core): it
catches up on what was missed, and resumes channels.

:mod:`.lines` decides; here is the I/O. Until a member has what it missed, what comes live is kept
for it, so that everything arrives in order.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol
from weakref import ref

from .._format.histories import Histories, Log
from .._format.positions import LOST_BREAK, UNLOGGED_BREAK, Entry, Past, Position
from .._session import SessionEnded
from .._watch.outages import Health
from ..exceptions import COMMAND_ERRORS, ConnectionLost
from ..history import Resumed
from .lines import CaughtUp, Heard, Line, Verdict, after_offset, judge, tells_loss, unbroken_end
from .mailbox import Mailbox
from .resuming import Since

_log = logging.getLogger("channels_redis")

#: Groups that are caught up at the same time.
_BATCH = 200
#: Seconds until a log that could not be read is read again.
_PAUSE_S = 0.1
#: The longest that a break waits for that of another process, in seconds.
_BREAK_SPREAD_S = 0.05
#: More entries than a server keeps above the size of a log, as it trims several at once.
_UNTRIMMED = 1000


class Listening(Protocol):
    """The session on whose loop the groups are subscribed."""

    def members(self, log: Log) -> list[Mailbox]:
        """Return the members of a group that are here."""
        ...

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
        ...

    def has_room(self, box: Mailbox, entries: Sequence[Entry]) -> bool:
        """Return whether messages fit into a mailbox at once."""
        ...

    def read_log(self, log: Log, offset: int, limit: int) -> Awaitable[Past]:
        """Return the newest position, and entries of a log."""
        ...

    def write_log(self, log: Log, payload: bytes, known: Position) -> Awaitable[Position]:
        """Append to a log and publish."""
        ...

    def health_of(self, log: Log) -> Health:
        """Return what is known of the shard of a group."""
        ...

    def tell_missed(self, boxes: list[Mailbox]) -> None:
        """Tell consumers now of what they have missed, unless the end of an outage will."""

    def later(self, delay_s: float, work: Callable[[], object]) -> None:
        """Call something on the running loop."""

    def background(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run something whose end the session awaits."""
        ...


class Ahead:
    """Up to which offset a channel has what its line has not heard yet, and what the log had there:
    a server that has lost it gives the same offsets to other messages.
    """

    __slots__ = ("_marks", "upto")

    def __init__(self, upto: int, marks: dict[int, bytes]) -> None:
        self.upto = upto
        self._marks = marks

    def has(self, entry: Entry) -> bool:
        """Return whether the channel has a message; none any more after the first other one."""
        if self._marks.get(entry.offset, entry.position.mark) != entry.position.mark:
            self.upto = 0
        return entry.offset <= self.upto


class GroupLine:
    """One group: the place of this loop in it, and the members for which that is not the same."""

    def __init__(self, log: Log, position: Position, *, queued: bool) -> None:
        self.log = log
        self.line = Line(position, queued=queued)
        #: Channels that are resuming; what is heard is kept for them.
        self.resuming: dict[str, Since] = {}
        #: Channels that already have what the line has not heard yet.
        self.ahead: dict[str, Ahead] = {}
        #: How often the subscription was interrupted.
        self.losses = 0
        #: The mark of the last break that was written from here.
        self.own_break = b""
        #: Whether a message was heard that is in no log, and no break after it.
        self.unlogged = False
        #: Whether a break after such a message is under way.
        self.breaking = False
        #: Whether it was logged that the log could not be read.
        self.reported = False

    def position_of(self, channel: str) -> Position | None:
        """Return up to where a member has all messages; None if nobody can tell."""
        position = self.line.position
        ahead = self.ahead.get(channel)
        if channel in self.resuming or (ahead is not None and ahead.upto > position.offset):
            return None
        return position

    def is_making_up(self, box: Mailbox, since: Since) -> bool:
        """Return whether this is still what a member waits for: it may have left the group, or
        resumed, or be fed by another loop.
        """
        is_wanted = (box.carried or {}).get(self.log.group) is since
        return is_wanted and self.resuming.get(box.name) is since

    def listeners(self, boxes: Iterable[Mailbox], entry: Entry) -> list[Mailbox]:
        """Return the members that get a message now."""
        now = []
        for box in boxes:
            since = self.resuming.get(box.name)
            if since is not None:
                since.held.append(entry)
            elif box.name not in self.ahead or not self.ahead[box.name].has(entry):
                now.append(box)
        if self.ahead:
            known = self.ahead.items()
            self.ahead = {name: ahead for name, ahead in known if ahead.upto > entry.offset}
        return now

    def starts_at(self, channel: str, upto: int, marks: dict[int, bytes]) -> None:
        """Note that a channel gets nothing up to an offset, where the log had these marks."""
        if self.line.position.offset < upto:
            self.ahead[channel] = Ahead(upto, marks)


class CatchUps:
    """All groups with a history that one event loop listens to (pubsub), or a layer (core).

    ``hole_s`` is for messages that may come out of order: how long the log is not read in case what
    is missing is on its way. ``lock`` is held while messages are delivered.
    """

    def __init__(
        self,
        session: Listening,
        histories: Histories,
        lock: AbstractContextManager[Any],
        hole_s: float = 0.0,
    ) -> None:
        # A weak reference: a cycle would keep what has ended until it is collected.
        self._listening = ref(session)
        self._histories = histories
        self._lock = lock
        self._hole_s = hole_s
        #: By the name of the log.
        self.groups: dict[bytes, GroupLine] = {}
        self._due: dict[Health, dict[bytes, None]] = {}
        self._workers: dict[Health, asyncio.Task[None]] = {}

    @property
    def _session(self) -> Listening:
        session = self._listening()
        if session is None:
            raise SessionEnded("The channel layer was closed.")
        return session

    async def begin(self, log: Log) -> GroupLine:
        """Return the line of a group; its position is read before the group is subscribed."""
        known = self.groups.get(log.name.encode())
        if known is not None:
            return known
        past = await self._session.read_log(log, 0, 0)
        self._histories.note(log, past.top)
        return GroupLine(log, past.top, queued=self._hole_s > 0)

    def keep(self, group: GroupLine) -> GroupLine:
        """Note a group that is subscribed; return its line, which may be an older one."""
        return self.groups.setdefault(group.log.name.encode(), group)

    def left(self, topic: bytes, channel: str, *, last: bool) -> None:
        """Note that a channel is no member any more; it was the last one here, or not."""
        group = self.groups.get(topic)
        if group is not None:
            group.ahead.pop(channel, None)
            since = group.resuming.pop(channel, None)
            if since is not None:
                since.ended.set()
            if last:
                del self.groups[topic]

    # What is heard

    def hear(self, topic: bytes, group: GroupLine, entry: Entry) -> None:
        """Take a marked message."""
        if entry.payload == UNLOGGED_BREAK:
            group.unlogged = False  # Somebody else was faster.
        heard = group.line.hear(entry)
        if heard is Heard.DELIVER:
            self._deliver(group, entry)
        elif heard is Heard.HOLE and self._hole_s:
            self._session.later(self._hole_s, lambda: self._look_after(topic, group))
        elif heard is Heard.HOLE:
            self._catch_up(topic, group)
        for filled in group.line.fill() if self._hole_s else ():
            self._deliver(group, filled)

    def _look_after(self, topic: bytes, group: GroupLine) -> None:
        """Read the log, unless a hole was filled meanwhile."""
        if group.line.catching_up and self.groups.get(topic) is group:
            self._catch_up(topic, group)

    def look_after(self) -> None:
        """Start again what has ended together with its loop, so that no line waits for ever; called
        from time to time.
        """
        with self._lock:
            behind = [one for one in self.groups.items() if one[1].line.catching_up]
            for topic, group in behind:
                self._catch_up(topic, group)

    def _deliver(self, group: GroupLine, entry: Entry, boxes: list[Mailbox] | None = None) -> None:
        self._histories.note(group.log, entry.position)
        if entry.heard is not None:
            members = entry.heard[0]
        else:
            members = self._session.members(group.log) if boxes is None else boxes
        if not entry.is_break:
            if group.resuming or group.ahead:
                members = group.listeners(members, entry)
            self._session.deliver(members, group.log, entry)
        elif tells_loss(entry) and entry.position.mark != group.own_break:
            self._session.tell_missed(_note_missed(members, group.log))

    def hear_unlogged(self, topic: bytes) -> None:
        """Take note of a message without a mark. If its group has a history, it is in no log, and
        whoever was not listening has missed it.
        """
        group = self.groups.get(topic)
        if group is None:
            return
        group.unlogged = True
        if not group.breaking:
            group.breaking = True
            self._session.background(self._break(topic, group), f"break of {group.log.group}")

    async def _break(self, topic: bytes, group: GroupLine) -> None:
        try:
            while group.unlogged and await self._break_soon(topic, group):
                pass
        finally:
            group.breaking = group.unlogged = False

    async def _break_soon(self, topic: bytes, group: GroupLine) -> bool:
        """Write a break, unless another process does; return whether to go on."""
        # All processes that listen have heard the message, and one break is enough.
        await asyncio.sleep(random.uniform(0, _BREAK_SPREAD_S))
        try:
            await self._break_now(group)
        except SessionEnded:
            return False
        except ConnectionLost:
            await asyncio.sleep(_PAUSE_S)
            return self.groups.get(topic) is group
        except COMMAND_ERRORS:
            return False  # The server refuses, and would again.
        return True

    async def _break_now(self, group: GroupLine) -> None:
        """Write a break, unless one was heard after the last message that is in no log."""
        if not group.unlogged:
            return
        group.unlogged = False
        known = self._histories.newest(group.log)
        try:
            await self._session.write_log(group.log, UNLOGGED_BREAK, known)
        except ConnectionLost:
            group.unlogged = True
            raise

    # Catching up

    def joined(self, topic: bytes) -> None:
        """Note that a subscription was confirmed, perhaps after it was lost."""
        group = self.groups.get(topic)
        if group is None or not self._session.members(group.log):
            return
        group.line.lose()
        group.losses += 1
        health = self._session.health_of(group.log)
        if health.down:
            # The outage does not end before everybody has what was missed.
            health.lost(self, "messages of groups were missed")
        self._catch_up(topic, group)

    def _catch_up(self, topic: bytes, group: GroupLine) -> None:
        health = self._session.health_of(group.log)
        with self._lock:
            self._due.setdefault(health, {})[topic] = None
            worker = self._workers.get(health)
            # Its loop may be another one, which may have been closed without warning.
            if worker is None or worker.done() or not worker.get_loop().is_running():
                work, name = self._work(health), f"catching up on {health.name}"
                self._workers[health] = self._session.background(work, name)

    async def _work(self, health: Health) -> None:
        try:
            while due := self._next_due(health):
                if not all(await asyncio.gather(*[self._bring_up(topic) for topic in due])):
                    return  # Another loop goes on with it.
        finally:
            if health.down:
                health.works(self)
            else:
                health.gone(self)

    def _next_due(self, health: Health) -> list[bytes]:
        """Return the groups to be caught up next. If there are none, the worker has ended: the next
        group needs a new one.
        """
        with self._lock:
            due = {topic: None for topic in self._due[health] if self._is_behind(topic)}
            self._due[health] = due
            if not due:
                self._workers.pop(health, None)
            return list(due)[:_BATCH]

    def _is_behind(self, topic: bytes) -> bool:
        group = self.groups.get(topic)
        return group is not None and group.line.catching_up

    async def _bring_up(self, topic: bytes) -> bool:
        """Have the members of one group get what they missed; return False if this loop ends."""
        group = self.groups.get(topic)
        while group is not None and group.line.catching_up:
            losses, since = group.losses, group.line.position
            try:
                past: Past | None = await self._past(group, since, own=True)
            except SessionEnded:
                return False
            except ConnectionLost:
                await asyncio.sleep(_PAUSE_S)
                past, losses = None, -1
            except COMMAND_ERRORS:
                past = None  # The server refuses, and would again.
            except Exception as error:  # noqa: BLE001 (whatever is wrong, the line must go on)
                past = None
                self._report(group, error)
            if self.groups.get(topic) is not group:
                return True
            # What was read before the subscription was confirmed once more may lack something, and
            # a hole may have been filled meanwhile.
            with self._lock:
                if losses == group.losses and group.line.is_behind_since(since):
                    self._go_on(group, group.line.catch_up(past))
        return True

    def _report(self, group: GroupLine, error: Exception) -> None:
        if not group.reported:
            group.reported = True
            _log.error(
                "The log of the group %r could not be read. Its members here are told that they "
                "may have missed messages.",
                group.log.group,
                exc_info=error,
            )

    async def _past(self, group: GroupLine, since: Position, *, own: bool = False) -> Past:
        """Read what came after a position; where the log does not have it, say so in the log.

        If the position is this loop's ``own``, the members need not be told once more when the
        break is heard.
        """
        limit = self._histories.max_catch_up
        # One more, as the entry at the position is read too.
        past = await self._session.read_log(group.log, since.offset, limit + 1)
        if len(after_offset(past.entries, since.offset)) > limit:
            past = Past(past.top, past.entries, cut=True)
        if judge(past, since) is Verdict.UNKNOWN:
            top = await self._session.write_log(group.log, LOST_BREAK, since)
            group.own_break = top.mark if own else group.own_break
            past = Past(top, [])
        return past

    def _go_on(self, group: GroupLine, outcome: CaughtUp) -> None:
        members = self._session.members(group.log)
        late = members
        if outcome.complete:
            late = [box for box in members if not self._session.has_room(box, outcome.missed)]
        missed = _note_missed(late, group.log)
        in_time = [box for box in members if box not in late]
        # First: a client that has a later position must know that there is something before it.
        self._session.tell_missed(missed)
        for entry in outcome.missed:
            self._deliver(group, entry, in_time)
        for entry in outcome.held:
            if outcome.complete or not entry.is_break:
                self._deliver(group, entry)

    # Resuming

    async def resume_alone(self, group: GroupLine, channel: str) -> None:
        """Wait until nobody else resumes a channel in a group."""
        while (other := group.resuming.get(channel)) is not None:
            await other.ended.wait()

    async def resume(self, group: GroupLine, box: Mailbox, since: Since) -> Resumed:
        """Put what a channel has missed into its mailbox, and then what was heard meanwhile."""
        log = group.log
        try:
            complete, top, entries = await self._missed_since(group, since)
        except BaseException:
            self.end_resuming(group, box, since, 0)
            raise
        if group.resuming.get(box.name) is not since:
            return Resumed(False, self._histories.text(log, top), 0)  # It has left meanwhile.
        entries = [one for one in entries if not one.is_break]
        if complete and not self._session.has_room(box, entries):
            complete, entries = False, []
        count = 0
        with self._lock:
            for entry in entries:
                count += self._session.deliver([box], log, entry, since.names)
            self.end_resuming(group, box, since, top.offset)
        return Resumed(complete, self._histories.text(log, top), count)

    async def make_up(self, group: GroupLine, box: Mailbox, since: Since) -> None:
        """Put what a member missed between two event loops into its mailbox, before what was heard
        meanwhile; where that is not complete, tell its consumer.
        """
        log, complete, top, entries = group.log, False, since.position, list[Entry]()
        while group.is_making_up(box, since):
            try:
                complete, top, entries = await self._missed_since(group, since)
            except SessionEnded:
                return  # The next loop goes on from the same position.
            except ConnectionLost:
                await asyncio.sleep(_PAUSE_S)
                continue
            except COMMAND_ERRORS:
                pass  # The server refuses, and would again.
            except Exception as error:  # noqa: BLE001 (whatever is wrong, messages must go on)
                self._report(group, error)
            break
        if not group.is_making_up(box, since):
            return
        entries = [one for one in entries if not one.is_break]
        if complete and self._session.has_room(box, entries):
            for entry in entries:
                self._session.deliver([box], log, entry)
        else:
            complete = False
            self._session.tell_missed(_note_missed([box], log))
        # Where messages are lost, all that was heard is delivered, as after an outage.
        upto = top.offset if complete and top is not None else 0
        self.end_resuming(group, box, since, upto)
        if box.carried is not None:
            box.carried.pop(log.group, None)

    async def _missed_since(
        self, group: GroupLine, since: Since
    ) -> tuple[bool, Position, list[Entry]]:
        position = since.position
        if position is None:
            # All that is kept, which the size of the log limits.
            past = await self._session.read_log(group.log, 0, group.log.kept.size + _UNTRIMMED)
            since.marks = {one.offset: one.position.mark for one in past.entries}
            if past.cut:
                return False, past.top, []
            return True, past.top, unbroken_end(past.entries)
        if self._is_at_the_end(group, position):
            # Often true for many at once: after a restart, all clients of a process come back.
            return True, position, []
        # What is read now must have it already.
        await self._break_now(group)
        losses = group.losses
        past = await self._past(group, position)
        since.marks = {one.offset: one.position.mark for one in past.entries}
        if losses == group.losses:
            group.line.confirm(past.top)
        if judge(past, position) is not Verdict.COMPLETE:
            return False, past.top, []
        return True, past.top, after_offset(past.entries, position.offset)

    def _is_at_the_end(self, group: GroupLine, position: Position) -> bool:
        """Return whether nothing was missed since a position, as far as is known without reading
        the log: no message and no break.
        """
        newest = self._histories.newest(group.log)
        return group.line.is_at(position) and newest == position and not group.breaking

    def end_resuming(self, group: GroupLine, box: Mailbox, since: Since, upto: int) -> None:
        """Deliver what was heard meanwhile and comes after what the log had; nothing if the channel
        does not resume any more.
        """
        since.ended.set()
        if group.resuming.get(box.name) is not since:
            return
        del group.resuming[box.name]
        for entry in since.held:
            if entry.offset > upto and not entry.is_break:
                self._session.deliver([box], group.log, entry)
        group.starts_at(box.name, upto, since.marks)


def _note_missed(boxes: list[Mailbox], log: Log) -> list[Mailbox]:
    """Note for members that they have missed messages."""
    for box in boxes:
        box.missed = {*(box.missed or ()), log.group}
    return boxes
