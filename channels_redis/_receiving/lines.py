"""Which messages of a group a process has: what it hears, and what it reads in the log, in one
line without holes. Does no I/O.

A *line* is the process's place in one group. A message that is the next one is delivered at once.
After a lost connection, or at a hole, the line is *catching up*: it holds what it hears until the
log was read, and then goes on with what was missed and what it has held, each once and in order.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from itertools import pairwise

from .._format.positions import UNLOGGED_BREAK, Entry, Past, Position

#: The newest positions that a line knows again.
_REMEMBERED = 1000
#: The most messages that a line holds. What comes before them is read in the log.
_MAX_HELD = 10_000


class Verdict(enum.Enum):
    """How far what a server knows is all that came after a position."""

    COMPLETE = "complete"
    #: The log has no place for this position: somebody's messages are lost.
    UNKNOWN = "unknown"
    #: The log begins after this position, or has a break after it, or there were too many entries.
    INCOMPLETE = "incomplete"


def judge(past: Past, since: Position) -> Verdict:
    """Return whether the entries after a position are everything that was sent after it.

    Each entry has the mark of the one before it, so a chain of entries from the position to the
    top proves it, whatever happened to the server. ``past`` must have been asked for from the
    offset of ``since`` on.
    """
    if since == past.top:
        return Verdict.COMPLETE
    at = next((one for one in past.entries if one.offset == since.offset), None)
    after = after_offset(past.entries, since.offset)
    if past.top.offset <= since.offset or (at is not None and at.position != since):
        return Verdict.UNKNOWN
    if past.cut or not after or after[-1].position != past.top:
        return Verdict.INCOMPLETE
    return Verdict.COMPLETE if _is_chain(since, after) else Verdict.INCOMPLETE


def after_offset(entries: list[Entry], offset: int) -> list[Entry]:
    """Return the entries after an offset."""
    return [one for one in entries if one.offset > offset]


def unbroken_end(entries: list[Entry]) -> list[Entry]:
    """Return the newest entries without a break or a hole among them."""
    start = 0
    for index, entry in enumerate(entries):
        if entry.is_break:
            start = index + 1
        elif index and not _follows(entries[index - 1].position, entry):
            start = index
    return entries[start:]


def _is_chain(since: Position, entries: list[Entry]) -> bool:
    if any(one.is_break for one in entries) or not _follows(since, entries[0]):
        return False
    return all(_follows(one.position, other) for one, other in pairwise(entries))


def _follows(position: Position, entry: Entry) -> bool:
    return entry.offset == position.offset + 1 and entry.before == position.mark


class Heard(enum.Enum):
    """What to do with a message that was heard."""

    DELIVER = "deliver"
    #: It was delivered before, or is kept until the line has caught up.
    NOTHING = "nothing"
    #: Something before it is missing: the line catches up, and keeps it until then.
    HOLE = "hole"


class CaughtUp:
    """How a catch-up ended."""

    __slots__ = ("again", "complete", "held", "missed")

    def __init__(self, complete: bool, missed: list[Entry]) -> None:
        #: Whether ``missed`` is all that was missed; it is empty if not.
        self.complete = complete
        self.missed = missed
        #: What was heard meanwhile and comes after it.
        self.held: list[Entry] = []
        #: Whether the line has to catch up once more.
        self.again = False


class Line:
    """The place of a process in one group, which starts at the position of its log.

    On pubsub, at first and after messages were lost, the log may have been read before or after
    what is heard next, so the line goes on from there, wherever that is. A ``queued`` line is for
    messages that come in any order, as on core: it goes on from its position, and a hole may be
    filled by what comes a little later (see :meth:`fill`).
    """

    __slots__ = ("_exact", "_held", "_known", "_lost", "_queued", "position")

    def __init__(self, position: Position, *, queued: bool = False) -> None:
        self.position = position
        self._queued = self._exact = queued
        self._held: list[Entry] | None = None
        # Whether only the log can tell how the line goes on.
        self._lost = False
        # Offset -> mark of what was delivered, so that a repetition is told from another server's
        # entry with the same offset.
        self._known: OrderedDict[int, bytes] = OrderedDict()

    @property
    def catching_up(self) -> bool:
        """Whether the log has to be read."""
        return self._held is not None

    def is_behind_since(self, position: Position) -> bool:
        """Return whether the line still has to go on from a position."""
        return self.catching_up and self.position == position

    def is_at(self, position: Position) -> bool:
        """Return whether everything after a position is still to be heard.  A queued line can't
        tell, as what is not heard yet may be addressed to other channels.
        """
        is_told = self._exact and not self._queued and self._held is None
        return is_told and position == self.position

    def confirm(self, top: Position) -> None:
        """Note that the log ended at ``top`` while the subscription was heard."""
        if self._held is None and top == self.position:
            self._exact = True

    def hear(self, entry: Entry) -> Heard:
        """Take a message or a break from the subscription."""
        if self._held is not None:
            self._held.append(entry)
            if len(self._held) > _MAX_HELD:
                del self._held[0]
            return Heard.NOTHING
        if not self._exact or entry.offset == self.position.offset + 1:
            self._advance(entry.position)
            self._exact = True
            return Heard.DELIVER
        if self._known.get(entry.offset) == entry.position.mark:
            return Heard.NOTHING
        self._held = [entry]
        return Heard.HOLE

    def fill(self) -> list[Entry]:
        """Return what a queued line holds and can go on with by now."""
        if not self._queued or self._held is None or self._lost:
            return []
        filled = []
        for entry in sorted(self._held, key=_offset_of):
            if entry.offset == self.position.offset + 1:
                self._advance(entry.position)
                filled.append(entry)
        self._held = [one for one in self._held if one.offset > self.position.offset] or None
        return filled

    def lose(self) -> None:
        """Note that the subscription was interrupted: the line catches up."""
        self._lost = True
        if self._held is None:
            self._held = []

    def catch_up(self, past: Past | None) -> CaughtUp:
        """Go on with what a server knows, asked for from the offset of :attr:`position` on; None
        if it could not be read.
        """
        held, self._held = self._held or [], None
        self._lost = False
        since = self.position
        complete = past is not None and judge(past, since) is Verdict.COMPLETE
        missed = after_offset(past.entries, since.offset) if past is not None and complete else []
        for entry in missed:
            self._advance(entry.position)
        if not complete and past is not None:
            self._advance(past.top)
        # Where messages are lost, what was heard is delivered as it would be without a history.
        self._exact = complete or self._queued
        outcome = CaughtUp(complete, missed)
        if self._queued:
            held.sort(key=_offset_of)
            if not complete and held and held[0].offset > since.offset:
                # The log does not have what is missing, so the line goes on without it.
                self.position = Position(held[0].offset - 1, b"")
        self._take(held, outcome)
        return outcome

    def _take(self, held: list[Entry], outcome: CaughtUp) -> None:
        for index, entry in enumerate(held):
            heard = self.hear(entry)
            if heard is Heard.DELIVER:
                outcome.held.append(entry)
            elif heard is Heard.HOLE:
                if self._was_read_late(entry):
                    # It is older than what the log had: another server's, or long known.
                    self._held = None
                    continue
                outcome.again = True
                self._held = held[index:]
                return

    def _was_read_late(self, entry: Entry) -> bool:
        return entry.offset <= self.position.offset

    def _advance(self, position: Position) -> None:
        self.position = position
        self._known[position.offset] = position.mark
        self._known.move_to_end(position.offset)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _offset_of(entry: Entry) -> int:
    return entry.offset


def tells_loss(entry: Entry) -> bool:
    """Return whether a break that was heard says that this process may have missed messages: it
    has heard itself what is in no log.
    """
    return entry.is_break and entry.payload != UNLOGGED_BREAK
