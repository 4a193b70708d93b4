"""A cluster of three beside a single server, and a cluster that has lost one of its three."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median
from typing import Any

from redis.exceptions import ConnectionError

from benchmarks.probe.bench import MESSAGE, NO_LIMIT, Bench, Crowd, Layer
from benchmarks.probe.groups import CAPACITY
from benchmarks.probe.meter import Meter, percentile, process_cpu_s
from benchmarks.probe.processes import MEMBERS, PROCESSES, across_processes
from benchmarks.probe.registry import Figures, scenario

#: Layer objects that stand for processes, enough to be on all servers.
HOMES = 12
PAIRS = 60
SENDERS = 64
WORK_CHANNELS = 96
GROUPS = 12
MEMBERS_OF_GROUP = 60
WARM_UP = 5

#: In each of the states that are compared, by turns; one more with all servers.
OUTAGES = 5
#: Senders to the server that is gone, and between two attempts of each.
UNLUCKY = 4
UNLUCKY_PAUSE_S = 0.1
RECOVERY_S = 30.0
#: A cluster in which two servers go on without the third.
PARTIAL = {"cluster-require-full-coverage": "no"}

Home = tuple[Layer, str]


@dataclass
class Slice:
    """Some messages, and how long each took from its sending to its reception."""

    wall_s: float
    cpu_s: float
    latencies_s: list[float]

    @property
    def us_per_op(self) -> float:
        return 1e6 * self.wall_s / len(self.latencies_s)

    @property
    def cpu_us(self) -> float:
        """Client CPU, which other work on the machine touches less."""
        return 1e6 * self.cpu_s / len(self.latencies_s)

    @property
    def p99_ms(self) -> float:
        return 1e3 * percentile(self.latencies_s, 0.99)

    def figures(self) -> Figures:
        """Percentiles."""
        p50_ms = 1e3 * percentile(self.latencies_s, 0.5)
        return {"p50_ms": round(p50_ms, 2), "p99_ms": round(self.p99_ms, 2)}


async def at_once(each: int, loops: list[Callable[[], Any]]) -> Slice:
    """Run loops side by side, each so many times; what is timed is one turn of a loop."""
    latencies_s: list[float] = []

    async def repeat(one: Callable[[], Any]) -> None:
        for _ in range(each):
            started_s = time.perf_counter()
            await one()
            latencies_s.append(time.perf_counter() - started_s)

    cpu_before_s, started_s = process_cpu_s(), time.perf_counter()
    await asyncio.gather(*[repeat(one) for one in loops])
    return Slice(time.perf_counter() - started_s, process_cpu_s() - cpu_before_s, latencies_s)


async def measure(bench: Bench, n: int, loops: list[Callable[[], Any]], warm_up: int) -> Figures:
    """Run loops side by side, ``n`` turns in all, after so many that do not count."""
    await at_once(warm_up, loops)
    with bench.meter as meter:
        slice_ = await at_once(max(1, n // len(loops)), loops)
    return meter.figures(len(slice_.latencies_s), **slice_.figures())


def pairs(sender: Layer, homes: list[Home]) -> list[Callable[[], Any]]:
    """For each channel a loop of a message that is sent and received before the next."""

    def pair(layer: Layer, channel: str) -> Callable[[], Any]:
        async def converse() -> None:
            await sender.send(channel, MESSAGE)
            await layer.receive(channel)

        return converse

    return [pair(layer, channel) for layer, channel in homes]


@scenario("cluster_send", n=6400, quick_n=1280, headline="us_per_op", servers="cluster")
async def cluster_send(bench: Bench, n: int) -> Figures:
    """64 concurrent senders to 96 general channels, nobody receiving; on 3 servers and on 1."""
    layer = bench.layer(capacity=NO_LIMIT)
    names = [f"work-{number}" for number in range(bench.crowd_of(WORK_CHANNELS))]
    sent = 0

    async def send() -> None:
        nonlocal sent
        sent += 1
        await layer.send(names[sent % len(names)], MESSAGE)

    return await measure(bench, n, [send] * SENDERS, WARM_UP)


@scenario(
    "cluster_pairs",
    n=6000,
    quick_n=1200,
    headline="us_per_op",
    notes=("p50_ms", "p99_ms"),
    servers="cluster",
)
async def cluster_pairs(bench: Bench, n: int) -> Figures:
    """60 pairs of sender and consumer at once, in 12 layer objects; on 3 servers and on 1."""
    sender = bench.layer(capacity=NO_LIMIT)
    homes = [bench.layer(capacity=NO_LIMIT) for _ in range(bench.crowd_of(HOMES))]
    channels = [await homes[i % len(homes)].new_channel() for i in range(bench.crowd_of(PAIRS))]
    loops = pairs(sender, [(homes[i % len(homes)], name) for i, name in enumerate(channels)])
    return await measure(bench, n, loops, WARM_UP)


@scenario(
    "cluster_groups",
    n=600,
    quick_n=120,
    headline="us_per_op",
    notes=("p50_ms", "p99_ms"),
    servers="cluster",
)
async def cluster_groups(bench: Bench, n: int) -> Figures:
    """12 groups of 60 members in 12 layer objects, all sent to at once; on 3 servers and on 1."""
    sender = bench.layer(capacity=CAPACITY)
    homes = [bench.layer(capacity=CAPACITY) for _ in range(bench.crowd_of(HOMES))]
    crowds = [await join(homes, f"group-{number}", bench) for number in range(GROUPS)]
    await bench.settle()

    def loop_of(number: int, crowd: Crowd) -> Callable[[], Any]:
        async def send_to_all() -> None:
            crowd.expect(len(crowd))
            await sender.group_send(f"group-{number}", MESSAGE)
            await crowd.received()

        return send_to_all

    loops = [loop_of(number, crowd) for number, crowd in enumerate(crowds)]
    figures = await measure(bench, n, loops, 1)
    for crowd in crowds:
        await crowd.leave()
    return figures


async def join(homes: list[Layer], group: str, bench: Bench) -> Crowd:
    """Make the members of a group, by turns in the layer objects."""
    crowd = Crowd()
    for number in range(bench.crowd_of(MEMBERS_OF_GROUP)):
        layer = homes[number % len(homes)]
        channel = await layer.new_channel()
        await layer.group_add(group, channel)
        crowd.add(layer, channel)
    return crowd


@scenario(
    "cluster_processes",
    n=12,
    quick_n=4,
    headline="p99_ms",
    notes=("p50_ms", "missing", "doubled"),
    servers="cluster",
)
async def cluster_processes(bench: Bench, n: int) -> Figures:
    """4,000 members in 2 processes, a third one sends: latency; on 3 servers and on 1."""
    return await across_processes(bench, n, MEMBERS, PROCESSES)


# One of three is gone


def define_outage(how: str, stop: str, start: str) -> None:
    """Register the scenario of a server that is stopped and started by these methods."""

    async def run(bench: Bench, n: int) -> Figures:
        with partial_cluster() as cluster:
            outage = Outage(bench, cluster)
            try:
                await outage.prepare()
                return await outage.by_turns(n, stop, start)
            finally:
                # The layers must not outlive their servers.
                await bench.close()

    run.__doc__ = f"Messages through two of three servers while the third is {how}, and before."
    scenario(
        f"cluster_{how}",
        n=60_000,
        quick_n=6000,
        headline="us_per_op",
        notes=("whole_us", "slower", "cpu_slower", "p99_ms", "p99_whole_ms", "p99_slower"),
        max_rounds=3,
        servers="own",
    )(run)


define_outage("killed", "kill", "start")
define_outage("frozen", "freeze", "thaw")


def partial_cluster() -> Any:
    """A cluster without replicas; only this release can be measured on one."""
    from channels_redis.testing.servers import ClusterSet

    return ClusterSet(3, config=PARTIAL)


class Outage:
    """Pairs on two servers, whose messages are timed while the third serves and while not.

    Some senders to the third go on all the time, and so do its consumers.
    """

    def __init__(self, bench: Bench, cluster: Any) -> None:
        # The cluster takes the place of the server that the harness started.
        bench.meter.close()
        bench.urls, bench.cluster = [server.url for server in cluster.servers], True
        bench.meter = Meter(*bench.urls)
        self._bench = bench
        self._cluster = cluster
        self._victim = cluster.servers[0]
        self._sender = bench.layer(capacity=NO_LIMIT)
        self._homes: list[Home] = []
        self._lost: list[Home] = []
        self.refused = 0

    async def prepare(self) -> None:
        """Find channels on the third server, and as many as wanted on both others."""
        each = max(1, self._bench.crowd_of(PAIRS) // (len(self._cluster.servers) - 1))
        for server in self._cluster.servers:
            layer = await self._layer_at(server)
            wanted = UNLUCKY if server is self._victim else each
            homes = self._lost if server is self._victim else self._homes
            found = [
                channel
                for channel in [await layer.new_channel() for _ in range(10 * wanted)]
                if self._cluster.owner(self._topic(channel)) is server
            ]
            homes += [(layer, channel) for channel in found[:wanted]]

    async def _layer_at(self, server: Any) -> Layer:
        """Make a layer object whose queue, if it has one, is on a server."""
        while True:
            layer = self._bench.layer(capacity=NO_LIMIT)
            channel = await layer.new_channel()
            if self._bench.kind == "pubsub" or self._cluster.owner(self._topic(channel)) is server:
                return layer

    def _topic(self, channel: str) -> str:
        """What decides which server the messages to a channel go through."""
        if self._bench.kind == "pubsub":
            return channel
        return f"{self._bench.prefix}{channel.partition('!')[0]}!"

    async def by_turns(self, n: int, stop: str, start: str) -> Figures:
        """Measure with all servers, without one, with all, ... and end with all."""
        loops = pairs(self._sender, self._homes)
        each = max(1, n // len(loops))
        unlucky = [asyncio.ensure_future(self._try(*home)) for home in self._lost[:UNLUCKY]]
        await at_once(WARM_UP, loops)
        turns = max(1, round(OUTAGES * self._bench.scale.crowd))
        whole, without = [await at_once(each, loops)], []
        for _ in range(turns):
            getattr(self._victim, stop)()
            without.append(await at_once(each, loops))
            await asyncio.to_thread(getattr(self._victim, start))
            await self._recovered()
            whole.append(await at_once(each, loops))
        for task in unlucky:
            task.cancel()
        await asyncio.gather(*unlucky, return_exceptions=True)
        return {**compared(whole, without), "refused": self.refused}

    async def _try(self, layer: Layer, channel: str) -> None:
        """Send to the third server again and again, and receive what comes."""

        async def receive() -> None:
            while True:
                await layer.receive(channel)

        receiving = asyncio.ensure_future(receive())
        try:
            while True:
                await asyncio.sleep(UNLUCKY_PAUSE_S)
                try:
                    await self._sender.send(channel, MESSAGE)
                except ConnectionError:
                    self.refused += 1
        finally:
            receiving.cancel()

    async def _recovered(self) -> None:
        """Return when all three serve, and messages go through the third again."""
        await asyncio.to_thread(self._cluster.wait_until_ok)
        layer, channel = self._lost[-1]
        deadline_s = time.monotonic() + RECOVERY_S
        while time.monotonic() < deadline_s:
            with contextlib.suppress(ConnectionError):
                await self._sender.send(channel, MESSAGE)
                await asyncio.wait_for(layer.receive(channel), RECOVERY_S)
                break
        await self._bench.settle()


def compared(whole: list[Slice], without: list[Slice]) -> Figures:
    """Medians of both states; each slice without a server is held against its neighbours."""

    def slower(figure: Callable[[Slice], float]) -> float:
        neighbours = pairwise(whole)
        ratios = [
            figure(one) / mean(map(figure, around))
            for one, around in zip(without, neighbours, strict=True)
        ]
        return round(median(ratios), 3)

    return {
        "n": sum(len(slice_.latencies_s) for slice_ in without),
        "wall_s": round(sum(slice_.wall_s for slice_ in without), 3),
        "us_per_op": round(median(slice_.us_per_op for slice_ in without), 1),
        "whole_us": round(median(slice_.us_per_op for slice_ in whole), 1),
        "slower": slower(lambda slice_: slice_.us_per_op),
        "cpu_slower": slower(lambda slice_: slice_.cpu_us),
        "p99_ms": round(median(slice_.p99_ms for slice_ in without), 2),
        "p99_whole_ms": round(median(slice_.p99_ms for slice_ in whole), 2),
        "p99_slower": slower(lambda slice_: slice_.p99_ms),
    }
