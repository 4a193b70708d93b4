"""A run as tables for people."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.probe.catalogue import SCENARIOS
from benchmarks.summary import Row
from benchmarks.targets import judge

#: Wide enough for the table where the output is a file.
FILE_WIDTH = 180
TEXT_COLUMNS = ("scenario", "layer", "loop", "figure")
#: What stands in each of these columns but the last, which is the ratio of new to its rival.
IMPLEMENTATIONS = {"bound": "bound", "4.3.0": "old", "one server": "single", "new": "new"}
NUMBER_COLUMNS = (*IMPLEMENTATIONS, "ratio")
PAIRS = {
    "client_cpu_us": "client CPU us",
    "server_cpu_us": "server CPU us",
    "commands": "commands",
}


def make_console(**options: Any) -> Console:
    """A console that does not squeeze the table into 80 columns of a log file."""
    console = Console(**options)
    return console if console.is_terminal else Console(width=FILE_WIDTH, **options)


def number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return ""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def pair(row: Row, name: str) -> str:
    """A figure of the rival, which mostly is the old release, and of the new one."""
    old, new = row.figure(row.rival, name), row.figure("new", name)
    return f"{number(old)} > {number(new)}" if old is not None or new is not None else ""


def notes(row: Row) -> str:
    """The other figures that the scenario wants to be seen, or its errors."""
    if row.errors:
        return f"[red]{row.errors[0].splitlines()[-1]}[/red]"
    return ", ".join(f"{name} {pair(row, name)}" for name in SCENARIOS[row.scenario].notes)


def cells(row: Row) -> list[str]:
    """What both the main table and the file for the documentation say of a row."""
    medians = [row.figure(name, "headline") for name in IMPLEMENTATIONS.values()]
    return [
        row.scenario,
        row.kind,
        row.loop,
        row.headline,
        *map(number, medians),
        f"{row.ratio:.2f}" if row.ratio is not None else "",
        *[pair(row, name) for name in PAIRS],
    ]


def rows_table(rows: list[Row]) -> Table:
    """The main table."""
    table = Table(
        title="Medians; less is better but for the ratio (4.3.0 divided by new; on a cluster: one "
        "server divided by it)"
    )
    for title in TEXT_COLUMNS:
        table.add_column(title, no_wrap=True)
    for title in (*NUMBER_COLUMNS, *PAIRS.values()):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("also (4.3.0 or one server > new)")
    for row in rows:
        table.add_row(*cells(row), notes(row))
    return table


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write the main table for the documentation."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*TEXT_COLUMNS, *NUMBER_COLUMNS, *PAIRS.values()])
        writer.writerows(map(cells, rows))


def targets_table(rows: list[Row]) -> Table:
    """Promises beside what was measured."""
    table = Table(title="Targets (plain asyncio)")
    for title in ("scenario", "layer", "promise"):
        table.add_column(title, no_wrap=True)
    table.add_column("measured", justify="right")
    table.add_column("verdict")
    colours = {"ok": "green", "short": "red", "not measured": "yellow"}
    for verdict in judge(rows):
        colour = colours[verdict.word]
        table.add_row(
            verdict.scenario,
            verdict.kind,
            verdict.promise,
            number(verdict.measured),
            f"[{colour}]{verdict.word}[/{colour}]",
        )
    return table


def versions_table(facts: dict[str, Any]) -> Table:
    """The versions of all that took part."""
    table = Table(caption=facts["machine"], min_width=40)
    table.add_column(facts["server"])
    environments: dict[str, dict[str, str]] = facts["versions"]
    for name in environments:
        table.add_column(name)
    packages = next(iter(environments.values()))
    for package in packages:
        table.add_row(package, *[versions[package] for versions in environments.values()])
    return table


def progress_line(row: Row) -> str:
    """One task in one line."""
    if row.errors:
        return f"{row.scenario} {row.kind} {row.loop}: [red]{row.errors[0]}[/red]"
    ratio = f", {row.ratio:.2f} x" if row.ratio is not None else ""
    return f"{row.scenario} {row.kind} {row.loop}: {pair(row, row.headline)} {row.headline}{ratio}"
