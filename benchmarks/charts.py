"""Charts for the README and the documentation, as SVG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from benchmarks.summary import Row

# Without this, SVG files change with every run even where the figures don't.
matplotlib.use("svg")
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "channels_redis",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titleweight": "bold",
        "figure.facecolor": "white",
    }
)
COLOURS = {"old": "#9aa5b1", "core": "#c0392b", "pubsub": "#2c6fbb", "bound": "#444444"}
RATIO_SCENARIOS = (
    "send_seq", "send_conc", "drain", "drain_many", "pingpong", "stream", "worker", "big",
    "group_10", "group_1000", "group_1000x20", "group_10000", "group_1000_encrypted", "sync",
    "sync_face", "connect_storm",
)  # fmt: skip
PERCENTILES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")
FAMILIES = {
    "members": "members of a group: ms until all received",
    "processes": "layer objects (1,000 members): ms until all received",
    "channels": "channels: µs for a message sent and received",
}
KINDS = ("core", "pubsub")
PLAIN_NUMBERS = StrMethodFormatter("{x:,g}")


def draw(rows: list[Row], facts: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what there are figures for; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = [row for row in rows if row.loop == "asyncio"]
    new = facts["versions"].get("new", {})
    source = (
        f"channels_redis {new.get('channels_redis')} beside 4.3.0 in one run; {facts['server']}, "
        f"Python {new.get('python')}, redis-py {new.get('redis')}, "
        f"hiredis {new.get('hiredis')}, {facts['machine']}"
    )
    charts: dict[str, Callable[[list[Row]], bool]] = {
        "ratios": draw_ratios,
        "latency": draw_latency,
        "growth": draw_growth,
    }
    drawn = []
    for name, chart in charts.items():
        if chart(plain):
            pyplot.gcf().text(0.01, 0.01, source, fontsize=7, color="#666666")
            path = folder / f"{name}.svg"
            pyplot.savefig(path, metadata={"Date": None})
            drawn.append(path)
        pyplot.close("all")
    return drawn


def draw_ratios(rows: list[Row]) -> bool:
    """How many times faster each scenario is, both layers side by side."""
    found = {(row.scenario, row.kind): row.ratio for row in rows if row.ratio is not None}
    names = [name for name in RATIO_SCENARIOS if any((name, kind) in found for kind in KINDS)]
    if not names:
        return False
    figure, axes = pyplot.subplots(figsize=(8, 1.6 + 0.42 * len(names)))
    for offset, kind in ((-0.19, "core"), (0.19, "pubsub")):
        shown = [(i, found[name, kind]) for i, name in enumerate(names) if (name, kind) in found]
        places = [i + offset for i, _ in shown]
        bars = axes.barh(places, [r for _, r in shown], 0.36, color=COLOURS[kind], label=kind)
        axes.bar_label(bars, [f"{r:.1f}" for _, r in shown], padding=3, fontsize=8)
    axes.axvline(1, color="#444444", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(PLAIN_NUMBERS)
    axes.set_xlabel("times faster than channels_redis 4.3.0 (dashed: equal; logarithmic)")
    axes.set_title("Speed beside channels_redis 4.3.0")
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return True


def draw_latency(rows: list[Row]) -> bool:
    """Latency of a group message to 4,000 members in 2 processes."""
    found = [row for row in rows if row.scenario == "multi_process" and row.old and row.new]
    if not found:
        return False
    figure, all_axes = pyplot.subplots(1, len(found), figsize=(4 * len(found), 3.4), squeeze=False)
    for axes, row in zip(all_axes[0], found, strict=True):
        for offset, side, colour in ((-0.2, "old", "old"), (0.2, "new", row.kind)):
            medians = getattr(row, side)
            places = [i + offset for i in range(len(PERCENTILES))]
            heights = [medians[name] for name in PERCENTILES]
            label = "4.3.0" if side == "old" else "this release"
            bars = axes.bar(places, heights, 0.38, color=COLOURS[colour], label=label)
            axes.bar_label(bars, [f"{height:.0f}" for height in heights], fontsize=8)
        axes.set_xticks(range(len(PERCENTILES)), [name[:-3] for name in PERCENTILES])
        axes.set_title(row.kind)
        axes.legend(loc="upper left", frameon=False)
    all_axes[0][0].set_ylabel("ms from group_send to receive")
    figure.suptitle("4,000 members in 2 processes", fontweight="bold")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    return True


def draw_growth(rows: list[Row]) -> bool:
    """Cost as members, processes and channels grow tenfold."""
    families = {name: family_points(rows, name) for name in FAMILIES}
    families = {name: points for name, points in families.items() if points}
    if not families:
        return False
    figure, all_axes = pyplot.subplots(
        1, len(families), figsize=(4 * len(families), 3.6), squeeze=False
    )
    for axes, (name, points) in zip(all_axes[0], families.items(), strict=True):
        draw_family(axes, points)
        axes.set_title(FAMILIES[name], fontsize=9)
    all_axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    return True


def family_points(rows: list[Row], family: str) -> list[tuple[int, Row]]:
    """The sizes of a family of scenarios, with their rows."""
    return [
        (int(row.scenario.split("_")[1]), row)
        for row in rows
        if row.scenario.startswith(f"{family}_")
    ]


def draw_family(axes: Axes, points: list[tuple[int, Row]]) -> None:
    """One line for each layer of each release, both scales logarithmic."""
    for kind in KINDS:
        for side, style, label in (("old", "--", f"{kind} 4.3.0"), ("new", "-", kind)):
            line = [
                (size, value)
                for size, row in points
                if row.kind == kind and (value := row.figure(side, "headline")) is not None
            ]
            if line:
                sizes, values = zip(*sorted(line), strict=True)
                axes.plot(sizes, values, style, marker="o", color=COLOURS[kind], label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(PLAIN_NUMBERS)
    axes.yaxis.set_major_formatter(PLAIN_NUMBERS)
