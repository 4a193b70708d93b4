"""Which memberships of this process were written to a shard, and which to write again: all on core,
those of groups with presence on pubsub.

Decides without I/O, under the lock of the mailboxes.  The present memberships are in
``Mailbox.groups``: group -> time of joining.

Each primary with groups of this process also has a *lease* of the process.  The end of a lease
changes with each renewal.  If a primary has another end than the one written last, or none, it
has lost data: it was emptied, or restored from an older dump, or it is a lagging replica.  Then
all memberships on it are written again.  They are also written again if the process was marked as
dead there (see :mod:`.deaths`).  Memberships written after the last renewal can be missing
on a lagging replica although the lease is right, so these are written again after each new
connection.

A pair of group and channel that has to be written again is *owed*.  It is written as a membership
with its age, or as a leave, depending on the state when it is written.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .._format.keyspace import Keyspace
from .._format.slots import Address, Served
from .._receiving.mailbox import Mailbox
from .._receiving.mailboxes import Mailboxes
from .._runtime import clock

#: The time of joining of a membership that may not exist: it is so long ago that it is never
#: written again, but the end of the mailbox leaves the group.
UNKNOWN = -math.inf


class Pair(NamedTuple):
    """A membership, present or past."""

    group: str
    channel: str


@dataclass(eq=False)
class Joining:
    """A ``group_add()`` on its way."""

    pair: Pair
    box: Mailbox
    #: Whether nothing else may have made the channel a member.
    is_first: bool
    #: Whether something happened meanwhile that may have undone it.
    crossed: bool = False


@dataclass(eq=False)
class Lease:
    """The lease of this process at one primary, which is wherever the slot of the key is."""

    key: str
    #: Its end as the server told it last, in unix seconds; None where it never did.
    end_s: float | None = None
    #: Whether it may have been renewed since: no answer came.
    unanswered: bool = False

    def is_known(self, known_end_s: float | None) -> bool:
        """Return whether the server knows what it was told, given the end that it knows."""
        if self.end_s is None or known_end_s is None:
            return False
        return known_end_s == self.end_s or (self.unanswered and known_end_s > self.end_s)


@dataclass
class Look:
    """One renewal of all leases, and the answers to it: the new end, and the one that was known."""

    number: int
    leases: dict[Address, Lease]
    ends: dict[Lease, tuple[float, float | None]] = field(default_factory=dict)


@dataclass
class Writes:
    """What is written in one go: group -> channel -> time of joining, None for a leave."""

    by_group: dict[str, dict[str, float | None]] = field(default_factory=dict)
    #: The stamp under which each was owed.
    stamps: dict[Pair, int] = field(default_factory=dict)
    #: Whether a server may know an older time of joining.
    may_differ: bool = False
    #: Whether others may be about to remove what they read there, as this process was marked dead.
    was_dead: bool = False

    def add(self, pair: Pair, joined_s: float | None, stamp: int) -> None:
        """Add a pair."""
        self.by_group.setdefault(pair.group, {})[pair.channel] = joined_s
        self.stamps[pair] = stamp


class Memberships:
    """The groups of this process at one shard; ``is_here(group)`` tells which groups those are."""

    def __init__(
        self,
        mailboxes: Mailboxes,
        keys: Keyspace,
        is_here: Callable[[str], bool],
        group_expiry_s: float,
    ) -> None:
        self._mailboxes = mailboxes
        self.lock = mailboxes.lock
        self._keys = keys
        self._is_here = is_here
        self._group_expiry_s = group_expiry_s
        self._joinings: dict[Pair, list[Joining]] = {}
        self._leases: dict[Address, Lease] = {}
        #: Who served what when the primaries were chosen that have a lease.
        self._served: Served | None = None
        self._unleased = False
        # What was written, by the number of looks at that time, until a look confirms it.
        self._recent: dict[Pair, int] = {}
        self._looks = 0
        self._reconnected = False
        self._owed: dict[Pair, int] = {}
        self._has_lost = False
        self._was_dead = False
        #: The end of a lease that was written before the first membership; -1 if there is none.
        self.first_end_s = -1.0
        #: Returns the groups for which this process has something to do, even without members.
        self.duties: Callable[[], set[str]] = set
        self._stamps = itertools.count()

    # What the application does

    def begin(self, group: str, box: Mailbox) -> Joining:
        """Note that a channel is about to join a group: the end of its mailbox leaves it."""
        with self.lock:
            if box.groups is None:
                box.groups = {}
            joining = Joining(Pair(group, box.name), box, is_first=group not in box.groups)
            # An older membership counts until the new one is known to have worked.
            box.groups.setdefault(group, UNKNOWN)
            self._joinings.setdefault(joining.pair, []).append(joining)
        return joining

    def end(self, joining: Joining, worked: bool | None) -> None:
        """Note how a ``group_add()`` ended; None: nobody has waited for its end."""
        pair, box = joining.pair, joining.box
        with self.lock:
            others = self._joinings[pair]
            others.remove(joining)
            if not others:
                del self._joinings[pair]
            groups = box.groups if self._mailboxes.boxes.get(pair.channel) is box else None
            if groups is None or pair.group not in groups:
                # It was left meanwhile, perhaps before it was joined.
                self._owe(pair)
                return
            if worked is not False:
                for other in others:
                    other.is_first = False
            elif joining.is_first and others:
                others[0].is_first = True
            elif joining.is_first:
                del groups[pair.group]
            if worked:
                groups[pair.group] = clock.monotonic()
                self._note(pair)
            if joining.crossed:
                self._owe(pair)

    def part(self, group: str, channel: str) -> None:
        """Note that a channel is about to leave a group."""
        with self.lock:
            box = self._mailboxes.boxes.get(channel)
            if box is not None and box.groups is not None:
                box.groups.pop(group, None)

    def parted(self, group: str, channel: str) -> None:
        """Note that a ``group_discard()`` has worked."""
        with self.lock:
            if self._primary(group) in self._leases:
                self._note(Pair(group, channel))

    def owe(self, group: str, channel: str) -> None:
        """Note that the server may not know how things stand."""
        with self.lock:
            self._owe(Pair(group, channel))

    def forget(self) -> list[Lease]:
        """Forget all that the server was told; return the leases, which end with it."""
        with self.lock:
            leases = list(self._leases.values())
            self._leases, self._served, self._unleased = {}, None, False
            self._recent, self._owed = {}, {}
            return leases

    # What there is to do

    @property
    def has_state(self) -> bool:
        """Whether anything was written to the server, or has to be.  Needs no lock."""
        return bool(self._leases or self._recent or self._owed)

    @property
    def is_used(self) -> bool:
        """Whether there is state, or a ``group_add()`` is on its way.  Needs no lock."""
        return self.has_state or bool(self._joinings)

    @property
    def has_leases(self) -> bool:
        """Whether leases are renewed; may be asked without the lock."""
        return bool(self._leases)

    @property
    def is_due(self) -> bool:
        """Whether something is owed, or was written where there is no lease."""
        return bool(self._owed) or self._unleased

    @property
    def is_over(self) -> bool:
        """Whether there are leases and no memberships any more."""
        with self.lock:
            return bool(self._leases) and self._is_idle()

    def reconnected(self) -> None:
        """Note that there is a new connection, perhaps to a server that knows less."""
        self._reconnected = True

    # Renewing the leases

    def look(self) -> Look:
        """Return the leases to renew."""
        with self.lock:
            self._looks += 1
            return Look(self._looks, dict(self._leases))

    def learn(self, look: Look) -> bool:
        """Take the answers, of which some may be missing; return whether a server has lost data."""
        with self.lock:
            known: dict[Address, bool] = {}
            loss = False
            for address, lease in look.leases.items():
                if lease not in look.ends:
                    lease.unanswered = True
                    continue
                end_s, known_end_s = look.ends[lease]
                known[address] = lease.is_known(known_end_s) or known_end_s == self.first_end_s
                # The mark of a dead process is minus a time (see renew.lua).
                self._was_dead = self._was_dead or (known_end_s or 0) < 0
                loss = loss or not (known[address] or lease.end_s is None)
                lease.end_s, lease.unanswered = end_s, False
            again = self._reconnected
            self._has_lost = self._has_lost or loss or again
            if len(known) == len(look.leases):
                self._reconnected = False
            if again or not all(known.values()):
                self._cross(*self._joinings)
            self._settle(look, known, again)
            return loss

    def _settle(self, look: Look, known: dict[Address, bool], again: bool) -> None:
        """Forget what is confirmed, and owe what may have been lost."""
        for pair, looks in list(self._recent.items()):
            primary = self._primary(pair.group)
            if primary in known and (again or not known[primary]):
                self._owe(pair)
            elif primary in known and looks < look.number:
                del self._recent[pair]
        lost = {address for address, right in known.items() if not right}
        for pair in self._everything() if lost else ():
            if self._primary(pair.group) in lost:
                self._owe(pair)

    def place(self, served: Served) -> tuple[list[Lease], bool]:
        """Have a lease at each primary that has groups; return those that are over, and whether
        there are new ones.
        """
        with self.lock:
            if self._is_idle():
                over = list(self._leases.values())
                self._leases, self._served, self._unleased, self._recent = {}, None, False, {}
                return over, False
            if served == self._served and not self._unleased:
                return [], False
            groups = self.duties().union(pair.group for pair in self._everything())
            used = {served.by(self._keys.group(group)) for group in groups}
            homes = {lease: served.by(lease.key) for lease in self._leases.values()}
            if None in used or None in homes.values():
                return [], False  # Until all have a server again: the leases tell what it knows.
            leases: dict[Address, Lease] = {}
            for lease, home in homes.items():
                if home is not None and home in used:
                    leases.setdefault(home, lease)
            new = used - {None} - leases.keys()
            leases.update({home: self._new_lease(home, served) for home in new if home is not None})
            self._move(leases, served)
            return [lease for lease in homes if lease not in leases.values()], bool(new)

    def _move(self, leases: dict[Address, Lease], served: Served) -> None:
        """Go by other leases, or by the same at other primaries."""
        before = {pair: self._lease_of(pair) for pair in (*self._everything(), *self._recent)}
        self._leases, self._served, self._unleased = leases, served, False
        for pair, lease in before.items():
            now = self._lease_of(pair)
            if now is None:
                self._recent.pop(pair, None)
            elif now is not lease and now.end_s is not None:
                # This lease says nothing of a slot that came from elsewhere.
                self._owe(pair)

    def _lease_of(self, pair: Pair) -> Lease | None:
        primary = self._primary(pair.group)
        return self._leases.get(primary) if primary is not None else None

    def _new_lease(self, primary: Address, served: Served) -> Lease:
        """Return a lease with the first key that its primary serves: the same in all processes."""
        keys = (self._keys.leases(number) for number in itertools.count())
        return Lease(next(key for key in keys if served.by(key) == primary))

    def lease_key(self, group: str, served: Served) -> str | None:
        """Return the key of the leases at the primary of a group; None if none is known."""
        primary = served.by(self._keys.group(group))
        if primary is None:
            return None
        with self.lock:
            lease = self._leases.get(primary)
        return (lease or self._new_lease(primary, served)).key

    # Writing what is owed

    def batch(self, limit: int, passed: set[object]) -> Writes:
        """Return what to write now, ``limit`` pairs at most, but for the groups that are passed
        over, or whose primaries are.
        """
        with self.lock:
            writes = Writes(may_differ=self._has_lost, was_dead=self._was_dead)
            for pair, stamp in list(self._owed.items()):
                if passed & {pair.group, self._primary(pair.group)} or self._is_moot(pair):
                    continue
                writes.add(pair, self._joined_s(pair), stamp)
                if len(writes.stamps) == limit:
                    break
            self._has_lost = self._has_lost and bool(self._owed)
            self._was_dead = self._was_dead and bool(self._owed)
            return writes

    def _is_moot(self, pair: Pair) -> bool:
        """Drop what need not be written; return whether it was."""
        joined_s = self._joined_s(pair)
        if joined_s is None or clock.monotonic() - joined_s < self._group_expiry_s:
            return False
        # Over, or being joined just now: at the end of that it is known how things stand.
        self._cross(pair)
        del self._owed[pair]
        return True

    def written(self, group: str, writes: Writes) -> None:
        """Note that what there was for a group was written."""
        with self.lock:
            for channel, joined_s in writes.by_group[group].items():
                pair = Pair(group, channel)
                self._cross(pair)
                if self._joined_s(pair) != joined_s:
                    # It changed meanwhile, and that may have been written before this was.
                    self._owe(pair)
                elif self._owed.get(pair) == writes.stamps[pair]:
                    del self._owed[pair]
                    self._note(pair)

    def drop_left(self, entries: dict[Pair, Any], pair: Pair) -> None:
        """Drop the entry of a pair whose leave was written, unless it has joined again."""
        with self.lock:
            if self._joined_s(pair) is None and pair not in self._joinings:
                entries.pop(pair, None)

    def owe_ended(self, entries: dict[Pair, Any]) -> set[str]:
        """Owe the leaves of pairs whose membership is gone without one, as after ``flush()``;
        return the groups of all pairs.
        """
        with self.lock:
            here = [pair for pair in entries if self._is_here(pair.group)]
            for pair in here:
                if self._joined_s(pair) is None and pair not in self._joinings:
                    self._owe(pair)
            return {pair.group for pair in here}

    def primary(self, group: str) -> Address | None:
        """Return who has a group, as far as is known."""
        with self.lock:
            return self._primary(group)

    def _primary(self, group: str) -> Address | None:
        return self._served.by(self._keys.group(group)) if self._served is not None else None

    def _is_idle(self) -> bool:
        return not self.duties() and next(self._everything(), None) is None

    def _everything(self) -> Iterator[Pair]:
        for box in self._mailboxes.boxes.values():
            for group, joined_s in (box.groups or {}).items():
                if joined_s != UNKNOWN and self._is_here(group):
                    yield Pair(group, box.name)

    def _joined_s(self, pair: Pair) -> float | None:
        box = self._mailboxes.boxes.get(pair.channel)
        return box.groups.get(pair.group) if box is not None and box.groups is not None else None

    def _note(self, pair: Pair) -> None:
        """Note that a pair was written just now."""
        self._recent[pair] = self._looks
        if self._primary(pair.group) not in self._leases:
            self._unleased = True

    def _owe(self, pair: Pair) -> None:
        self._owed[pair] = next(self._stamps)
        self._recent.pop(pair, None)

    def _cross(self, *pairs: Pair) -> None:
        for pair in pairs:
            for joining in self._joinings.get(pair, ()):
                joining.crossed = True
