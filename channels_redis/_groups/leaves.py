"""Which leaves of users this process has to announce, and when.  Decides without I/O.

A user has left when the grace after the last of its channels is over.  Redis keeps the leave until
it was announced (``presence_announce.lua``).  A process announces those that it has caused, and
those of dead processes that it has cleaned up after.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from .._runtime import clock
from .._transport.presence import AGAIN_S


class Leave(NamedTuple):
    """A user who leaves a group."""

    group: str
    person: str


class Leaves:
    """The leaves that this process has to announce."""

    def __init__(self) -> None:
        # When, on the monotonic clock, and how often it was tried.
        self._due: dict[Leave, tuple[float, int]] = {}
        self._expected: Counter[str] = Counter()

    def add(self, group: str, persons: list[str], delay_s: float) -> None:
        """Announce leaves after ``delay_s`` seconds."""
        due_at = clock.monotonic() + max(0.0, delay_s)
        for person in persons:
            self._due[Leave(group, person)] = (due_at, 0)

    @contextlib.contextmanager
    def expected(self, group: str) -> Iterator[None]:
        """Note that a leave of this group may be added."""
        self._expected[group] += 1
        try:
            yield
        finally:
            self._expected[group] -= 1
            if not self._expected[group]:
                del self._expected[group]

    def due(self) -> dict[str, list[str]]:
        """Return the persons by group whose leaves are due."""
        now = clock.monotonic()
        found: dict[str, list[str]] = {}
        for leave, (due_at, _) in self._due.items():
            if due_at <= now:
                found.setdefault(leave.group, []).append(leave.person)
        return found

    def done(self, group: str, person: str) -> None:
        """Note that a leave was announced."""
        self._due.pop(Leave(group, person), None)

    def passed(self, group: str, person: str) -> None:
        """Note that a leave was not there to announce: the user is back, or another process has
        begun to announce it, and may die before it is done.
        """
        leave = Leave(group, person)
        tries = self._due.get(leave, (0.0, 1))[1]
        if tries:
            self._due.pop(leave, None)
        else:
            self._due[leave] = (clock.monotonic() + AGAIN_S, tries + 1)

    def groups(self) -> set[str]:
        """Return the groups with leaves."""
        return {leave.group for leave in tuple(self._due)} | set(self._expected)

    def next_s(self) -> float | None:
        """Return the seconds until the next leave is due; None if there is none."""
        if not self._due:
            return None
        return max(0.0, min(due_at for due_at, _ in self._due.values()) - clock.monotonic())
