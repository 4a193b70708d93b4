"""One message to many members, with layer objects of one process standing for processes."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.probe.bench import MESSAGE, Bench, Crowd, Layer
from benchmarks.probe.direct import ENCRYPTED, stream_to
from benchmarks.probe.registry import Figures, scenario

CAPACITY = 10**6
GROUP = "g"


async def fan_out(
    bench: Bench, n: int, members: int, layers: int, config: dict[str, Any] | None = None
) -> Figures:
    """Send to a group of members spread over layer objects, until all have received."""
    members = bench.crowd_of(members)
    layers = min(layers, members)
    config = {"capacity": CAPACITY, **(config or {})}
    homes = [bench.layer(**config) for _ in range(layers)]
    sender = bench.layer(**config)
    crowd = await join(homes, members)
    await bench.settle()

    async def send_to_all() -> tuple[float, float]:
        crowd.expect(members)
        started_s = time.perf_counter()
        await sender.group_send(GROUP, MESSAGE)
        sent_s = time.perf_counter()
        await crowd.received()
        return sent_s - started_s, time.perf_counter() - started_s

    await send_to_all()
    with bench.meter as meter:
        times_s = [await send_to_all() for _ in range(n)]
    await crowd.leave()
    return meter.figures(
        n,
        members=members,
        layers=layers,
        group_send_ms=round(1e3 * statistics.median(sent_s for sent_s, _ in times_s), 3),
        all_received_ms=round(1e3 * statistics.median(all_s for _, all_s in times_s), 3),
    )


async def join(homes: list[Layer], members: int) -> Crowd:
    """Make members by turns in the layers, and let them receive when all have joined."""
    joined = []
    for i in range(members):
        layer = homes[i % len(homes)]
        channel = await layer.new_channel()
        await layer.group_add(GROUP, channel)
        joined.append((layer, channel))
    crowd = Crowd()
    for layer, channel in joined:
        crowd.add(layer, channel)
    return crowd


def define_fan_out(
    name: str,
    *,
    members: int,
    layers: int,
    n: int,
    quick_n: int,
    max_rounds: int = 99,
    config: dict[str, Any] | None = None,
) -> None:
    """Register a fan-out of one size."""

    async def run(bench: Bench, n: int) -> Figures:
        return await fan_out(bench, n, members, layers, config)

    kept = " with encrypted messages" if config else ""
    run.__doc__ = f"A group of {members} members in {layers} layer object(s){kept}."
    scenario(
        name,
        n=n,
        quick_n=quick_n,
        headline="all_received_ms",
        notes=("group_send_ms",),
        max_rounds=max_rounds,
    )(run)


define_fan_out("group_10", members=10, layers=1, n=300, quick_n=100)
define_fan_out("group_1000", members=1000, layers=1, n=20, quick_n=6)
define_fan_out("group_1000x20", members=1000, layers=20, n=20, quick_n=6)
define_fan_out("group_10000", members=10_000, layers=4, n=5, quick_n=3)
define_fan_out("group_1000_encrypted", members=1000, layers=1, n=20, quick_n=6, config=ENCRYPTED)
for count, n in ((100, 50), (1000, 20), (10_000, 4)):
    define_fan_out(
        f"members_{count}", members=count, layers=1, n=n, quick_n=max(2, n // 5), max_rounds=3
    )
for count in (1, 10, 100):
    define_fan_out(f"processes_{count}", members=1000, layers=count, n=10, quick_n=3, max_rounds=3)


def define_stream(consumers: int) -> None:
    """Register a stream to one number of channels."""

    async def run(bench: Bench, n: int) -> Figures:
        return await stream_to(bench, n, consumers, {})

    run.__doc__ = f"One sender flat out, {consumers} channels of another layer object receiving."
    scenario(f"channels_{consumers}", n=2000, quick_n=500, headline="us_per_op", max_rounds=3)(run)


for count in (10, 100, 1000, 10_000):
    define_stream(count)
