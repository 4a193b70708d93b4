"""The map of a cluster's slots: read when it is first needed, and again when it may be outdated.

It is read again after every sign of a change: a redirection, a lost connection, a subscription that
the server dropped, an error reply about a slot; and repeatedly while anything is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Protocol

from redis.exceptions import RedisError

from ..._format.slots import SLOTS, Address, Owners, Ranges, owners_of
from ..._runtime import clock
from ..._runtime.scope import Scope, Stage
from ..._runtime.tasks import SupervisedTask, ignore, turn
from ..._watch.outages import Health
from ...exceptions import ConfigurationError
from ..node import backoff_s
from .survey import Chart, first_good

#: Between two questions for the map, at least.
PAUSE_S = 0.05


class Surveyor(Protocol):
    """The user of the map."""

    def whom_to_ask(self) -> Iterator[Callable[[], Awaitable[Chart]]]:
        """Return the servers to query, the most promising first."""
        ...

    def map_changed(self) -> None:
        """Use the new map."""

    def map_learnt(self) -> None:
        """Place the commands that waited for the map, whether it has changed or not."""

    def map_refused(self, error: ConfigurationError) -> None:
        """Raise an error in the waiting calls, because no retry will help."""

    @property
    def waiting(self) -> bool:
        """Whether some commands can't be placed with the present map."""
        ...


class SlotMap:
    """Which server serves which slot, as far as known."""

    def __init__(self, surveyor: Surveyor, health: Health, scope: Scope) -> None:
        self._surveyor = surveyor
        self._health = health
        self._loop = scope.loop
        self.owners: Owners = [None] * SLOTS
        #: All that serve slots.
        self.primaries: tuple[Address, ...] = ()
        self._complete = False
        self.known = False
        # The ranges of the owners, unless some were assigned since: many times smaller, and
        # compared with each reply.
        self._ranges: Ranges | None = None
        #: Whether the servers have sharded Pub/Sub, as the first one that was asked says.
        self.sharded = True
        self._marked_down = False
        self._without_reply: set[object] = set()
        self._outcome: asyncio.Future[None] | None = None
        self._stale = False
        self._failures = 0
        self._task = SupervisedTask(scope.loop, f"map of {health.name}", self._run, self._is_wanted)
        self._closed = False
        scope.hold(Stage.COMMANDS, self.aclose, forget=partial(health.gone, self))

    def assign(self, slot: int, address: Address) -> bool:
        """Note the server of a slot; return whether it is a new one."""
        if self.owners[slot] == address:
            return False
        self.owners[slot] = address
        self.primaries = _primaries(self.owners)
        self._ranges = None
        return True

    def stale(self) -> None:
        """Read the map again soon."""
        self._stale = True
        self._task.start()

    def mark_down(self, reason: str) -> None:
        """Note that the cluster, or a part of it, is down until a map shows that it works."""
        self._marked_down = True
        self._health.lost(self, reason)

    def reply_missing(self, user: object) -> None:
        """Read the map repeatedly until :meth:`reply_came` is called for the same user."""
        self._without_reply.add(user)
        self.stale()

    def reply_came(self, user: object) -> None:
        """Note that a user has got its reply, or no longer waits for it."""
        self._without_reply.discard(user)

    async def ready(self) -> None:
        """Return when the map is known; raise the error if it could not be read."""
        if self.known:
            return
        if self._closed:
            raise self._health.abandoned("the layer was closed")
        if self._outcome is None:
            self._outcome = self._loop.create_future()
            self._outcome.add_done_callback(ignore)
        outcome = self._outcome
        self.stale()
        await asyncio.wait({outcome})
        outcome.result()

    async def wait_until_known(self, limit_s: float | None) -> None:
        """Return when the map is known; raise :class:`ConnectionLost` after ``limit_s`` seconds,
        :class:`ConfigurationError` where no retry will help.
        """
        deadline = clock.monotonic() + limit_s if limit_s is not None else None
        while not self.known:
            left_s = deadline - clock.monotonic() if deadline is not None else None
            try:
                await asyncio.wait_for(self.ready(), left_s)
            except asyncio.TimeoutError:
                raise self._health.abandoned("its servers do not answer") from None
            except (RedisError, OSError) as error:
                if self._closed or (deadline is not None and clock.monotonic() >= deadline):
                    raise self._health.abandoned(str(error)) from error

    async def aclose(self) -> None:
        """End the task; fail those who wait."""
        self._closed = True
        await self._task.end()
        self._resolve(self._health.abandoned("the layer was closed"))
        self._health.gone(self)

    async def _run(self) -> None:
        await turn()
        while self._stale or self._troubled or self._is_wanted():
            self._stale = False
            await self._learn()
            pause_s = backoff_s(self._failures - 1) if self._failures else PAUSE_S
            await asyncio.sleep(pause_s)

    def _is_wanted(self) -> bool:
        """Return whether anybody waits for the map."""
        return self._outcome is not None or self._surveyor.waiting

    @property
    def _troubled(self) -> bool:
        return self._health.down or bool(self._without_reply)

    async def _learn(self) -> None:
        """Read the map once, and use it."""
        try:
            chart = await first_good(self._surveyor.whom_to_ask(), self._loop)
        except ConfigurationError as error:
            self._failures += 1
            self._health.secrets.error(error)
            if self._health.proven:
                self.mark_down(str(error))
            else:
                self._surveyor.map_refused(error)
            self._resolve(error)
        except Exception as error:  # noqa: BLE001 (whatever it is, the map is asked for again)
            self._failures += 1
            self._health.secrets.error(error)
            self.mark_down(str(error))
            self._resolve(error)
        else:
            self._take(chart)
            # While something is lost, the map is read again, at increasing intervals.
            self._failures = self._failures + 1 if self._troubled else 0

    def _take(self, chart: Chart) -> None:
        if not self.known:
            self.sharded = chart.sharded
        changed = chart.ranges != self._ranges and self._draw(chart.ranges)
        self.known = True
        self._resolve(None)
        if changed:
            self._surveyor.map_changed()
        self._surveyor.map_learnt()
        # A lost server may have left the cluster, and then nothing else ends the outage.
        lost = self._marked_down or (self._health.down and self._health.proven)
        if lost and chart.healthy and self._complete:
            self._marked_down = False
            self._health.works(self)

    def _draw(self, ranges: Ranges) -> bool:
        """Store which server serves which slot; return whether any slot has another server."""
        before, self.owners = self.owners, owners_of(ranges)
        self.primaries = _primaries(self.owners)
        self._complete = None not in self.owners
        self._ranges = ranges
        return self.owners != before

    def _resolve(self, error: Exception | None) -> None:
        outcome, self._outcome = self._outcome, None
        if outcome is None:
            return
        if error is None:
            outcome.set_result(None)
        else:
            outcome.set_exception(error)


def _primaries(owners: Owners) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(filter(None, owners)))
