"""Counters of messages: plain integers, each written by one event loop only.

Incrementing an integer in several threads loses counts, and a lock for each message is too
expensive.  So each event loop has its own counters, which are added up when they are read.
"""

from __future__ import annotations

from .._runtime.native import RLock


class NodeTally:
    """The messages sent to and received from one entry of ``hosts`` on one event loop."""

    __slots__ = ("received", "refused", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.refused = 0
        self.received = 0

    def add(self, other: NodeTally) -> None:
        """Add another tally to this one."""
        self.sent += other.sent
        self.refused += other.refused
        self.received += other.received


#: One for each entry of ``hosts``.
Tally = list[NodeTally]


class Tallies:
    """The counters of a layer: of its event loops, and of those that have ended."""

    def __init__(self, ring_size: int) -> None:
        # Reentrant, because an event loop may be garbage collected wherever memory is allocated.
        self._lock = RLock()
        self._past = _empty(ring_size)
        self._open: list[Tally] = []

    def open(self) -> Tally:
        """Return a tally for one event loop."""
        tally = _empty(len(self._past))
        with self._lock:
            self._open.append(tally)
        return tally

    def close(self, tally: Tally) -> None:
        """Keep the counts of an event loop that has ended.  May be called twice."""
        with self._lock:
            if any(one is tally for one in self._open):
                self._open = [one for one in self._open if one is not tally]
                _add(self._past, tally)

    def total(self) -> Tally:
        """Return the sums."""
        sums = _empty(len(self._past))
        with self._lock:
            for tally in (self._past, *self._open):
                _add(sums, tally)
        return sums


def _empty(ring_size: int) -> Tally:
    return [NodeTally() for _ in range(ring_size)]


def _add(sums: Tally, tally: Tally) -> None:
    for one, other in zip(sums, tally, strict=True):
        one.add(other)
