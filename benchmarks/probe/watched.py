"""What it costs to watch a layer: the same messages with metrics off and on, by turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.probe.bench import MESSAGE, NO_LIMIT, Bench, Crowd
from benchmarks.probe.meter import process_cpu_s
from benchmarks.probe.registry import Figures, scenario

CONSUMERS = 100
#: Slices of each kind; a slow moment hits all kinds alike.
TURNS = 10
#: Messages before each slice that are not measured.
WARM_UP = 20
#: Between two readings of the statistics, which is fifty times more often than exporters ask.
POLL_S = 0.2


def watch(layers: dict[str, Any], *, durations: bool) -> Callable[[], None]:
    """Turn on OpenTelemetry, a subscriber, and somebody who polls."""
    if not hasattr(next(iter(layers.values())), "stats"):
        return lambda: None  # 4.3.0 has nothing to turn on

    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from channels_redis.opentelemetry import instrument

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    ends = [instrument(layers, provider, durations=durations)]
    ends += [layer.on_event(lambda event: None) for layer in layers.values()]
    loop = asyncio.get_running_loop()

    def poll() -> None:
        nonlocal timer
        reader.get_metrics_data()
        timer = loop.call_later(POLL_S, poll)

    timer = loop.call_later(POLL_S, poll)

    def end() -> None:
        timer.cancel()
        for one in ends:
            one()
        provider.shutdown()

    return end


@scenario("metrics", n=9000, quick_n=3000, headline="on_us", notes=("off_us", "counts_us"))
async def metrics(bench: Bench, n: int) -> Figures:
    """Client CPU of a message to one of 100 consumers: metrics off, counts only, all, by turns."""
    layers = {name: bench.layer(capacity=NO_LIMIT) for name in ("sender", "receiver")}
    consumers = bench.crowd_of(CONSUMERS)
    channels = [await layers["receiver"].new_channel() for _ in range(consumers)]
    crowd = Crowd()
    for channel in channels:
        crowd.add(layers["receiver"], channel)
    await bench.settle()
    share = max(1, n // (3 * TURNS))

    async def slice_us(messages: int = share) -> float:
        crowd.expect(messages)
        before_s = process_cpu_s()
        for i in range(messages):
            await layers["sender"].send(channels[i % consumers], MESSAGE)
        await crowd.received()
        return 1e6 * (process_cpu_s() - before_s) / messages

    async def watched_us(*, durations: bool) -> float:
        with contextlib.ExitStack() as stack:
            stack.callback(watch(layers, durations=durations))
            await slice_us(WARM_UP)
            return await slice_us()

    off, counts, on = [], [], []
    with bench.meter as meter:
        for _ in range(TURNS):
            await slice_us(WARM_UP)
            off.append(await slice_us())
            counts.append(await watched_us(durations=False))
            on.append(await watched_us(durations=True))
    await crowd.leave()
    return meter.figures(
        3 * TURNS * share,
        on_us=round(median(on), 1),
        off_us=round(median(off), 1),
        counts_us=round(median(counts), 1),
    )
