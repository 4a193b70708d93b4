"""What operators see of a layer: its statistics, its events, the time its operations take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from .._runtime import fork
from .._runtime.plans import Decide, Plan, run, run_blocking
from .._watch.events import Event, Hooks, Operation, timed
from .._watch.outages import Health, Outage
from .._watch.tally import Tallies
from ..stats import LayerStats, NodeStats
from .receiving import ReceivingLayer


class ObservedLayer(ReceivingLayer):
    """A layer that can be watched; who does not watch pays nothing for it."""

    _health: list[Health]
    _outage: Outage
    _tallies: Tallies

    def _take_no_hooks(self) -> None:
        self._on_event: Hooks[Event] = Hooks(self._logger)
        self._on_operation: Hooks[Operation] = Hooks(self._logger)

    def stats(self) -> LayerStats:
        """Return what the layer has done and how it is doing, in this process.

        May be called from any thread, with or without an event loop, and asks no server.
        """
        fork.check()
        in_flight: Counter[int] = Counter()
        for session in self._sessions.all().values():
            in_flight += session.in_flight()
        nodes = tuple(
            NodeStats(
                health.node,
                tally.sent,
                tally.refused,
                tally.received,
                in_flight[shard],
                health.reconnects,
                *health.seconds(),
            )
            for shard, (health, tally) in enumerate(
                zip(self._health, self._tallies.total(), strict=True)
            )
        )
        mailboxes, waiting, buffered, buffered_bytes = self._mailboxes.census()
        outage_s, outage_total_s = self._outage.seconds()
        return LayerStats(
            sent=sum(node.sent for node in nodes),
            refused=sum(node.refused for node in nodes),
            received=sum(node.received for node in nodes),
            in_flight=in_flight.total(),
            reconnects=sum(node.reconnects for node in nodes),
            delivered=self._mailboxes.delivered(),
            dropped=self._report.drops(),
            unreadable_queues=self._report.unreadable_queues,
            outage_s=outage_s,
            outage_total_s=outage_total_s,
            mailboxes=mailboxes,
            waiting=waiting,
            buffered=buffered,
            buffered_bytes=buffered_bytes,
            nodes=nodes,
        )

    def on_event(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Have ``callback`` called with each event of :mod:`channels_redis.events`, in this
        process and its forked children; return the function that ends it.

        It is called where the event is noticed, on any thread, and must be quick.  What it
        raises is logged, once a minute.
        """
        return self._on_event.add(callback)

    def on_operation(self, callback: Callable[[Operation], None]) -> Callable[[], None]:
        """The same for each :class:`~channels_redis.events.Operation` that ends."""
        return self._on_operation.add(callback)

    async def _run(self, operation: str, prepare: Callable[..., Plan], *args: Any) -> Any:
        """Do an operation: ``prepare(*args)`` is its first part."""
        fork.check()
        if not self._on_operation:
            return await run(partial(prepare, *args), self._sessions)
        with timed(operation, self._on_operation):
            return await run(partial(prepare, *args), self._sessions)

    def _prepare(self, operation: str, *args: Any, **keywords: Any) -> Plan:
        """Do the first part of an operation."""
        plan: Plan = getattr(self, f"_{operation}_plan")(*args, **keywords)
        return plan

    def _run_blocking(self, operation: str, decide: Decide, timeout_s: float | None) -> Any:
        """Do an operation in a thread without an event loop."""
        clock = timed(operation, self._on_operation) if self._on_operation else nullcontext()
        with clock:
            return run_blocking(decide, self._sessions, timeout_s)
