"""Writes the memberships of this process to a shard, and restores them after a loss (core).

Does the I/O for :mod:`.memberships`: joining, leaving, renewing leases, and writing memberships
again.  The latter two are done by one task at a time, on the first event loop of the layer that
can do it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol
from weakref import ref

from .._format.keyspace import Keyspace
from .._receiving.mailbox import Mailbox
from .._receiving.mailboxes import Mailboxes
from .._runtime import clock
from .._runtime.loops import LoopStates, running_loop_or_none
from .._runtime.tasks import ignore
from .._runtime.weakly import weakly
from .._session import Session
from .._transport import scripts
from .._watch.outages import Health
from ..exceptions import COMMAND_ERRORS, ConnectionLost
from .memberships import Lease, Look, Memberships

#: The maximum time between two renewals: a third of a lease.
RENEWAL_S = 10.0
LEASE_S = 30.0
#: How long a server keeps a lease after its end.  A process that was stopped for less than this can
#: still find out that nothing was lost.
KEPT_S = 3600.0
#: After a loss, processes start to write at random times within this time.
SPREAD_S = 0.5
#: If a server has lost data, a time of joining that is older by more than this is replaced.
PRECISION_S = 1.0
#: Larger than any age, for a server that has lost nothing.
ANY_AGE_S = 1e12
#: The maximum number of memberships in one batch.
BATCH = 1000


class Remembering(Protocol):
    """The layer to which the memberships belong."""

    client_prefix: str
    group_expiry: float
    ring_size: int
    _health: list[Health]
    _keys: Keyspace
    _mailboxes: Mailboxes
    _sessions: LoopStates[Any]

    def consistent_hash(self, name: str) -> int:
        """Return the index of the shard of a group."""
        ...


class Keepers:
    """The memberships of a layer, by shard."""

    def __init__(self, layer: Remembering, logger: logging.Logger) -> None:
        self._hash = weakly(layer.consistent_hash, 0)
        self._all = [Keeper(layer, shard, logger) for shard in range(layer.ring_size)]

    def of(self, group: str) -> Keeper:
        """Return the keeper of a group."""
        return self._all[self._hash(group)]

    def leave(self, session: Session, boxes: Iterable[Mailbox]) -> None:
        """Leave the groups of mailboxes that have ended."""
        for box in boxes:
            for group in box.groups or ():
                self.of(group).owe(session, group, box.name)

    def tick(self, session: Session) -> None:
        """Start the work that is due on any shard."""
        for keeper in self._all:
            keeper.tick(session)

    async def forget(self, session: Session) -> None:
        """Forget what was written to the servers, and delete the leases on them."""
        await asyncio.gather(*[keeper.forget(session) for keeper in self._all])

    def forget_closed(self) -> None:
        """Forget what was written to the servers, where it will expire."""
        for keeper in self._all:
            keeper.forget_closed()


class Keeper:
    """The memberships of a layer at one entry of ``hosts``, on all its event loops."""

    def __init__(self, layer: Remembering, shard: int, logger: logging.Logger) -> None:
        shard_of = weakly(layer.consistent_hash, shard)

        def is_here(group: str) -> bool:
            return shard_of(group) == shard

        self._shard = shard
        self._logger = logger
        self._health = layer._health[shard]
        self._health.recovery = self
        self._keys = layer._keys
        #: The name of the leases.
        self._process = layer.client_prefix
        self._group_expiry_s = layer.group_expiry
        self._session_of = layer._sessions.find
        self.told = Memberships(layer._mailboxes, self._keys, is_here, layer.group_expiry)
        # A weak reference, because tasks reference their loops, which may be dropped.
        self._task: ref[asyncio.Task[None]] | None = None
        self._due_at = 0.0
        self._requested = False
        self._refused_with = ""

    # Called by the layer

    async def join(self, session: Session, group: str, box: Mailbox) -> None:
        """Add the channel of a mailbox to a group."""
        joining = self.told.begin(group, box)
        key = self._keys.group(group)
        worked: bool | None = None
        try:
            commands = session.commands(self._shard, key)
            await scripts.join(commands, key, box.name, self._group_expiry_s)
            worked = True
        except COMMAND_ERRORS as error:
            worked = getattr(error, "maybe_executed", False)
            raise
        finally:
            self.told.end(joining, worked)
            if self.told.is_due:
                self.request(session)

    async def leave(self, session: Session, group: str, channel: str) -> None:
        """Remove a channel of this process from a group."""
        self.told.part(group, channel)
        key = self._keys.group(group)
        try:
            await scripts.leave(session.commands(self._shard, key), key, channel)
        except (ConnectionLost, asyncio.CancelledError):
            self.owe(session, group, channel)
            raise
        self.told.parted(group, channel)

    def owe(self, session: Session, group: str, channel: str) -> None:
        """Schedule leaving a group, for a channel that has ended or whose leave failed."""
        self.told.owe(group, channel)
        self.request(session)

    async def forget(self, session: Session) -> None:
        """Forget what was written to the server, because all groups are deleted."""
        await asyncio.gather(*[self._end(session, lease) for lease in self.forget_closed()])

    def forget_closed(self) -> list[Lease]:
        """Forget what was written to the server; return the leases that it still has."""
        # The end of an outage no longer depends on the memberships.
        self._health.gone(self)
        return self.told.forget()

    # Called for changes of the shard (see Recovery)

    def is_needed(self) -> bool:
        """Return whether memberships have to be restored before an outage ends."""
        return self.told.is_told

    def connected(self) -> None:
        """Check the server, because it may be another one, or a restarted one."""
        self.told.reconnected()
        self.moved()

    def moved(self) -> None:
        """Check the server, because something has changed."""
        if not self.told.is_told:
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
        told = self.told
        if not told.is_told or session.closing:
            return
        if not (self._requested or clock.monotonic() >= self._due_at or told.is_over):
            return
        with self.told.lock:
            task = self._task() if self._task is not None else None
            # A task on a stopped loop may never continue.
            if task is None or task.done() or not task.get_loop().is_running():
                self._task = ref(session.background(self._run(session), "renew leases"))

    async def _run(self, session: Session) -> None:
        try:
            while await self._round(session):
                pass
            self._refused_with = ""
        except ConnectionLost:
            # Repeated after the next connection, or at the next sweep; until then the outage lasts.
            self._requested = True
            return
        except COMMAND_ERRORS as error:
            self._refused(error)
        self._due_at = clock.monotonic() + RENEWAL_S * random.uniform(0.8, 1)
        self._health.works(self)

    async def _round(self, session: Session) -> bool:
        """Renew the leases, and write what is owed; return whether to check again."""
        told = self.told
        served = session.backend(self._shard).served()
        look = told.look()
        failures: list[Exception] = []
        try:
            failures += await self._renew(session, look)
        finally:
            loss = told.learn(look)
        # Connections made meanwhile were made before the replies arrived, so they need no check.
        self._requested = False
        over, is_new = told.place(served)
        for lease in over:
            self._end(session, lease).add_done_callback(ignore)
        if loss:
            await asyncio.sleep(random.uniform(0, SPREAD_S))
        wrote, more = await self._write(session)
        failures += more
        lost = [error for error in failures if isinstance(error, ConnectionLost)]
        for error in (*lost, *failures):
            raise error
        return wrote or is_new or self._requested

    async def _renew(self, session: Session, look: Look) -> list[Exception]:
        """Renew all leases; return the errors."""

        async def renew(lease: Lease) -> None:
            key = lease.key
            commands = session.commands(self._shard, key)
            look.ends[lease] = await scripts.renew(commands, key, self._process, LEASE_S, KEPT_S)

        outcomes = await _settled(renew(lease) for lease in look.leases.values())
        return [outcome for outcome in outcomes if outcome is not None]

    async def _write(self, session: Session) -> tuple[bool, list[Exception]]:
        """Write what is owed, as far as servers take it; return whether there was any, and what
        went wrong.
        """
        wrote = False
        failures: list[Exception] = []
        passed: set[object] = set()
        while groups := (writes := self.told.batch(BATCH, passed)).by_group:
            outcomes = await _settled(
                self._write_group(session, group, channels, may_differ=writes.may_differ)
                for group, channels in groups.items()
            )
            for group, failure in zip(groups, outcomes, strict=True):
                if failure is None:
                    wrote = True
                    self.told.written(group, writes)
                else:
                    lost = isinstance(failure, ConnectionLost)
                    passed.add(self.told.primary(group) if lost else group)
                    failures.append(failure)
        return wrote, failures

    async def _write_group(
        self,
        session: Session,
        group: str,
        channels: dict[str, float | None],
        *,
        may_differ: bool,
    ) -> None:
        key = self._keys.group(group)
        commands = session.commands(self._shard, key)
        now = clock.monotonic()
        joined = [(now - since, name) for name, since in channels.items() if since is not None]
        left = [name for name, since in channels.items() if since is None]
        if joined:
            # The ages are a little too small, by the time that a reply took.
            precision_s = PRECISION_S if may_differ else ANY_AGE_S
            await scripts.rejoin(commands, key, joined, self._group_expiry_s, precision_s)
        if left:
            await scripts.leave(commands, key, *left)

    def _end(self, session: Session, lease: Lease) -> asyncio.Future[Any]:
        return scripts.end_lease(session.commands(self._shard, lease.key), lease.key, self._process)

    def _refused(self, error: Exception) -> None:
        reason = str(error).rstrip(".")
        if reason != self._refused_with:
            self._refused_with = reason
            text = "Redis at %s refuses to restore memberships of groups: %s; next try in %g s"
            self._logger.warning(text, self._health.name, reason, RENEWAL_S)


async def _settled(work: Iterable[Coroutine[Any, Any, None]]) -> list[Exception | None]:
    """Run all; return for each its error, if that is one of a command, or None."""
    outcomes: list[Exception | None] = []
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if outcome is not None and not isinstance(outcome, COMMAND_ERRORS):
            raise outcome
        outcomes.append(outcome)
    return outcomes
