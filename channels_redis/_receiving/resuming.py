"""Where a channel resumes in a group with a history."""

from __future__ import annotations

import asyncio

from .._format.histories import Log
from .._format.positions import Entry, Position


class Since:
    """A channel that resumes; ``position`` is None for all that is kept.

    ``names`` are those that the channel has and had, for messages that exclude it. ``carried`` is
    for one whose consumer has not asked for it: another event loop feeds it from now on.
    """

    __slots__ = ("carried", "ended", "held", "log", "marks", "names", "position")

    def __init__(
        self,
        log: Log,
        position: Position | None,
        names: frozenset[str],
        *,
        carried: bool = False,
    ) -> None:
        self.log = log
        self.position = position
        self.names = names
        self.carried = carried
        #: Offset -> mark of what was read in the log.
        self.marks: dict[int, bytes] = {}
        #: What was heard since the channel has joined the group.
        self.held: list[Entry] = []
        self.ended = asyncio.Event()
