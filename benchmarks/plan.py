"""What is measured in which order: old and new by turns, so that a slow minute hits both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.environments import Environment
from benchmarks.measure import Measurement, Task, count, measure
from benchmarks.probe.catalogue import BOTH, BOUNDS, SCENARIOS, Scenario

DEFAULT_ROUNDS = 5
QUICK_ROUNDS = 2


class NothingToMeasure(ValueError):
    """No scenario has such a name, or not for such a layer."""


@dataclass(frozen=True)
class Options:
    """The choices of the command line."""

    scenarios: tuple[str, ...] = ("*",)
    kinds: tuple[str, ...] = BOTH
    rounds: int | None = None
    n: int | None = None
    quick: bool = False
    uvloop: bool = False
    profiles: Path | None = None

    def chosen(self) -> list[tuple[Scenario, str]]:
        """Scenarios whose names match, once for each layer."""
        found = [
            (scenario, kind)
            for scenario in SCENARIOS.values()
            for kind in scenario.layers
            if kind in self.kinds
            and any(fnmatchcase(scenario.name, pattern) for pattern in self.scenarios)
        ]
        if not found:
            raise NothingToMeasure(f"No scenario is called {' or '.join(self.scenarios)}.")
        return found

    def rounds_of(self, scenario: Scenario) -> int:
        """As many as asked for, or as the scenario can bear."""
        if self.rounds is not None:
            return self.rounds
        return min(QUICK_ROUNDS if self.quick else DEFAULT_ROUNDS, scenario.max_rounds)

    def tasks(self) -> Iterator[tuple[Scenario, Task]]:
        """Everything to measure."""
        for scenario, kind in self.chosen():
            n = self.n or (scenario.quick_n if self.quick else scenario.n)
            task = Task(scenario.name, kind, n, scale="quick" if self.quick else "full")
            yield scenario, task
            if self.uvloop and scenario.any_loop:
                yield scenario, replace(task, loop="uvloop")


def turns_of(
    scenario: Scenario, environments: dict[str, Environment]
) -> list[tuple[str, Environment]]:
    """Who is measured by turns: 4.3.0 can use no cluster, so that this release on a single server
    stands in for it there.
    """
    if scenario.rival == "old":
        return list(environments.items())
    if "new" not in environments:
        return []
    names = (scenario.rival, "new") if scenario.rival else ("new",)
    return [(name, environments["new"]) for name in names]


def rounds_of_task(
    options: Options, scenario: Scenario, task: Task, environments: dict[str, Environment]
) -> Iterator[Measurement]:
    """Measure one task in all environments, the order turned round each time."""
    turns = turns_of(scenario, environments)
    if turns and task.scenario in BOUNDS:
        # The bound needs no layer: any environment measures it.
        turns.append(("bound", turns[-1][1]))
    for round_number in range(1, options.rounds_of(scenario) + 1):
        for implementation, environment in turns:
            yield measure(
                task,
                implementation,
                environment,
                round_number,
                profile_path(options, task, implementation, round_number),
            )
        turns.reverse()


def count_commands(
    scenario: Scenario, task: Task, environments: dict[str, Environment]
) -> Iterator[Measurement]:
    """Run a task once more in each environment while somebody counts."""
    counted = replace(task, n=min(task.n, scenario.quick_n))
    for implementation, environment in turns_of(scenario, environments):
        yield count(counted, implementation, environment)


def profile_path(
    options: Options, task: Task, implementation: str, round_number: int
) -> Path | None:
    """Where the profile of a run goes, if profiles are wanted."""
    if options.profiles is None:
        return None
    name = f"{task.scenario}-{task.kind}-{task.loop}-{implementation}-{round_number}.prof"
    return options.profiles.resolve() / name


def carry_out(
    options: Options,
    environments: dict[str, Environment],
    done: Callable[[list[Measurement]], None],
) -> list[Measurement]:
    """Measure everything; ``done`` hears of each task. Ctrl-C ends it with what there is."""
    everything: list[Measurement] = []
    try:
        for scenario, task in options.tasks():
            measurements = list(rounds_of_task(options, scenario, task, environments))
            if task.loop == "asyncio" and scenario.servers != "own":
                measurements += count_commands(scenario, task, environments)
            everything += measurements
            if measurements:
                done(measurements)
    except KeyboardInterrupt:
        pass
    return everything
