"""``python -m benchmarks``: measure, print, and keep."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks import records, tables
from benchmarks.environments import (
    Environment,
    WrongEnvironment,
    new_environment,
    old_environment,
)
from benchmarks.measure import Measurement
from benchmarks.plan import NothingToMeasure, Options, carry_out
from benchmarks.probe.catalogue import BOTH, SCENARIOS
from benchmarks.summary import summarize


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure both layers beside channels_redis 4.3.0, by turns, in one run.",
    )
    add = parser.add_argument
    add("--list", action="store_true", help="name the scenarios and end")
    add("--scenario", action="append", metavar="PATTERN", help="only these; may be repeated")
    add("--layer", choices=BOTH, help="only this layer")
    add("--rounds", type=int, help="measurements of each kind (5; fewer of slow scenarios)")
    add("--n", type=int, help="operations in one measurement (else as the scenario says)")
    add("--quick", action="store_true", help="fewer operations, two rounds: a first impression")
    add("--uvloop", action="store_true", help="measure each scenario with uvloop as well")
    add("--only", choices=("old", "new"), help="one side alone: no ratios")
    add("--old-python", type=Path, help="an interpreter that has channels-redis 4.3.0")
    add("--profile", type=Path, metavar="DIR", help="write a cProfile of every measurement")
    add("--json", type=Path, metavar="FILE", help="write everything measured")
    add("--load", type=Path, metavar="FILE", help="show what --json wrote; measure nothing")
    add("--csv", type=Path, metavar="FILE", help="write the table, as the documentation shows it")
    add("--charts", type=Path, metavar="DIR", help="draw charts as SVG")
    add("--targets", action="store_true", help="print the promises beside what was measured")
    return parser.parse_args(arguments)


def chosen_options(arguments: argparse.Namespace) -> Options:
    """Turn the command line into what the plan knows."""
    return Options(
        scenarios=tuple(arguments.scenario or ("*",)),
        kinds=(arguments.layer,) if arguments.layer else BOTH,
        rounds=arguments.rounds,
        n=arguments.n,
        quick=arguments.quick,
        uvloop=arguments.uvloop,
        profiles=arguments.profile,
    )


def chosen_environments(arguments: argparse.Namespace) -> dict[str, Environment]:
    """Old before new; one alone where only one is wanted."""
    environments = {}
    if arguments.only != "new":
        environments["old"] = old_environment(arguments.old_python)
    if arguments.only != "old":
        environments["new"] = new_environment()
    return environments


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Measurement]]:
    """Measure what the command line asks for."""
    options = chosen_options(arguments)
    options.chosen()
    environments = chosen_environments(arguments)
    console = tables.make_console(stderr=True)
    for package, (old, new) in records.unfair(environments).items():
        console.print(f"[red]{package} differs: {old} beside 4.3.0, {new} here[/red]")
    if arguments.profile:
        arguments.profile.mkdir(parents=True, exist_ok=True)
    facts = records.about(environments)
    console.print(f"Load before the run: {facts['load_before']}; other work spoils the figures.")
    measurements = carry_out(
        options,
        environments,
        lambda done: console.print(tables.progress_line(summarize(done)[0]), highlight=False),
    )
    return facts, measurements


def main(arguments: list[str] | None = None) -> int:
    """Do as the command line says; 1 if something could not be measured."""
    parsed = parse(arguments)
    console = tables.make_console()
    if parsed.list:
        for scenario in SCENARIOS.values():
            console.print(f"{scenario.name}: {scenario.purpose}", highlight=False, markup=False)
        return 0
    try:
        facts, measurements = records.load(parsed.load) if parsed.load else run(parsed)
    except (NothingToMeasure, WrongEnvironment) as error:
        console.print(f"[red]{error}[/red]")
        return 2
    rows = summarize(measurements)
    console.print(tables.versions_table(facts), tables.rows_table(rows))
    if parsed.targets:
        console.print(tables.targets_table(rows))
    if parsed.json:
        records.save(parsed.json, facts, measurements, rows)
    if parsed.csv:
        tables.write_csv(parsed.csv, rows)
    if parsed.charts:
        from benchmarks.charts import draw

        draw(rows, facts, parsed.charts)
    return 1 if any(row.errors for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
