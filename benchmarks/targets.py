"""What the new release promises beside 4.3.0, and whether a run kept it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.probe.catalogue import BOTH
from benchmarks.summary import Row

#: How many times faster than 4.3.0, by scenario: core, pubsub.
RATIOS: dict[str, tuple[float | None, float | None]] = {
    "send_seq": (3.3, 1.0),
    "send_conc": (10, 8),
    "drain": (15, None),
    "drain_many": (15, None),
    "pingpong": (2.8, 1.2),
    "stream": (5.5, 1.3),
    "group_10": (3.5, 1.2),
    "group_1000": (8, 1.5),
    "group_1000x20": (8, 1.5),
    "group_10000": (12, 1.8),
    "big": (1.0, 2),
    "sync": (3.5, 3.5),
    "sync_face": (9, 9),
}
#: At most so many times a figure of the lower bound or of 4.3.0: scenario, layer, figure, of
#: what, share.
SHARES = [
    ("send_seq", "core", "headline", "bound", 1.4),
    ("send_conc", "core", "headline", "bound", 2.5),
    ("group_10000", "core", "headline", "bound", 1.8),
    ("group_10000", "pubsub", "headline", "bound", 1.3),
    ("multi_process", "core", "p99_ms", "old", 0.3),
    ("multi_process", "pubsub", "p99_ms", "old", 0.7),
]
#: At most so much: scenario, layer, figure, limit.
LIMITS = [
    ("send_seq", "core", "commands", 1.0),
    ("send_conc", "core", "commands", 1.0),
    ("drain", "core", "commands", 0.2),
    ("drain_many", "core", "commands", 0.2),
    *[("multi_process", kind, figure, 0) for kind in BOTH for figure in ("missing", "doubled")],
    *[("idle", kind, "commands_per_s", 1.0) for kind in BOTH],
    *[("idle", kind, "client_cpu_pct", 0.2) for kind in BOTH],
    *[("idle", kind, "dead", 0) for kind in BOTH],
    *[("connect_storm", kind, "failed", 0) for kind in BOTH],
    *[(name, kind, "new_connections", 0) for name in ("sync", "sync_face") for kind in BOTH],
    *[("churn", kind, "objects_per_cycle", 0.05) for kind in BOTH],
    *[("churn", kind, "bytes_per_cycle", 64.0) for kind in BOTH],
    # Nine tenths of the throughput, and of the inverse of the latency.
    *[
        (f"cluster_{how}", kind, figure, 1.11)
        for how in ("killed", "frozen")
        for kind in BOTH
        for figure in ("slower", "p99_slower")
    ],
]
#: Beyond the bare task.
CONSUMER_KIB = 4.0


@dataclass(frozen=True)
class Verdict:
    """One promise and what was measured; ``measured`` is missing where it was not."""

    scenario: str
    kind: str
    promise: str
    measured: float | None
    kept: bool

    @property
    def word(self) -> str:
        """ok, short, or that nothing is known."""
        if self.measured is None:
            return "not measured"
        return "ok" if self.kept else "short"


def judge(rows: list[Row]) -> Iterator[Verdict]:
    """Hold the rows of plain asyncio to every promise that touches them."""
    found = {(row.scenario, row.kind): row for row in rows if row.loop == "asyncio"}
    for scenario, ratios in RATIOS.items():
        for kind, ratio in zip(BOTH, ratios, strict=True):
            if ratio is not None and (scenario, kind) in found:
                measured = found[scenario, kind].ratio
                yield at_least(scenario, kind, f"{ratio:g} x faster than 4.3.0", measured, ratio)
    for scenario, kind, figure, base, share in SHARES:
        if (scenario, kind) in found:
            measured = found[scenario, kind].share(figure, base)
            of = "the lower bound" if base == "bound" else f"4.3.0's {figure}"
            yield at_most(scenario, kind, f"at most {share:g} of {of}", measured, share)
    for scenario, kind, figure, limit in LIMITS:
        if (scenario, kind) in found:
            measured = found[scenario, kind].figure("new", figure)
            yield at_most(scenario, kind, f"{figure} at most {limit:g}", measured, limit)
    yield from judge_memory(found)
    yield from judge_server_cpu(found)


def judge_memory(found: dict[tuple[str, str], Row]) -> Iterator[Verdict]:
    """A consumer's memory without its task."""
    for kind in BOTH:
        if ("memory", kind) in found:
            row = found["memory", kind]
            whole, task = row.figure("new", "headline"), row.figure("bound", "headline")
            measured = whole - task if whole is not None and task is not None else None
            promise = f"{CONSUMER_KIB:g} KiB per consumer beyond its task"
            yield at_most("memory", kind, promise, measured, CONSUMER_KIB)


def judge_server_cpu(found: dict[tuple[str, str], Row]) -> Iterator[Verdict]:
    """The server must not work more than it did: the worst of all, and each that is above."""
    shares = {
        place: share
        for place, row in found.items()
        if place[0] != "idle" and (share := row.share("server_cpu_us")) is not None
    }
    worst = sorted(shares, key=shares.__getitem__, reverse=True)
    for i, (scenario, kind) in enumerate(worst):
        share = shares[scenario, kind]
        if i == 0 or share > 1:
            yield at_most(scenario, kind, "server CPU at most 4.3.0's", share, 1.0)


def at_least(scenario: str, kind: str, promise: str, value: float | None, limit: float) -> Verdict:
    """More is better."""
    return Verdict(scenario, kind, promise, value, value is not None and value >= limit)


def at_most(scenario: str, kind: str, promise: str, value: float | None, limit: float) -> Verdict:
    """Less is better."""
    return Verdict(scenario, kind, promise, value, value is not None and value <= limit)
