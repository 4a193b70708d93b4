"""Keeps one shard informed of the groups of this process, whatever the shard forgets (core).

The I/O to :mod:`.memberships`: joins and leaves, the renewal of leases, what is written again.
One task at a time does the latter, on whichever event loop of the layer comes first.
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

#: Between two renewals, at most; a third of a lease.
RENEWAL_S = 10.0
LEASE_S = 30.0
#: For so long a server keeps a lease that has ended.  A process that was stopped for no longer
#: finds out that nothing was lost.
KEPT_S = 3600.0
#: After a loss processes begin to write within this time, not all at once.
SPREAD_S = 0.5
#: A time of joining that a server knows is replaced where it is older by more than this, and it
#: has lost data.
PRECISION_S = 1.0
#: Older than anything, for a server that has lost nothing.
ANY_AGE_S = 1e12
#: Memberships that are written in one go.
BATCH = 1000


class Remembering(Protocol):
    """The layer whose memberships are kept."""

    client_prefix: str
    group_expiry: float
    ring_size: int
    _health: list[Health]
    _keys: Keyspace
    _mailboxes: Mailboxes
    _sessions: LoopStates[Any]

    def consistent_hash(self, name: str) -> int:
        """Return the index of the shard that has a group."""
        ...


class Keepers:
    """The memberships of a layer, by shard."""

    def __init__(self, layer: Remembering, logger: logging.Logger) -> None:
        self._hash = weakly(layer.consistent_hash, 0)
        self._all = [Keeper(layer, shard, logger) for shard in range(layer.ring_size)]

    def of(self, group: str) -> Keeper:
        """Return what keeps the memberships of a group."""
        return self._all[self._hash(group)]

    def leave(self, session: Session, boxes: Iterable[Mailbox]) -> None:
        """Leave the groups of mailboxes that have ended."""
        for box in boxes:
            for group in box.groups or ():
                self.of(group).owe(session, group, box.name)

    def tick(self, session: Session) -> None:
        """Begin what is due on any shard."""
        for keeper in self._all:
            keeper.tick(session)

    async def forget(self, session: Session) -> None:
        """Forget all that the servers were told, and have them forget the leases."""
        await asyncio.gather(*[keeper.forget(session) for keeper in self._all])

    def forget_closed(self) -> None:
        """Forget all that the servers were told; they forget it by themselves, in time."""
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
        # Known weakly, as tasks hold their loops, which may be dropped.
        self._task: ref[asyncio.Task[None]] | None = None
        self._due_at = 0.0
        self._requested = False
        self._refused_with = ""

    # What the application does

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
        """Leave a group for a channel that has ended, or could not leave it itself."""
        self.told.owe(group, channel)
        self.request(session)

    async def forget(self, session: Session) -> None:
        """Forget all that the server was told, as all groups are deleted."""
        await asyncio.gather(*[self._end(session, lease) for lease in self.forget_closed()])

    def forget_closed(self) -> list[Lease]:
        """Forget all that the server was told; return the leases that it still has."""
        # The end of an outage does not wait any more for what there was to tell.
        self._health.gone(self)
        return self.told.forget()

    # What happens to the shard (see Recovery)

    def is_needed(self) -> bool:
        """Tell whether an outage is not over before the server was told what it forgot."""
        return self.told.is_told

    def connected(self) -> None:
        """Look, as this may be another server, or one that was restarted."""
        self.told.reconnected()
        self.moved()

    def moved(self) -> None:
        """Look, as something has changed."""
        if not self.told.is_told:
            return
        self._requested = True
        loop = running_loop_or_none()
        session: Session | None = self._session_of(loop) if loop is not None else None
        if session is not None:
            self.tick(session)

    # Looks

    def request(self, session: Session) -> None:
        """Look as soon as possible, and write what is owed."""
        self._requested = True
        self.tick(session)

    def tick(self, session: Session) -> None:
        """Begin what is due, unless it is under way; called on the session's loop."""
        told = self.told
        if not told.is_told or session.closing:
            return
        if not (self._requested or clock.monotonic() >= self._due_at or told.is_over):
            return
        with self.told.lock:
            task = self._task() if self._task is not None else None
            # That of a loop which stands still may never go on.
            if task is None or task.done() or not task.get_loop().is_running():
                self._task = ref(session.background(self._run(session), "renew leases"))

    async def _run(self, session: Session) -> None:
        try:
            while await self._round(session):
                pass
            self._refused_with = ""
        except ConnectionLost:
            # The next connection, or the next sweep, begins again; until then the outage goes on.
            self._requested = True
            return
        except COMMAND_ERRORS as error:
            self._refused(error)
        self._due_at = clock.monotonic() + RENEWAL_S * random.uniform(0.8, 1)
        self._health.works(self)

    async def _round(self, session: Session) -> bool:
        """Renew the leases, and write what is owed; tell whether to look again."""
        told = self.told
        served = session.shard(self._shard).served()
        look = told.look()
        failures: list[Exception] = []
        try:
            failures += await self._renew(session, look)
        finally:
            loss = told.learn(look)
        # Connections that were made meanwhile were made before the answers came.
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
        """Renew all leases; return what went wrong."""

        async def renew(lease: Lease) -> None:
            key = lease.key
            commands = session.commands(self._shard, key)
            look.ends[lease] = await scripts.renew(commands, key, self._process, LEASE_S, KEPT_S)

        outcomes = await _settled(renew(lease) for lease in look.leases.values())
        return [outcome for outcome in outcomes if outcome is not None]

    async def _write(self, session: Session) -> tuple[bool, list[Exception]]:
        """Write what is owed, as far as servers take it; tell whether there was any, and what
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
            # Our ages are a little too small, by the time that an answer took.
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
            text = "Redis at %s refuses to be told again of groups: %s; next try in %g s"
            self._logger.warning(text, self._health.node, reason, RENEWAL_S)


async def _settled(work: Iterable[Coroutine[Any, Any, None]]) -> list[Exception | None]:
    """Do everything; return what each has raised that a command may raise."""
    outcomes: list[Exception | None] = []
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if outcome is not None and not isinstance(outcome, COMMAND_ERRORS):
            raise outcome
        outcomes.append(outcome)
    return outcomes
