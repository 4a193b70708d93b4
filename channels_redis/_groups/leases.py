"""Writes the memberships of this process to a shard, and restores them after a loss: all on core,
those of groups with presence on pubsub.

Does the I/O for :mod:`.memberships`: joining, leaving, renewing leases, and writing memberships
again.  The latter two are done by one task at a time, on the first event loop of the layer that
can do it.  If synchronous code blocks all others, that is the portal's.

The renewal of a lease also tells which other processes are dead (:mod:`.deaths`).  Their members
are left out, and removed from the groups that are read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol
from weakref import ref

from .._format.keyspace import Keyspace
from .._receiving.mailbox import Mailbox
from .._receiving.mailboxes import Mailboxes
from .._runtime import clock
from .._runtime.loops import LoopStates, running_loop_or_none
from .._runtime.portal import portal
from .._runtime.tasks import ignore
from .._runtime.weakly import weakly
from .._session import Session
from .._transport import scripts
from .._watch.outages import Health
from ..exceptions import COMMAND_ERRORS, ConnectionLost, LayerClosed
from ..presence import Presence
from .attendance import Attendance, SendEvent
from .deaths import Deaths, process_of
from .memberships import Lease, Look, Memberships, Pair, Writes
from .people import Entry, People
from .writers import Writer

#: The maximum time until a renewal is due: a third of a lease.  It then begins with the next tick,
#: up to 2 s later.
RENEWAL_S = 10.0
LEASE_S = 30.0
#: How long a server keeps a lease after its end, at least.  A process that was stopped for less
#: than this can still find out that nothing was lost.  The members of a dead process are known as
#: such until they expire, so it is never less than ``group_expiry``.
KEPT_S = 3600.0
#: The maximum time between two looks at the leaves to announce, if there are any.
ANNOUNCE_S = 1.0
#: An event loop of consumers that has not run for this time is blocked, or has ended.
BLOCKED_S = 5.0
#: After a loss, processes start to write at random times within this time.
SPREAD_S = 0.5
#: If a server has lost data, a time of joining that is older by more than this is replaced.
PRECISION_S = 1.0
#: Larger than any age, for a server that has lost nothing; with a minus sign, every time of joining
#: is replaced.
ANY_AGE_S = 1e12
#: The maximum number of memberships in one batch.
BATCH = 1000


class Remembering(Protocol):
    """The layer to which the memberships belong."""

    client_prefix: str
    group_expiry: float
    ring_size: int
    _health: list[Health]
    _mailboxes: Mailboxes
    _sessions: LoopStates[Any]

    def consistent_hash(self, name: str) -> int:
        """Return the index of the shard of a group."""
        ...


class Keepers:
    """The memberships of a layer, by shard."""

    def __init__(
        self,
        layer: Remembering,
        keys: Keyspace,
        people: People,
        send_event: SendEvent,
        logger: logging.Logger,
        *,
        stores_groups: bool,
        rejoined: Callable[[str], object] | None = None,
    ) -> None:
        self._hash = weakly(layer.consistent_hash, 0)
        self._keys = keys
        self._people = people
        self._stores_groups = stores_groups
        self._layer = ref(layer)
        self._sessions = layer._sessions
        find = self._sessions.find
        is_at = weakly(self._is_at, False)
        backup = weakly(self._ensure_backup, False)
        self._all = [
            Keeper(
                layer, self._writer(layer, shard), is_at, find, backup, send_event, logger, rejoined
            )
            for shard in range(layer.ring_size)
        ]
        # The session on the portal's loop, for when no loop of consumers runs.
        self._backup_session: ref[Session] | None = None
        # When a loop of consumers was last seen running, on the monotonic clock.
        self._beat_at: float | None = None

    @property
    def dead_processes(self) -> int:
        """The number of processes that were found dead since this one has a lease."""
        return len(set().union(*[keeper.deaths.found for keeper in self._all]))

    @property
    def announced_leaves(self) -> int:
        """The number of users whose leaves this process has announced."""
        return sum(keeper.attendance.announced_leaves for keeper in self._all)

    def _writer(self, layer: Remembering, shard: int) -> Writer:
        process, expiry_s = layer.client_prefix, layer.group_expiry
        # They are refreshed with the renewals of leases, which may be rarer than a short expiry.
        presence_expiry_s = max(expiry_s, 2 * LEASE_S)
        return Writer(
            shard,
            self._keys,
            process,
            expiry_s,
            presence_expiry_s,
            self._people,
            stores_groups=self._stores_groups,
        )

    def _is_at(self, group: str, shard: int) -> bool:
        return self._keeps(group) and self._shard_of(group) == shard

    def _keeps(self, group: str) -> bool:
        return self._stores_groups or self._people.options(group) is not None

    def _shard_of(self, group: str) -> int:
        return self._hash(group if self._stores_groups else self._keys.group_topic(group))

    def of(self, group: str) -> Keeper:
        """Return the keeper of a group."""
        return self._all[self._shard_of(group)] if len(self._all) > 1 else self._all[0]

    def leave(self, session: Session, boxes: Iterable[Mailbox]) -> None:
        """Leave the groups of mailboxes that have ended."""
        for box in boxes:
            for group in filter(self._keeps, box.groups or ()):
                self.of(group).owe(session, group, box.name)

    def tick(self, session: Session) -> None:
        """Start the work that is due on any shard; called every few seconds on each loop."""
        if not portal.is_portal(session.loop):
            self._beat_at = clock.monotonic()
        if self._is_needed():
            self._ensure_backup(session)
        for keeper in self._all:
            keeper.tick(session)

    def request(self, session: Session) -> None:
        """Write what is owed on any shard."""
        for keeper in self._all:
            keeper.request(session)

    def is_relieved(self, session: Session) -> bool:
        """Return whether a session has nothing to do, because it is the portal's and consumers'
        event loops run.
        """
        if self._beat_at is None or not portal.is_portal(session.loop):
            return False
        return clock.monotonic() - self._beat_at < BLOCKED_S

    def _is_needed(self) -> bool:
        return any(keeper.memberships.is_used for keeper in self._all)

    def _ensure_backup(self, session: Session) -> bool:
        """Have a session on the portal's loop, which opens no connection unless it is needed;
        return whether there is one, or will be in a moment.
        """
        portal.restart_for(self)
        if portal.is_portal(session.loop):
            return True
        self._beat_at = clock.monotonic()
        backup = self._backup_session() if self._backup_session is not None else None
        return (backup is not None and not backup.closing) or self._start_backup()

    def _start_backup(self) -> bool:
        try:
            portal.call_soon(weakly(self._open_backup, None))
        except LayerClosed:  # At the exit of the interpreter no thread can be started.
            return False
        return True

    def _open_backup(self, _: asyncio.AbstractEventLoop) -> None:
        layer = self._layer()  # kept while its session is opened
        # The layer may have been closed meanwhile.
        if layer is not None and self._is_needed():
            self._backup_session = ref(self._sessions.get())

    def restarted(self) -> None:
        """Return to the portal, which was stopped for a fork.

        If a loop of consumers runs, its next sweep does so: Python 3.12 and later warn of a thread
        that is started in a fork's last moment.
        """
        if self._is_needed() and not any(loop.is_running() for loop in self._sessions.all()):
            self._start_backup()

    async def forget(self, session: Session) -> None:
        """Forget what was written to the servers, and delete the leases on them."""
        await asyncio.gather(*[keeper.forget(session) for keeper in self._all])

    def forget_closed(self) -> None:
        """Forget what was written to the servers, where it will expire."""
        for keeper in self._all:
            keeper.forget_closed()
        # Otherwise its thread and the sockets of its loop would be left of a layer that is closed.
        portal.leave(self, self._backup_session() if self._backup_session is not None else None)


class Keeper:
    """The memberships of a layer at one entry of ``hosts``, on all its event loops."""

    def __init__(
        self,
        layer: Remembering,
        writer: Writer,
        is_at: Callable[[str, int], bool],
        session_of: Callable[[asyncio.AbstractEventLoop], Session | None],
        ensure_backup: Callable[[Session], bool],
        send_event: SendEvent,
        logger: logging.Logger,
        rejoined: Callable[[str], object] | None = None,
    ) -> None:
        shard = self._shard = writer.shard

        def is_here(group: str) -> bool:
            return is_at(group, shard)

        self._logger = logger
        #: Called with the name of a group whose members were written again.
        self._rejoined = rejoined
        self._health = layer._health[self._shard]
        self._health.recovery = self
        self._keys = writer.keys
        self._writer = writer
        #: The name of the leases.
        self._process = writer.process
        self._group_expiry_s = layer.group_expiry
        self._session_of = session_of
        self._ensure_backup = ensure_backup
        self._kept_s = max(KEPT_S, layer.group_expiry)
        # On pubsub, who has subscribed is a member for any time.
        expiry_s = layer.group_expiry if writer.stores_groups else math.inf
        self.memberships = Memberships(layer._mailboxes, self._keys, is_here, expiry_s)
        #: What is known of other processes.
        self.deaths = Deaths(LEASE_S)
        self.attendance = Attendance(writer, self.deaths, self._ask_about, send_event)
        self.memberships.duties = self.attendance.leaves.groups
        self._announcing: ref[asyncio.Task[None]] | None = None
        self._has_asked_lease = False
        #: Whether a lease was left to run out on the server, because the layer was closed.
        self._may_be_dead = False
        # A weak reference, because tasks reference their loops, which may be dropped.
        self._task: ref[asyncio.Task[None]] | None = None
        self._began_at = 0.0
        self._due_at = 0.0
        self._requested = False
        self._refused_with = ""

    # Called by the layer

    async def join(
        self, session: Session, group: str, box: Mailbox, entry: Entry | None = None
    ) -> None:
        """Add the channel of a mailbox to a group; ``entry`` is for a group with presence."""
        joining = self.memberships.begin(group, box)
        worked: bool | None = None
        try:
            if entry is not None:
                self._writer.people.entries[joining.pair] = entry
            if entry is not None or self._may_be_dead:
                await self._ensure_lease(session, group)
            changes = await self._writer.join(session, group, box.name)
            worked = True
        except COMMAND_ERRORS as error:
            worked = getattr(error, "maybe_executed", False)
            raise
        finally:
            self.memberships.end(joining, worked)
            if self.memberships.is_due:
                self.request(session)
        if entry is not None:
            self._leaving(session, group, changes.leaving)
            await self.attendance.announce_joins(session, group, changes.joined, [entry])

    async def leave(self, session: Session, group: str, channel: str) -> None:
        """Remove a channel of this process from a group."""
        self.memberships.part(group, channel)
        try:
            # Meanwhile the lease is kept, even if this is the last channel.
            with self.attendance.leaves.expected(group):
                persons = await self._writer.leave(session, group, [channel])
                self._leaving(session, group, persons)
        except (ConnectionLost, asyncio.CancelledError):
            self.owe(session, group, channel)
            raise
        self.memberships.parted(group, channel)
        self.memberships.drop_left(self._writer.people.entries, Pair(group, channel))

    def _leaving(self, session: Session, group: str, persons: list[str]) -> None:
        """Announce that persons have left, when their grace is over."""
        options = self._writer.people.options(group)
        if persons and options is not None:
            self.attendance.leaves.add(group, persons, options.grace_s)
            self._announce(session)

    def _announce(self, session: Session) -> None:
        """Run the task that announces leaves, if there are any and it does not run."""
        if not self.attendance.leaves.groups() or session.closing:
            return
        task = self._announcing() if self._announcing is not None else None
        if task is None or task.done() or not task.get_loop().is_running():
            work = self._announce_all(session)
            self._announcing = ref(session.background(work, "announce leaves"))

    async def _announce_all(self, session: Session) -> None:
        leaves = self.attendance.leaves
        while (wait_s := leaves.next_s()) is not None:
            # A leave with a shorter grace may be added meanwhile.
            await asyncio.sleep(min(wait_s, ANNOUNCE_S))
            try:
                await self.attendance.announce_leaves(session)
            except COMMAND_ERRORS:  # Redis still has it, and others take it if this process dies.
                await asyncio.sleep(ANNOUNCE_S)

    async def _ensure_lease(self, session: Session, group: str) -> None:
        """Have a lease before the first member is written, so that other processes notice if this
        one is killed and its members are left behind, and do not go by the end of an earlier lease.
        """
        if self._has_asked_lease or self.memberships.has_leases:
            return
        leases = self.memberships.lease_key(group, session.backend(self._shard).served())
        if leases is not None:
            self._has_asked_lease = True
            lease_s = self._lease_s(session)
            self.memberships.first_end_s = (await self._ask(session, leases, lease_s)).end_s
            self._may_be_dead = False

    def _lease_s(self, session: Session) -> float:
        """Return how long a lease that is written now lasts.

        From now on it has to be renewed, also if this loop is blocked or ends at once.  If no
        thread can be started for that, it lasts as long as the memberships.
        """
        return LEASE_S if self._ensure_backup(session) else self._kept_s

    def owe(self, session: Session, group: str, channel: str) -> None:
        """Schedule leaving a group, for a channel that has ended or whose leave failed."""
        self.memberships.owe(group, channel)
        self.request(session)

    async def forget(self, session: Session) -> None:
        """Forget what was written to the server, because all groups are deleted."""
        held = self._writer.held
        await asyncio.gather(*[self._end(session, lease) for lease in self.forget_closed()])
        self._may_be_dead = False
        if held:
            await self._writer.release(session, held)

    def forget_closed(self) -> list[Lease]:
        """Forget what was written to the server; return the leases that it still has."""
        # The end of an outage no longer depends on the memberships.
        self._health.gone(self)
        self._has_asked_lease = False
        self._writer.held = set()
        leases = self.memberships.forget()
        self._may_be_dead = self._may_be_dead or bool(leases)
        return leases

    async def members(
        self, session: Session, group: str, before: asyncio.Future[Any] | None = None
    ) -> list[str]:
        """Return the members of a group in all processes, in the order of joining, except those of
        dead processes (``before``: see :func:`.scripts.members`).
        """
        key = self._keys.group(group)
        commands = session.commands(self._shard, key)
        found = await scripts.members(commands, key, self._group_expiry_s, before)
        names = [name.decode("utf-8", "replace") for name in found]
        if self.memberships.has_leases and self.deaths.is_clean(group):
            return names
        leases = self.memberships.lease_key(group, session.backend(self._shard).served())
        if leases is None:
            return names
        with contextlib.suppress(*COMMAND_ERRORS):  # What is known then has to do.
            if self.deaths.claim_question(leases, LEASE_S / 2):
                await self._ask(session, leases)
            if not self.deaths.is_clean(group):
                return await self._living(session, group, leases, names)
        return names

    async def _living(
        self, session: Session, group: str, leases: str, names: list[str]
    ) -> list[str]:
        """Return the names without those of dead processes, and remove these from the group."""
        suspects = self.deaths.suspects(group, names)
        if not suspects:
            return names
        key = self._keys.group(group)
        commands = session.commands(self._shard, key)
        # First the members, then the marks: a process that returns removes its mark before it
        # writes its members again, and these are not those that are removed.
        members = await scripts.members_with_times(commands, key)
        there = session.commands(self._shard, leases)
        asked = scripts.Judgement()  # about all that were ever marked
        answer = await scripts.renew(there, leases, self._process, 0, self._kept_s, asked)
        dead = set(answer.dead)
        self.deaths.returned(suspects - dead)
        gone = [member for member in members if process_of(member[0]) in dead]
        if gone:
            await scripts.remove_dead(commands, key, gone)
        return [name for name, _ in members if process_of(name) not in dead]

    async def size(self, session: Session, group: str) -> int:
        """Return the number of these members."""
        if not self.deaths.is_clean(group):
            return len(await self.members(session, group))
        key = self._keys.group(group)
        return await scripts.size(session.commands(self._shard, key), key, self._group_expiry_s)

    async def presence(self, session: Session, group: str) -> Presence:
        """Return who is in a group with presence."""
        members = await self.attendance.members(session, group)
        return self._writer.people.presence(group, members)

    async def present_channels(self, session: Session, group: str) -> list[str]:
        """Return the members of a group with presence, in the order of joining."""
        return [member.channel for member in await self.attendance.members(session, group)]

    async def present_size(self, session: Session, group: str) -> int:
        """Return the number of these members."""
        return len(await self.attendance.members(session, group))

    # Called for changes of the shard (see Recovery)

    def is_needed(self) -> bool:
        """Return whether memberships have to be restored before an outage ends."""
        return self.memberships.has_state

    def connected(self) -> None:
        """Check the server, because it may be another one, or a restarted one."""
        self.memberships.reconnected()
        self._writer.held = set()
        self._check()

    def moved(self) -> None:
        """Check the server, because something has changed."""
        self.deaths.unsettle()
        self._check()

    def _check(self) -> None:
        if not self.memberships.has_state:
            return
        self._requested = True
        loop = running_loop_or_none()
        session: Session | None = self._session_of(loop) if loop is not None else None
        if session is not None:
            self.tick(session)

    # Checks

    def request(self, session: Session) -> None:
        """Check the server as soon as possible, and write what is owed."""
        self._requested = True
        self.tick(session)

    def tick(self, session: Session) -> None:
        """Start the work that is due, unless it is running; called on the session's loop."""
        memberships = self.memberships
        if not memberships.has_state or session.closing:
            return
        if not (self._requested or clock.monotonic() >= self._due_at or memberships.is_over):
            return
        with self.memberships.lock:
            task = self._task() if self._task is not None else None
            if task is None or task.done() or self._is_stuck(task, session):
                self._began_at = clock.monotonic()
                self._task = ref(session.background(self._run(session), "renew leases"))

    def _is_stuck(self, task: asyncio.Task[None], session: Session) -> bool:
        """Return whether a task may never continue: its loop is stopped, or blocked, which is why
        the portal's is asked.
        """
        loop = task.get_loop()
        if portal.is_portal(session.loop) and loop is not session.loop:
            return clock.monotonic() - self._began_at >= BLOCKED_S
        return not loop.is_running()

    async def _run(self, session: Session) -> None:
        try:
            while await self._round(session):
                pass
            if self._writer.people.is_used:
                await self._look_after_presence(session)
            self._refused_with = ""
        except ConnectionLost:
            # Repeated after the next connection, or at the next sweep; until then the outage lasts.
            self._requested = True
            return
        except COMMAND_ERRORS as error:
            self._refused(error)
        self._due_at = clock.monotonic() + RENEWAL_S * random.uniform(0.8, 1)
        self._health.works(self)

    async def _look_after_presence(self, session: Session) -> None:
        await self.attendance.clean_up(session)
        self._announce(session)
        used = self.memberships.owe_ended(self._writer.people.entries)
        unused = self._writer.held - used - self.memberships.duties()
        if unused:
            await self._writer.release(session, unused)
        await self._writer.refresh(session)

    async def _round(self, session: Session) -> bool:
        """Renew the leases, and write what is owed; return whether to check again."""
        memberships = self.memberships
        served = session.backend(self._shard).served()
        look = memberships.look()
        failures: list[Exception] = []
        try:
            failures += await self._renew(session, look)
        finally:
            loss = memberships.learn(look)
        # Connections made meanwhile were made before the replies arrived, so they need no check.
        self._requested = False
        over, is_new = memberships.place(served)
        for lease in over:
            self._end(session, lease).add_done_callback(ignore)
        if loss:
            self._writer.held = set()
            await asyncio.sleep(random.uniform(0, SPREAD_S))
        self.memberships.owe_ended(self._writer.people.entries)
        wrote, more = await self._write(session)
        failures += more
        lost = [error for error in failures if isinstance(error, ConnectionLost)]
        for error in (*lost, *failures):
            raise error
        return wrote or is_new or self._requested

    async def _renew(self, session: Session, look: Look) -> list[Exception]:
        """Renew all leases; return the errors."""

        late: list[Lease] = []
        lease_s = self._lease_s(session) if look.leases else 0

        async def renew(lease: Lease) -> None:
            answer = await self._ask(session, lease.key, lease_s)
            look.ends[lease] = answer.end_s, answer.known_end_s
            self.attendance.dead.update(answer.dead)
            if lease.end_s is not None and (answer.known_end_s or 0) < answer.now_s:
                late.append(lease)

        outcomes = await _settled(renew(lease) for lease in look.leases.values())
        self.deaths.settle(sound=len(look.ends) == len(look.leases) and not late)
        return [outcome for outcome in outcomes if outcome is not None]

    async def _ask(
        self, session: Session, leases: str, lease_s: float = 0, *, everything: bool = False
    ) -> scripts.Renewal:
        """Ask a server which processes are dead, all of them or those that were found lately, and
        renew the lease if ``lease_s`` is not 0.
        """
        judgement = self.deaths.judgement(leases)
        answer = await scripts.renew(
            session.commands(self._shard, leases),
            leases,
            self._process,
            lease_s,
            self._kept_s,
            judgement._replace(since_s=0.0) if everything else judgement,
        )
        self.deaths.learn(leases, answer)
        return answer

    async def _write(self, session: Session) -> tuple[bool, list[Exception]]:
        """Write what is owed, as far as servers take it; return whether there was any, and what
        went wrong.
        """
        wrote = False
        failures: list[Exception] = []
        passed: set[object] = set()
        while groups := (writes := self.memberships.batch(BATCH, passed)).by_group:
            outcomes = await _settled(
                self._write_group(session, group, channels, _precision_s(writes))
                for group, channels in groups.items()
            )
            for group, failure in zip(groups, outcomes, strict=True):
                if failure is None:
                    wrote = True
                    self.memberships.written(group, writes)
                else:
                    lost = isinstance(failure, ConnectionLost)
                    passed.add(self.memberships.primary(group) if lost else group)
                    failures.append(failure)
        return wrote, failures

    async def _write_group(
        self,
        session: Session,
        group: str,
        channels: dict[str, float | None],
        precision_s: float,
    ) -> None:
        now = clock.monotonic()
        joined = [(now - since, name) for name, since in channels.items() if since is not None]
        left = [name for name, since in channels.items() if since is None]
        if joined:
            changes = await self._writer.rejoin(session, group, joined, precision_s)
            if self._rejoined is not None:
                self._rejoined(group)
            # After a loss of data nobody was away, unlike after this process was taken for dead.
            if changes.joined and precision_s < 0:
                entries = self._writer.people.of(group, [name for _, name in joined])
                await self.attendance.announce_joins(session, group, changes.joined, entries)
        if left:
            self._leaving(session, group, await self._writer.leave(session, group, left))
            for name in left:
                self.memberships.drop_left(self._writer.people.entries, Pair(group, name))

    async def _ask_about(self, session: Session, group: str) -> scripts.Renewal | None:
        """Ask the primary of a group for all dead processes; None if no primary is known."""
        leases = self.memberships.lease_key(group, session.backend(self._shard).served())
        if leases is None:
            return None
        return await self._ask(session, leases, everything=True)

    def _end(self, session: Session, lease: Lease) -> asyncio.Future[Any]:
        return scripts.end_lease(session.commands(self._shard, lease.key), lease.key, self._process)

    def _refused(self, error: Exception) -> None:
        reason = str(error).rstrip(".")
        if reason != self._refused_with:
            self._refused_with = reason
            text = "Redis at %s refuses to restore memberships of groups: %s; next try in %g s"
            self._logger.warning(text, self._health.name, reason, RENEWAL_S)


def _precision_s(writes: Writes) -> float:
    """Return by how much older a time of joining on the server may be."""
    if writes.was_dead:
        return -ANY_AGE_S
    # The ages are a little too small, by the time that a reply took.
    return PRECISION_S if writes.may_differ else ANY_AGE_S


async def _settled(work: Iterable[Coroutine[Any, Any, None]]) -> list[Exception | None]:
    """Run all; return for each its error, if that is one of a command, or None."""
    outcomes: list[Exception | None] = []
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if outcome is not None and not isinstance(outcome, COMMAND_ERRORS):
            raise outcome
        outcomes.append(outcome)
    return outcomes
