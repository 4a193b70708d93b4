"""A run as plain data: what it depended on, every measurement, and what follows from them."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.environments import Environment, differing_neighbours
from benchmarks.measure import Measurement, Task
from benchmarks.summary import Row
from benchmarks.targets import judge
from channels_redis.testing.servers import find_server, server_version


def about(environments: dict[str, Environment]) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "server": server_title(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "load_before": busy(),
        "versions": {name: env.versions for name, env in environments.items()},
    }


def busy() -> float:
    """How many other processes wanted a CPU in the last minute."""
    return round(os.getloadavg()[0], 2)


def server_title() -> str:
    """The program that serves, and its version."""
    name, numbers = server_version(find_server())
    return f"{name} {'.'.join(map(str, numbers))}"


def unfair(environments: dict[str, Environment]) -> dict[str, tuple[str, str]]:
    """Packages whose versions differ between the environments, if both are there."""
    if len(environments) < 2:
        return {}
    return differing_neighbours(environments["old"], environments["new"])


def save(
    path: Path, facts: dict[str, Any], measurements: list[Measurement], rows: list[Row]
) -> None:
    """Write all measurements and what follows from them."""
    document = {
        "about": facts,
        "rows": [asdict(row) for row in rows],
        "targets": [{**asdict(verdict), "verdict": verdict.word} for verdict in judge(rows)],
        "measurements": [measurement.as_json() for measurement in measurements],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def load(path: Path) -> tuple[dict[str, Any], list[Measurement]]:
    """Read what :func:`save` wrote."""
    document = json.loads(path.read_text())
    measurements = [
        Measurement(**{**fields, "task": Task(**fields["task"])})
        for fields in document["measurements"]
    ]
    return document["about"], measurements
