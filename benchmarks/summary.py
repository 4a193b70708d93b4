"""From measurements to rows: medians, and medians of the ratios within a round."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.measure import Measurement
from benchmarks.probe.catalogue import SCENARIOS

Medians = dict[str, float]


@dataclass
class Row:
    """One scenario on one layer and one kind of event loop."""

    scenario: str
    kind: str
    loop: str
    headline: str
    old: Medians = field(default_factory=dict)
    new: Medians = field(default_factory=dict)
    bound: Medians = field(default_factory=dict)
    #: The new release on one server, where the scenario is about a cluster.
    single: Medians = field(default_factory=dict)
    #: How many times faster than its rival; missing where either failed.
    ratio: float | None = None
    ratios: list[float] = field(default_factory=list)
    calls: dict[str, dict[str, int]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def rival(self) -> str:
        """The implementation that the new release is measured beside."""
        return SCENARIOS[self.scenario].rival or "old"

    def figure(self, implementation: str, name: str) -> float | None:
        """A median by name; ``headline`` is the scenario's."""
        medians: Medians = getattr(self, implementation)
        return medians.get(self.headline if name == "headline" else name)

    def share(self, name: str, other: str = "old") -> float | None:
        """A figure of the new release as a share of the other's."""
        new, base = self.figure("new", name), self.figure(other, name)
        return new / base if new is not None and base else None


def summarize(measurements: Iterable[Measurement]) -> list[Row]:
    """One row for each task, in the order in which they were measured."""
    by_task: dict[tuple[str, str, str], list[Measurement]] = {}
    for measurement in measurements:
        task = measurement.task
        by_task.setdefault((task.scenario, task.kind, task.loop), []).append(measurement)
    return [summarize_task(*task, group) for task, group in by_task.items()]


def summarize_task(name: str, kind: str, loop: str, group: list[Measurement]) -> Row:
    """The row of one task."""
    row = Row(name, kind, loop, SCENARIOS[name].headline)
    for implementation in ("old", "new", "bound", "single"):
        figures = [m.figures for m in group if m.implementation == implementation and m.figures]
        getattr(row, implementation).update(medians(figures))
        calls = [f["calls"] for f in figures if "calls" in f]
        if calls:
            row.calls[implementation] = calls[0]
    row.errors = [f"{m.implementation}: {m.error}" for m in group if m.error]
    row.ratios = round_ratios(row.headline, group, row.rival)
    row.ratio = median(row.ratios) if row.ratios else None
    return row


def medians(figures: list[dict[str, Any]]) -> Medians:
    """The median of every number, over the measurements that have it."""
    values: dict[str, list[float]] = {}
    for measured in figures:
        for name, value in measured.items():
            if isinstance(value, (int, float)):
                values.setdefault(name, []).append(value)
    return {name: median(found) for name, found in values.items()}


def round_ratios(headline: str, group: list[Measurement], rival: str) -> list[float]:
    """The rival's figure divided by the new release's, round by round."""
    by_round: dict[int, dict[str, float]] = {}
    for measurement in group:
        value = measurement.figures.get(headline)
        if value:
            by_round.setdefault(measurement.round, {})[measurement.implementation] = value
    return [
        round(pair[rival] / pair["new"], 3)
        for pair in by_round.values()
        if rival in pair and "new" in pair
    ]
