"""Scenarios by name: what each one runs, how often, and which of its figures is the headline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.probe.bench import Bench

Figures = dict[str, Any]
Run = Callable[[Bench, int], Awaitable[Figures]]
BlockingRun = Callable[[Bench, int], Figures]

BOTH = ("core", "pubsub")
#: By what a scenario runs on, what the new release is measured beside: on one server 4.3.0, and on
#: a cluster itself on one server. What brings servers of its own compares within itself.
RIVALS = {"one": "old", "cluster": "single", "own": None}


@dataclass(frozen=True)
class Scenario:
    """One thing worth measuring. Of the headline figure less is better."""

    name: str
    run: Run | BlockingRun
    #: Operations in one measurement, and in one of ``--quick``.
    n: int
    quick_n: int
    headline: str
    layers: tuple[str, ...] = BOTH
    #: Other figures worth a place in the table.
    notes: tuple[str, ...] = ()
    #: False where no event loop of the caller's is measured, and uvloop makes no difference.
    any_loop: bool = True
    #: Slow ones are measured less often than asked for.
    max_rounds: int = 99
    #: What it runs on: one of :data:`RIVALS`.
    servers: str = "one"

    @property
    def rival(self) -> str | None:
        """The implementation that it is measured beside, by turns."""
        return RIVALS[self.servers]

    @property
    def purpose(self) -> str:
        """The first line of what the function says about itself."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


SCENARIOS: dict[str, Scenario] = {}
#: The least that can be had without any layer, by scenario.
BOUNDS: dict[str, Run] = {}


def scenario(name: str, **details: Any) -> Callable[[Any], Any]:
    """Register a function as a scenario; ``details`` are the fields of :class:`Scenario`."""

    def register(run: Any) -> Any:
        SCENARIOS[name] = Scenario(name=name, run=run, **details)
        return run

    return register


def bound(name: str) -> Callable[[Run], Run]:
    """Register a function as the lower bound of a scenario, whichever the layer."""

    def register(run: Run) -> Run:
        BOUNDS[name] = run
        return run

    return register
