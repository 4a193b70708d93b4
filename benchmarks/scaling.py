"""``python -m benchmarks.scaling`` prints what :mod:`benchmarks.model` says for 1 to 10,000,000
consumers. With ``--check`` it measures some points on this machine and prints both side by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.model import DEFAULTS, MAX_SERVERS, Load, Site, predict, servers_needed
from benchmarks.points import comparison_lines


def growth(layer: str, **details: object) -> Iterator[tuple[Site, Load, Site | None]]:
    """1 to 10,000,000 consumers: on one server, and on as many as are needed."""
    for power in range(8):
        site = replace(Site(layer, 10**power), **details)  # type: ignore[arg-type] # its own fields
        yield site, predict(site), servers_needed(site)


def growth_lines(layer: str) -> Iterator[str]:
    """The table of one layer: its load on one server, and the servers that it needs and its
    latency on these.
    """
    yield (
        f"{layer:>6} {'consumers':>11} {'processes':>9} {'connections':>11} {'commands/s':>11} "
        f"{'server CPU':>10} {'MB':>7} {'Mbit/s':>7}  {'first limit':<22} {'servers':>7} "
        f"{'latency ms':>10}"
    )
    for site, load, larger in growth(layer):
        name, share = load.first_limit(DEFAULTS)
        enough = predict(larger or replace(site, servers=MAX_SERVERS))
        needed = f"{larger.servers:>7,}" if larger else f"{'never':>7}"
        megabytes, megabits_per_s = load.server_bytes / 1e6, load.network_bytes_per_s * 8e-6
        yield (
            f"{'':>6} {site.consumers:>11,} {site.processes:>9,} {load.connections:>11,.0f} "
            f"{load.commands_per_s:>11,.1f} {load.server_cpu:>10.2%} {megabytes:>7,.1f} "
            f"{megabits_per_s:>7,.1f}  {name + f' {share:.1%}':<22} {needed} "
            f"{enough.latency_ms:>10.1f}"
        )


def main(arguments: list[str] | None = None) -> int:
    """Print what the model says, or hold it against this machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--check", action="store_true", help="measure some points, and compare")
    if parser.parse_args(arguments).check:
        lines = comparison_lines()
    else:
        lines = (line for layer in ("core", "pubsub") for line in growth_lines(layer))
    for line in lines:
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
