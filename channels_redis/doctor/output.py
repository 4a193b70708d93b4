"""How the results of ``doctor`` and ``queues`` are written: as lines, or as one JSON document."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import __version__
from .census import Census, Count
from .findings import Finding, Level

Style = Callable[[str], str]

#: What a number of seconds means for a process.
_WORDS = {"alive": "s-left", "overdue": "s-overdue", "dead": "s-dead"}

#: Default number of lines of ``queues`` for each kind and layer.
SHOWN = 20


@dataclass
class Output:
    """Where lines are written, and how the name of a level is coloured."""

    write: Callable[[str], object]
    styles: Mapping[Level, Style] = field(default_factory=dict)

    def show(self, finding: Finding) -> None:
        """Write a finding and its advice."""
        word = self.styles.get(finding.level, str)(finding.level.name)
        self.write(f"{word} {finding.where}: {finding.text} [{finding.id}]")
        if finding.advice and finding.level is not Level.OK:
            self.write(f"    {finding.advice}")

    def show_census(self, alias: str, server: str, census: Census, limit: int | None) -> None:
        """Write the queues and groups of a layer on one server, the largest ``limit`` of each, and
        as many processes.
        """
        for line in _lines(census, SHOWN if limit is None else limit):
            self.write(f"{line} ({alias}, {server})")
        if not (census.counts or census.leases):
            self.write(f"nothing on {server} ({alias})")

    def show_failure(self, alias: str, reason: str) -> None:
        """Write why a server could not be asked for its queues."""
        self.write(f"{alias}: {reason}; run the doctor for details.")

    def end_findings(self, errors: int, warnings: int) -> None:
        """Write how many problems the doctor has found."""
        self.write(f"{errors} errors, {warnings} warnings.")

    def end_counts(self) -> None:
        """Called after the last server was counted."""


class JSONOutput(Output):
    """Writes one JSON document at the end. Its keys do not change between releases."""

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__(write)
        self._findings: list[dict[str, Any]] = []
        self._counts: dict[str, list[dict[str, Any]]] = {"queues": [], "groups": []}
        self._processes: list[dict[str, Any]] = []
        self._failures: list[dict[str, str]] = []

    def show(self, finding: Finding) -> None:
        """Keep a finding."""
        self._findings.append(
            {
                "level": finding.level.name,
                "id": finding.id,
                "where": finding.where,
                "text": finding.text,
                "advice": finding.advice,
            }
        )

    def show_census(self, alias: str, server: str, census: Census, limit: int | None) -> None:
        """Keep the queues, groups and processes; all of them without a limit."""
        place = {"layer": alias, "server": server}
        self._processes += [
            {"name": one.process, "state": one.state, "seconds": round(one.seconds, 3), **place}
            for one in census.leases[:limit]
        ]
        for kind, some in _by_kind(census.counts).items():
            self._counts[f"{kind}s"] += [
                {"name": one.name, _unit(one): one.number, **place} for one in some[:limit]
            ]

    def show_failure(self, alias: str, reason: str) -> None:
        """Keep why a server could not be asked."""
        self._failures.append({"layer": alias, "text": reason})

    def end_findings(self, errors: int, warnings: int) -> None:
        """Write the findings and their numbers."""
        self._end(findings=self._findings, errors=errors, warnings=warnings)

    def end_counts(self) -> None:
        """Write what was counted, and what is wrong with the settings and servers."""
        self._end(
            **self._counts,
            processes=self._processes,
            failures=self._failures,
            findings=self._findings,
        )

    def _end(self, **facts: Any) -> None:
        self.write(json.dumps({"channels_redis": __version__, **facts}, indent=2))


def _by_kind(counts: list[Count]) -> dict[str, list[Count]]:
    return {
        "queue": [one for one in counts if not one.is_group],
        "group": [one for one in counts if one.is_group],
    }


def _unit(one: Count) -> str:
    if not one.is_group:
        return "messages"
    return "loops" if one.is_topic else "members"


def _lines(census: Census, limit: int) -> Iterator[str]:
    """Yield lines that a shell can split into words: kind, number, unit, name."""
    for kind, some in _by_kind(census.counts).items():
        for one in some[:limit]:
            yield f"{kind} {one.number} {_unit(one)} {one.name}"
        if len(some) > limit:
            rest = sum(one.number for one in some[limit:])
            yield f"{len(some) - limit} more {kind}s with {rest} in total"
    for lease in census.leases[:limit]:
        yield f"process {lease.seconds:.0f} {_WORDS[lease.state]} {lease.process}"
    if len(census.leases) > limit:
        yield f"{len(census.leases) - limit} more processes"
