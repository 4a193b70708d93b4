"""Which processes are dead, as far as this process knows, and whether it may judge.

Decides without I/O.  A process is dead if its lease at a primary has run out and another process
has marked it there (``renew.lua``).  Processes without a lease, such as those of earlier releases,
count as alive.

A process marks others only if all its own renewals were in time for as long as a lease lasts.
After an outage, a restart or a failover all leases may have run out, and each process needs time
to renew its own.

What is known here may be old: a process that was marked may have returned.  So before anything is
removed, the server is asked again.
"""

from __future__ import annotations

from collections.abc import Iterable

from .._runtime import clock
from .._transport.scripts import Judgement, Renewal

#: The number of groups that are remembered to have no members of dead processes.
_GROUPS = 10_000


def process_of(channel: str) -> str:
    """Return the process to which a channel of the core layer belongs; "" if it has none."""
    head, mark, _ = channel.partition("!")
    return head.rpartition(".")[2] if mark else ""


class Deaths:
    """The dead processes at one entry of ``hosts``; ``lease_s`` is the length of a lease."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        #: Processes that were marked once; some may have returned.
        self.known: set[str] = set()
        #: Those that were marked since this process first asked.
        self.found: set[str] = set()
        self._heard: set[str] = set()
        # Groups whose members were all found alive since the last death.
        self._clean: set[str] = set()
        # Since when all renewals were in time, on the monotonic clock.
        self._sound_since: float | None = None
        # When a server last told its time: on the monotonic clock, and on its own.
        self._told: dict[str, tuple[float, float]] = {}
        self._asked_at: dict[str, float] = {}

    @property
    def may_judge(self) -> bool:
        """Whether overdue processes are dead, and not perhaps only late after an outage."""
        since = self._sound_since
        return since is not None and clock.monotonic() - since >= self._lease_s

    def unsettle(self) -> None:
        """Note that a connection was lost, or that a server has changed: with another clock, and
        perhaps with other marks.
        """
        self._sound_since = None
        self._told = {}

    def settle(self, *, sound: bool) -> None:
        """Note whether all renewals of a round were in time."""
        if not sound:
            self._sound_since = None
        elif self._sound_since is None:
            self._sound_since = clock.monotonic()

    def judgement(self, leases: str) -> Judgement:
        """Return what to ask the server with the leases of this key."""
        told = self._told.get(leases)
        if told is None:
            return Judgement()
        told_at, server_s = told
        asked_s = server_s + clock.monotonic() - told_at if self.may_judge else 0.0
        # Overlaps with what is known, because a server's clock may be set back.
        return Judgement(asked_s, max(0.0, server_s - self._lease_s))

    def claim_question(self, leases: str, every_s: float) -> bool:
        """Return whether to ask a server because nobody has for ``every_s`` seconds, and note that
        this is done.
        """
        now = clock.monotonic()
        if now - self._asked_at.get(leases, -every_s) < every_s:
            return False
        self._asked_at[leases] = now
        return True

    def learn(self, leases: str, renewal: Renewal) -> None:
        """Take the answer of a server."""
        self._asked_at[leases] = clock.monotonic()
        self._told[leases] = (self._asked_at[leases], renewal.now_s)
        if leases in self._heard:
            self.found.update(set(renewal.dead) - self.known)
        self._heard.add(leases)
        if renewal.dead:
            self._clean.clear()
            # A new set, because other threads may go through the old one.
            self.known = self.known.union(renewal.dead)

    def returned(self, processes: set[str]) -> None:
        """Note that processes are not marked any more."""
        self.known = self.known - processes

    # Members of groups

    def suspects(self, group: str, channels: Iterable[str]) -> set[str]:
        """Return the processes among those of the channels that may be dead."""
        if group in self._clean:
            return set()
        found = {process_of(channel) for channel in channels} & self.known
        if not found:
            self.cleaned(group)
        return found

    def cleaned(self, group: str) -> None:
        """Note that a group has no members of dead processes, until another process dies."""
        if len(self._clean) >= _GROUPS:
            self._clean.clear()
        self._clean.add(group)

    def is_clean(self, group: str) -> bool:
        """Return whether no member of a group can be dead, as far as is known."""
        return not self.known or group in self._clean
