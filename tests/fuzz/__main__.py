"""Runs the fuzz suite on both layers, prints its table, and exits with 1 for what must not be."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter

from channels_redis.testing.servers import RedisServer

COLUMNS = ("tried", "documented", "accepted", "undocumented", "hangs")
TITLES = ("tried", "documented errors", "accepted", "undocumented", "hangs", "crashes")


def run(kind: str, url: str, options: argparse.Namespace) -> tuple[Counter[str], list[str], int]:
    """Run the worker of one layer; return its counts, what was strange, and its crashes."""
    words = [kind, url, str(options.seed), str(options.scale), str(options.seconds)]
    # Far above its own limit: a loop that stands for ever is a hang too.
    process = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.worker", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=options.seconds * 3 + 120,
    )
    if process.returncode:
        return Counter(), [f"{kind}: exit status {process.returncode}"], 1
    told = json.loads(process.stdout.splitlines()[-1])
    return Counter(told["counts"]), told["strange"], 0


def main() -> int:
    """Print a row for each layer and kind of attack."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of tries")
    parser.add_argument("--seconds", type=float, default=300.0, help="for each layer, at most")
    options = parser.parse_args()
    bad = 0
    with RedisServer() as server:
        print(f"{'':32}" + "".join(f"{title:>19}" for title in TITLES))
        for kind in ("core", "pubsub"):
            counts, strange, crashes = run(kind, server.url, options)
            places = sorted({key.rpartition(" ")[0] for key in counts if key.endswith(" tried")})
            for place in places:
                row = [counts[f"{place} {column}"] for column in COLUMNS]
                print(f"{kind + ' ' + place:32}" + "".join(f"{n:>19,}" for n in (*row, crashes)))
                bad += row[3] + row[4]
            bad += crashes
            print("\n".join(strange))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
