"""The table of what each channel layer passes: how it is measured, written and read."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from channels_redis.testing import conformance
from channels_redis.testing.servers import RedisServer

ROOT = Path(__file__).resolve().parent.parent.parent
CSV = ROOT / "docs" / "conformance.csv"
PROBE = Path(__file__).with_name("probe.py")

CORE = "channels_redis.core.RedisChannelLayer"
PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
MEMORY = "channels.layers.InMemoryChannelLayer"

#: Column -> whether it is of the old release, and the class.
COLUMNS = {
    "core": (False, CORE),
    "pubsub": (False, PUBSUB),
    "in memory": (False, MEMORY),
    "core 4.3.0": (True, CORE),
    "pubsub 4.3.0": (True, PUBSUB),
}
YES, NO = "yes", "**no**"
RUNS = 5

#: Column -> test -> passed.
Table = dict[str, dict[str, bool]]

TESTS = [
    name
    for part in conformance.ChannelLayerConformance.__mro__
    for name in vars(part)
    if name.startswith("test_")
]


def old_python() -> str:
    """An interpreter with channels-redis 4.3.0: CHANNELS_REDIS_OLD_PYTHON, or one made here."""
    named = os.environ.get("CHANNELS_REDIS_OLD_PYTHON")
    if named:
        return named
    from benchmarks.environments import installed_old_python  # Only where one has to be made.

    return str(installed_old_python())


def runs(column: str) -> Iterator[dict[str, bool]]:
    """Yield, run after run, what has passed."""
    for _ in range(RUNS):
        with RedisServer() as server:
            yield _passed(column, server.url)


def _passed(column: str, url: str) -> dict[str, bool]:
    is_old, layer = COLUMNS[column]
    command = [old_python(), "-I"] if is_old else [sys.executable]
    completed = subprocess.run(
        [*command, str(PROBE), str(Path(conformance.__file__).parent), layer, url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        check=True,
    )
    outcomes = json.loads(completed.stdout)
    return {name: not outcomes[name] for name in TESTS}


def written(table: Table) -> str:
    """Return a table as CSV, a test in each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *table])
    for name in TESTS:
        words = name.removeprefix("test_").replace("_", " ")
        passed = [YES if column[name] else NO for column in table.values()]
        writer.writerow([words[0].upper() + words[1:], *passed])
    return text.getvalue()


def published() -> Table:
    """Return the table in the documentation."""
    with CSV.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(TESTS), "Renew it: python -m tests.conformance"
    return {
        column: {name: row[column] == YES for name, row in zip(TESTS, rows, strict=True)}
        for column in COLUMNS
    }
