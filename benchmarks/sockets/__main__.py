"""``python -m benchmarks.sockets``: measure by turns, print, and keep."""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.environments import installed_old_python
from benchmarks.sockets.trial import Figures, Setting, Variant, measure
from channels_redis.testing.servers import RedisServer

VARIANTS = {
    one.name: one
    for one in (
        Variant("bare ASGI app", "bare"),
        Variant("@broadcast, pubsub", "broadcast"),
        Variant("@broadcast, core", "broadcast", "core"),
        Variant("@broadcast, sync consumer", "sync-broadcast"),
        Variant("BroadcastMixin, ordinary handler", "mixin"),
        Variant("python-socketio", "socketio"),
        Variant("Channels, pubsub", "plain"),
        Variant("Channels, core", "plain", "core"),
        Variant("Channels, sync consumer", "sync-plain"),
        Variant("Channels, 4.3.0 pubsub", "plain", "pubsub", "old"),
        Variant("Channels, 4.3.0 core", "plain", "core", "old"),
    )
}
COLUMNS = ("CPU us/frame", "x bare", "first ms", "median ms", "last ms", "KiB/socket", "connect ms")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sockets",
        description="Send one message to all WebSockets of a site, for each kind of site by turns.",
    )
    add = parser.add_argument
    add("--sockets", type=int, default=1000)
    add("--messages", type=int, default=20, help="measured in each round, after three others")
    add("--rounds", type=int, default=3)
    add(
        "--server",
        default="websockets-sansio",
        help="daphne, or a WebSocket implementation of uvicorn",
    )
    add("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    add("--deflate", action="store_true", help="let the server compress")
    add("--site", action="append", metavar="WORDS", help="only sites with these words")
    add(
        "--old-python",
        type=Path,
        help="an interpreter that has channels-redis 4.3.0 and the servers",
    )
    add("--csv", type=Path, metavar="FILE", help="add the table to a file")
    add("--chart", type=Path, metavar="FILE", help="draw the table as SVG")
    return parser.parse_args()


def chosen(words: list[str] | None) -> list[Variant]:
    """Return the sites that were asked for, and the bound."""
    return [
        variant
        for name, variant in VARIANTS.items()
        if words is None or variant.kind == "bare" or any(word in name for word in words)
    ]


def median_of(figures: list[Figures]) -> dict[str, float]:
    """Return the median of each figure over the rounds."""
    rows = [one.as_json() for one in figures]
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def run(
    variants: list[Variant], setting: Setting, rounds: int, pythons: dict[str, Path]
) -> dict[str, dict[str, float]]:
    """Measure all by turns, in the other direction each time; return medians by name."""
    found: dict[str, list[Figures]] = {variant.name: [] for variant in variants}
    turns = [variants[:: 1 if number % 2 == 0 else -1] for number in range(rounds)]
    with RedisServer() as server:
        for variant in itertools.chain.from_iterable(turns):
            try:
                figures = measure(variant, setting, pythons[variant.environment], server.url)
            except RuntimeError as error:
                # The core layer of 4.3.0 ends idle consumers with some releases of redis-py.
                print(f"{variant.name}: {error}", file=sys.stderr)
                continue
            found[variant.name].append(figures)
            print(f"{variant.name}: {figures.site_us:.1f} us", file=sys.stderr)
    return {name: median_of(figures) for name, figures in found.items() if figures}


def table_of(found: dict[str, dict[str, float]]) -> list[list[str]]:
    """Return the rows of the table."""
    bare = found["bare ASGI app"]["site_us"]
    return [
        [
            name,
            f"{row['site_us']:.1f}",
            f"{row['site_us'] / bare:.2f}",
            *(f"{row[column]:.0f}" for column in ("first_ms", "median_ms", "last_ms", "kib")),
            f"{row['connect_ms']:.2f}",
        ]
        for name, row in found.items()
    ]


def print_table(rows: list[list[str]], found: dict[str, dict[str, float]]) -> None:
    """Print it, and how much of a processor the clients took."""
    print(f"{'':34}", *(f"{title:>13}" for title in COLUMNS))
    for name, *cells in rows:
        print(f"{name:34}", *(f"{cell:>13}" for cell in cells))
    most = max(row["clients_us"] for row in found.values())
    print(f"The clients took {most:.1f} us of CPU for a frame at most.")


def write_csv(path: Path, setting: Setting, rows: list[list[str]]) -> None:
    """Add the table to a file for the documentation."""
    title = f"{setting.sockets:,} sockets, {setting.server}, {setting.loop}"
    title += ", deflate" if setting.deflate else ""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(["setting", "site", *COLUMNS])
        writer.writerows([title, *row] for row in rows)


def draw(path: Path, setting: Setting, found: dict[str, dict[str, float]]) -> None:
    """Draw the cost of a frame, and the time until the last client has it."""
    # Only here, as it takes a second to import.
    from benchmarks.charts import COLOURS, pyplot

    names = sorted(found, key=lambda name: found[name]["site_us"])
    figure, both = pyplot.subplots(1, 2, figsize=(10, 0.9 + 0.36 * len(names)), sharey=True)
    columns: list[tuple[Any, str, str]] = [
        (both[0], "site_us", "µs of the site's CPU for a frame"),
        (both[1], "last_ms", "ms until the last client has it"),
    ]
    for axes, column, title in columns:
        colours = [COLOURS["core" if "@broadcast" in name else "old"] for name in names]
        bars = axes.barh(names, [found[name][column] for name in names], color=colours)
        axes.bar_label(
            bars, [f"{found[name][column]:.0f}" for name in names], padding=3, fontsize=8
        )
        axes.set_xlabel(title)
    both[0].invert_yaxis()
    figure.suptitle(
        f"One message to {setting.sockets:,} WebSockets of a process", fontweight="bold"
    )
    figure.tight_layout()
    pyplot.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure what the command line asks for."""
    arguments = parse()
    variants = chosen(arguments.site)
    setting = Setting(
        arguments.sockets,
        arguments.messages,
        arguments.server,
        arguments.loop,
        arguments.deflate,
    )
    pythons = {"new": Path(sys.executable)}
    if any(variant.environment == "old" for variant in variants):
        pythons["old"] = arguments.old_python or installed_old_python()
    found = run(variants, setting, arguments.rounds, pythons)
    rows = table_of(found)
    print_table(rows, found)
    if arguments.csv:
        write_csv(arguments.csv, setting, rows)
    if arguments.chart:
        draw(arguments.chart, setting, found)


if __name__ == "__main__":
    main()
