"""What it costs to watch a layer: the same messages with metrics and traces, by turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
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


def trace_all(layers: dict[str, Any], *, sampled: bool) -> Callable[[], None]:
    """Turn on traces, with an exporter that keeps nothing."""
    if not hasattr(next(iter(layers.values())), "trace_sending"):
        return lambda: None

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

    from channels_redis.tracing import trace

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(sampler=ALWAYS_ON if sampled else ALWAYS_OFF)
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    end_traces = trace(layers, provider)

    def end() -> None:
        end_traces()
        provider.shutdown()

    return end


#: Ways to watch, by the names of their figures.
WAYS: dict[str, Callable[[dict[str, Any]], Callable[[], None]]] = {
    "off_us": lambda layers: lambda: None,
    "counts_us": partial(watch, durations=False),
    "on_us": partial(watch, durations=True),
    "unsampled_us": partial(trace_all, sampled=False),
    "traced_us": partial(trace_all, sampled=True),
}


@scenario(
    "metrics",
    n=15000,
    quick_n=5000,
    headline="on_us",
    notes=("off_us", "counts_us", "unsampled_us", "traced_us"),
)
async def metrics(bench: Bench, n: int) -> Figures:
    """Client CPU of a message to one of 100 consumers: metrics off, counts only, all, then traces
    that are not sampled, and all spans, by turns.
    """
    layers = {name: bench.layer(capacity=NO_LIMIT) for name in ("sender", "receiver")}
    consumers = bench.crowd_of(CONSUMERS)
    channels = [await layers["receiver"].new_channel() for _ in range(consumers)]
    crowd = Crowd()
    for channel in channels:
        crowd.add(layers["receiver"], channel)
    await bench.settle()
    share = max(1, n // (len(WAYS) * TURNS))

    async def slice_us(messages: int = share) -> float:
        crowd.expect(messages)
        before_s = process_cpu_s()
        for i in range(messages):
            await layers["sender"].send(channels[i % consumers], MESSAGE)
        await crowd.received()
        return 1e6 * (process_cpu_s() - before_s) / messages

    found: dict[str, list[float]] = {name: [] for name in WAYS}
    with bench.meter as meter:
        for name, turn_on in TURNS * [*WAYS.items()]:
            with contextlib.ExitStack() as stack:
                stack.callback(turn_on(layers))
                await slice_us(WARM_UP)
                found[name].append(await slice_us())
    await crowd.leave()
    return meter.figures(
        len(WAYS) * TURNS * share,
        **{name: round(median(figures), 1) for name, figures in found.items()},
    )
