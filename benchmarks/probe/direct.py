"""Messages from one sender to one channel: send, receive and both at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from benchmarks.probe.bench import MESSAGE, NO_LIMIT, Bench, Crowd
from benchmarks.probe.meter import percentile
from benchmarks.probe.registry import Figures, scenario

SENDERS = 64
CONSUMERS = 100
WARM_UP_ROUNDS = 20
ENCRYPTED = {"symmetric_encryption_keys": ["benchmark"]}


@scenario("send_seq", n=2000, quick_n=500, headline="us_per_op")
async def send_seq(bench: Bench, n: int) -> Figures:
    """One sender, one message after the other, nobody receiving."""
    layer = bench.layer(capacity=NO_LIMIT)
    await layer.send("warm", MESSAGE)
    with bench.meter as meter:
        for _ in range(n):
            await layer.send("chan", MESSAGE)
    return meter.figures(n)


@scenario("send_conc", n=6400, quick_n=1280, headline="us_per_op")
async def send_conc(bench: Bench, n: int) -> Figures:
    """64 concurrent senders, nobody receiving."""
    layer = bench.layer(capacity=NO_LIMIT)
    await asyncio.gather(*[layer.send("warm", MESSAGE) for _ in range(SENDERS)])
    each = max(1, n // SENDERS)

    async def send() -> None:
        for _ in range(each):
            await layer.send("chan", MESSAGE)

    with bench.meter as meter:
        await asyncio.gather(*[send() for _ in range(SENDERS)])
    return meter.figures(each * SENDERS)


@scenario("drain", n=2000, quick_n=500, headline="us_per_op", layers=("core",))
async def drain(bench: Bench, n: int) -> Figures:
    """Receive messages that already wait on one specific channel."""
    layer = bench.layer(capacity=NO_LIMIT)
    channel = await layer.new_channel()
    for _ in range(n):
        await layer.send(channel, MESSAGE)
    with bench.meter as meter:
        for _ in range(n):
            await layer.receive(channel)
    return meter.figures(n)


@scenario("drain_many", n=2000, quick_n=500, headline="us_per_op", layers=("core",))
async def drain_many(bench: Bench, n: int) -> Figures:
    """100 channels of one process with messages waiting, all receiving."""
    layer = bench.layer(capacity=NO_LIMIT)
    channels = [await layer.new_channel() for _ in range(bench.crowd_of(CONSUMERS))]
    each = max(1, n // len(channels))
    for channel in channels * each:
        await layer.send(channel, MESSAGE)

    async def receive(channel: str) -> None:
        for _ in range(each):
            await layer.receive(channel)

    with bench.meter as meter:
        await asyncio.gather(*[receive(channel) for channel in channels])
    return meter.figures(each * len(channels))


@scenario("pingpong", n=1000, quick_n=300, headline="p50_us", notes=("p99_us",))
async def pingpong(bench: Bench, n: int) -> Figures:
    """From send to receive between two layer objects, the receiver already waiting."""
    sender, receiver = bench.layer(), bench.layer()
    channel = await receiver.new_channel()
    arrived = asyncio.Event()

    async def receive() -> None:
        while True:
            await receiver.receive(channel)
            arrived.set()

    async def round_trip() -> float:
        arrived.clear()
        started_s = time.perf_counter()
        await sender.send(channel, MESSAGE)
        await arrived.wait()
        return time.perf_counter() - started_s

    consumer = asyncio.ensure_future(receive())
    await bench.settle()
    for _ in range(WARM_UP_ROUNDS):
        await round_trip()
    with bench.meter as meter:
        latencies_s = [await round_trip() for _ in range(n)]
    await cancelled(consumer)
    return meter.figures(
        n,
        p50_us=round(1e6 * percentile(latencies_s, 0.5)),
        p99_us=round(1e6 * percentile(latencies_s, 0.99)),
    )


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def stream_to(bench: Bench, n: int, consumers: int, config: dict[str, Any]) -> Figures:
    """One sender flat out, consumers of another layer object receiving."""
    sender = bench.layer(capacity=NO_LIMIT, **config)
    receiver = bench.layer(capacity=NO_LIMIT, **config)
    consumers = bench.crowd_of(consumers)
    channels = [await receiver.new_channel() for _ in range(consumers)]
    crowd = Crowd()
    crowd.expect(n)
    for channel in channels:
        crowd.add(receiver, channel)
    await bench.settle()
    with bench.meter as meter:
        for i in range(n):
            await sender.send(channels[i % consumers], MESSAGE)
        await crowd.received()
    await crowd.leave()
    return meter.figures(n)


@scenario("stream", n=2000, quick_n=500, headline="us_per_op")
async def stream(bench: Bench, n: int) -> Figures:
    """One sender flat out, 100 consumers of another layer object receiving."""
    return await stream_to(bench, n, CONSUMERS, {})


@scenario("stream_encrypted", n=1000, quick_n=300, headline="us_per_op")
async def stream_encrypted(bench: Bench, n: int) -> Figures:
    """The same with encrypted messages."""
    return await stream_to(bench, n, CONSUMERS, ENCRYPTED)


@scenario("big", n=100, quick_n=25, headline="us_per_op")
async def big(bench: Bench, n: int) -> Figures:
    """Messages of 1 MB from send to receive, one after the other."""
    sender, receiver = bench.layer(), bench.layer()
    channel = await receiver.new_channel()
    message = {"type": "x", "data": "y" * 1_000_000}
    arrival = asyncio.ensure_future(receiver.receive(channel))
    await bench.settle()
    with bench.meter as meter:
        for _ in range(n):
            await sender.send(channel, message)
            await arrival
            arrival = asyncio.ensure_future(receiver.receive(channel))
    await cancelled(arrival)
    return meter.figures(n)


@scenario("worker", n=2000, quick_n=500, headline="us_per_op")
async def worker(bench: Bench, n: int) -> Figures:
    """One sender flat out to a general channel, one worker of another layer object."""
    sender, receiver = bench.layer(capacity=NO_LIMIT), bench.layer(capacity=NO_LIMIT)
    crowd = Crowd()
    crowd.expect(n)
    crowd.add(receiver, "tasks")
    await bench.settle()
    with bench.meter as meter:
        for _ in range(n):
            await sender.send("tasks", MESSAGE)
        await crowd.received()
    await crowd.leave()
    return meter.figures(n)
