"""One measurement: a fresh server, a fresh process, its figures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.commands import CommandCounter
from benchmarks.environments import RUN_ONE, Environment
from benchmarks.probe.catalogue import SCENARIOS
from channels_redis.testing.servers import ClusterSet, RedisServer

TIMEOUT_S = 400
PREFIX = "bench"
#: The old release is a black box: of its tracebacks only the error itself is kept.
KEPT_ERROR_LINES = {"old": 1, "new": 6, "bound": 6, "single": 6}
PRIMARIES = 3


@dataclass(frozen=True)
class Task:
    """What to measure."""

    scenario: str
    kind: str
    n: int
    loop: str = "asyncio"
    scale: str = "full"


@dataclass
class Measurement:
    """What came of a task; ``implementation`` is old, new, bound or single (the new release on one
    server, where the task is about a cluster).
    """

    task: Task
    implementation: str
    round: int
    figures: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def measure(
    task: Task,
    implementation: str,
    environment: Environment,
    round_number: int,
    profile: Path | None = None,
) -> Measurement:
    """Time a task."""
    measurement = Measurement(task, implementation, round_number)
    with fresh_servers(task, implementation) as servers:
        _run(measurement, environment, servers, profile)
    return measurement


def count(task: Task, implementation: str, environment: Environment) -> Measurement:
    """Count the commands of a task; its times are thrown away."""
    measurement = Measurement(task, implementation, 0)
    with fresh_servers(task, implementation) as servers:
        with contextlib.ExitStack() as stack:
            counters = [stack.enter_context(CommandCounter(server)) for server in servers]
            _run(measurement, environment, servers, None)
        if not measurement.error:
            figures = measurement.figures
            calls = sum((counter.calls for counter in counters), start=Counter[str]())
            total = calls.total()
            measurement.figures = {
                "n": figures["n"],
                "commands": round(total / figures["n"], 3),
                "commands_per_s": round(total / figures["wall_s"], 3),
                "calls": dict(sorted(calls.items())),
            }
    return measurement


@contextlib.contextmanager
def fresh_servers(task: Task, implementation: str) -> Iterator[list[RedisServer]]:
    """Start what a task runs on."""
    if SCENARIOS[task.scenario].servers == "cluster" and implementation != "single":
        with ClusterSet(PRIMARIES) as cluster:
            yield cluster.servers
    else:
        with RedisServer() as server:
            yield [server]


def _run(
    measurement: Measurement,
    environment: Environment,
    servers: list[RedisServer],
    profile: Path | None,
) -> None:
    """Run the process and fill in its figures, or what went wrong."""
    task = measurement.task
    order = {
        "scenario": task.scenario,
        "n": task.n,
        "uvloop": task.loop == "uvloop",
        "bound": measurement.implementation == "bound",
        "bench": {
            "urls": [server.url for server in servers],
            "cluster": len(servers) > 1,
            "kind": task.kind,
            "prefix": PREFIX,
            "scale": task.scale,
        },
        "profile": str(profile) if profile else None,
    }
    command = [str(environment.python), str(RUN_ONE), json.dumps(order)]
    # A session of its own: the processes that a scenario starts end with it.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=TIMEOUT_S)
        except BaseException as error:
            _end_session(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            measurement.error = f"not done after {TIMEOUT_S} s"
            return
    if process.returncode:
        kept = KEPT_ERROR_LINES[measurement.implementation]
        measurement.error = "\n".join(errors.strip().splitlines()[-kept:])
    else:
        measurement.figures = json.loads(output.splitlines()[-1])


def _end_session(process: subprocess.Popen[str]) -> None:
    """End a process that hangs, and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
