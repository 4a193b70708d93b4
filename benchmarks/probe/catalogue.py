"""All scenarios and bounds: importing this module registers them, in the order of the tables."""

from benchmarks.probe import (
    clusters,
    direct,
    groups,
    lifetimes,
    processes,
    raw,
    synchronous,
    watched,
)
from benchmarks.probe.registry import BOTH, BOUNDS, SCENARIOS, Scenario

MODULES = (direct, groups, lifetimes, processes, raw, synchronous, watched, clusters)

__all__ = ["BOTH", "BOUNDS", "MODULES", "SCENARIOS", "Scenario"]
