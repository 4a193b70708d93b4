"""What consumers cost that do nothing, that all come at once, and that come and go."""

from __future__ import annotations

import asyncio
import gc
import time

from benchmarks.probe.bench import MESSAGE, Bench, Crowd, Layer
from benchmarks.probe.meter import resident_bytes
from benchmarks.probe.registry import Figures, scenario

GROUP = "g"
VISITORS = 50
PROBE_TIMEOUT_S = 10.0
KIB = 1024


async def one_joins(layer: Layer, crowd: Crowd) -> None:
    """A new consumer with one group that waits for messages."""
    channel = await layer.new_channel()
    await layer.group_add(GROUP, channel)
    crowd.add(layer, channel)


@scenario(
    "idle",
    n=1000,
    quick_n=200,
    headline="client_cpu_pct",
    notes=("commands_per_s", "reads_per_s", "dead"),
    max_rounds=3,
)
async def idle(bench: Bench, n: int) -> Figures:
    """Consumers that wait for nothing: CPU and commands of waiting."""
    layer = bench.layer()
    crowd = Crowd()
    for _ in range(n):
        await one_joins(layer, crowd)
    await bench.settle()
    with bench.meter as meter:
        await asyncio.sleep(bench.scale.idle_s)
    dead = len(crowd.dead())
    await crowd.leave()
    return meter.figures(
        n,
        client_cpu_pct=round(100 * meter.client_cpu_s / meter.wall_s, 3),
        reads_per_s=round(meter.server_reads / meter.wall_s, 2),
        dead=dead,
    )


@scenario("memory", n=5000, quick_n=2000, headline="kib_per_consumer", max_rounds=3)
async def memory(bench: Bench, n: int) -> Figures:
    """Memory of consumers that wait, each with its task and one group."""
    layer = bench.layer()
    crowd = Crowd()
    await one_joins(layer, crowd)
    gc.collect()
    before_bytes = resident_bytes()
    with bench.meter as meter:
        for _ in range(n):
            await one_joins(layer, crowd)
        await asyncio.sleep(0.1)
    gc.collect()
    grown_bytes = resident_bytes() - before_bytes
    await crowd.leave()
    return meter.figures(n, kib_per_consumer=round(grown_bytes / n / KIB, 2))


@scenario(
    "connect_storm",
    n=5000,
    quick_n=1000,
    headline="us_per_op",
    notes=("failed", "reached"),
    max_rounds=3,
)
async def connect_storm(bench: Bench, n: int) -> Figures:
    """Consumers of one process that all join one group at once."""
    layer = bench.layer()
    crowd = Crowd()
    with bench.meter as meter:
        joins = await asyncio.gather(
            *[one_joins(layer, crowd) for _ in range(n)], return_exceptions=True
        )
    failed = sum(isinstance(join, BaseException) for join in joins)
    reached = await reach(layer, crowd)
    await crowd.leave()
    return meter.figures(max(1, n - failed), failed=failed, reached=reached)


async def reach(layer: Layer, crowd: Crowd) -> int:
    """Send to the group and count who hears of it."""
    crowd.expect(len(crowd))
    await layer.group_send(GROUP, MESSAGE)
    deadline_s = time.monotonic() + PROBE_TIMEOUT_S
    while crowd.seen < len(crowd) - len(crowd.dead()) and time.monotonic() < deadline_s:
        await asyncio.sleep(0.05)
    return crowd.seen


@scenario(
    "churn",
    n=10_000,
    quick_n=1000,
    headline="us_per_op",
    notes=("bytes_per_cycle", "objects_per_cycle", "keys_left"),
    max_rounds=1,
)
async def churn(bench: Bench, n: int) -> Figures:
    """Consumers that join a group, receive, and leave: what stays of them."""
    layer = bench.layer()
    await visits(layer, n)
    await forget(bench)
    before_bytes, before_objects = resident_bytes(), len(gc.get_objects())
    with bench.meter as meter:
        cycles = await visits(layer, n)
    await forget(bench)
    figures = meter.figures(cycles, keys_left=bench.meter.keys())
    if bench.scale.forget_s:
        grown_bytes = resident_bytes() - before_bytes
        grown_objects = len(gc.get_objects()) - before_objects
        figures["bytes_per_cycle"] = round(grown_bytes / cycles, 1)
        figures["objects_per_cycle"] = round(grown_objects / cycles, 3)
    return figures


async def forget(bench: Bench) -> None:
    """Give the layer the time after which it may drop what nobody waits for."""
    await asyncio.sleep(bench.scale.forget_s)
    gc.collect()


async def visits(layer: Layer, n: int) -> int:
    """Let visitors come and go, some at a time; returns how many there were."""

    async def visit_again_and_again() -> None:
        for _ in range(each):
            await visit(layer)

    each = max(1, n // VISITORS)
    await asyncio.gather(*[visit_again_and_again() for _ in range(VISITORS)])
    return each * VISITORS


async def visit(layer: Layer) -> None:
    """A consumer's life: join, receive one message, wait for another, leave."""
    channel = await layer.new_channel()
    await layer.group_add(GROUP, channel)
    first = asyncio.ensure_future(layer.receive(channel))
    await layer.send(channel, MESSAGE)
    await first
    second = asyncio.ensure_future(layer.receive(channel))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await layer.group_discard(GROUP, channel)
