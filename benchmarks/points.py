"""Measured points for the model in :mod:`benchmarks.model`: one group in some processes.

Layer objects stand for processes: a server sees the same connections and commands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

import msgpack

from benchmarks.commands import CommandCounter
from benchmarks.model import (
    MEASURED,
    Costs,
    Site,
    connections,
    deliver_ms,
    group_message,
    kept_bytes,
    round_trips,
)
from benchmarks.probe.bench import MESSAGE, Bench
from benchmarks.probe.groups import CAPACITY, GROUP, join
from benchmarks.probe.registry import BOTH
from channels_redis.testing.servers import ClusterSet, RedisServer

WARM_UP = 3


@dataclass(frozen=True)
class Place:
    """A group of ``members`` in ``processes``, on so many servers that are a ring or a cluster."""

    layer: str
    members: int
    processes: int
    servers: int = 1
    cluster: bool = False

    def __str__(self) -> str:
        kind = "cluster" if self.cluster else "ring" if self.servers > 1 else "one server"
        size = f" of {self.servers}" if self.servers > 1 else ""
        return f"{self.layer}, {self.members:,} in {self.processes}, {kind}{size}"


PLACES = [
    Place(layer, members, processes, servers, cluster)
    for layer in BOTH
    for members, processes, servers, cluster in (
        (1000, 1, 1, False),
        (1000, 10, 1, False),
        (1000, 50, 1, False),
        (100, 10, 1, False),
        (5000, 10, 1, False),
        (1000, 10, 3, False),
        (1000, 10, 3, True),
    )
]


@dataclass(frozen=True)
class Point:
    """What was measured; work is that of all servers together, for one group message."""

    #: Of all servers together, when every process has sent once to each server that it sends to.
    connections: float
    #: How much more memory the servers have in use once all are there and listen.
    server_bytes: float
    commands: float
    server_us: float
    sent_bytes: float
    all_received_ms: float


@contextmanager
def servers_of(place: Place) -> Iterator[list[RedisServer]]:
    """Start what a place needs."""
    with ExitStack() as stack:
        if place.cluster:
            yield stack.enter_context(ClusterSet(place.servers)).servers
        else:
            yield [stack.enter_context(RedisServer()) for _ in range(place.servers)]


def measure(place: Place, n: int = 100, idle_s: float = 1.0) -> Point:
    """Measure a point: once for the times and sizes, and once more for the commands."""
    with servers_of(place) as servers:
        figures = asyncio.run(_measure(place, servers, n, idle_s))
    with servers_of(place) as servers, ExitStack() as stack:
        counters = [stack.enter_context(CommandCounter(server)) for server in servers]
        asyncio.run(_measure(place, servers, n, 0.01))
    calls = sum(counter.calls.total() for counter in counters)
    return Point(commands=calls / n, **figures)


def total(servers: list[RedisServer], section: str, field: str) -> float:
    """A figure of INFO, over all servers."""
    return sum(float(server.info(section)[field]) for server in servers)


async def account(
    bench: Bench, servers: list[RedisServer], work: Awaitable[None]
) -> tuple[float, float]:
    """Await something; return the CPU seconds and the bytes that the servers spent meanwhile."""
    before_bytes = total(servers, "stats", "total_net_output_bytes")
    with bench.meter as meter:
        await work
    return meter.server_cpu_s, total(servers, "stats", "total_net_output_bytes") - before_bytes


async def _measure(
    place: Place, servers: list[RedisServer], n: int, idle_s: float
) -> dict[str, float]:
    urls = [server.url for server in servers]
    bench = Bench(urls=urls, kind=place.layer, prefix="bench", cluster=place.cluster)
    config: dict[str, Any] = {"capacity": CAPACITY}
    if not place.cluster:
        config["hosts"] = urls
    homes = [bench.layer(**config) for _ in range(place.processes)]
    for home in homes:
        # Each goes once to all servers, as one does that lives long.
        for number in range(16 * place.servers):
            await home.group_send(f"nobody-{number}", MESSAGE)
    await bench.settle()
    before_bytes = total(servers, "memory", "used_memory")
    crowd = await join(homes, place.members)
    await bench.settle()
    grown_bytes = total(servers, "memory", "used_memory") - before_bytes

    async def send_to_all() -> float:
        crowd.expect(place.members)
        started_s = time.perf_counter()
        await homes[0].group_send(GROUP, MESSAGE)
        await crowd.received()
        return time.perf_counter() - started_s

    for _ in range(WARM_UP):
        await send_to_all()
    # Whoever asks is connected, too.
    connections = total(servers, "clients", "connected_clients") - len(servers)
    looking = await account(bench, servers, asyncio.sleep(0))
    idle = await account(bench, servers, asyncio.sleep(idle_s))
    times_s: list[float] = []

    async def send_often() -> None:
        times_s.extend([await send_to_all() for _ in range(n)])

    working = await account(bench, servers, send_often())
    # Servers do something while they do nothing.
    idle_cpu_s = (idle[0] - looking[0]) * sum(times_s) / idle_s
    await crowd.leave()
    await bench.close()
    return {
        "connections": connections,
        "server_bytes": grown_bytes,
        "server_us": 1e6 * (working[0] - looking[0] - idle_cpu_s) / n,
        "sent_bytes": (working[1] - looking[1]) / n,
        "all_received_ms": 1e3 * median(times_s),
    }


def site_of(place: Place) -> Site:
    """The same for the model."""
    return Site(
        place.layer,
        consumers=place.members,
        per_process=place.members // place.processes,
        group_size=place.members,
        message_bytes=len(msgpack.packb(MESSAGE)),
        servers=place.servers,
        cluster=place.cluster,
    )


def predicted(place: Place, costs: Costs = MEASURED) -> Point:
    """What the model says of a place."""
    site = site_of(place)
    work = group_message(site, costs)
    # The connections for commands were there before.
    hearing = site.servers * (connections(site) - site.processes)
    return Point(
        connections=site.servers * connections(site),
        server_bytes=kept_bytes(site, costs) + hearing * costs.connection_bytes,
        commands=work.commands,
        server_us=work.server_us + round_trips(site) * costs.wake_up_us,
        sent_bytes=work.sent_bytes,
        # All members share the one event loop that is measured.
        all_received_ms=deliver_ms(site, site.members, costs),
    )


def typical(place: Place, n: int, rounds: int) -> Point:
    """The medians of several measurements of a point."""
    measured = [asdict(measure(place, n)) for _ in range(rounds)]
    return Point(**{name: median(one[name] for one in measured) for name in measured[0]})


def comparison_lines(places: list[Place] = PLACES, n: int = 60, rounds: int = 3) -> Iterator[str]:
    """Measured, predicted, and by how much the prediction is off."""
    names = [field.name for field in fields(Point)]
    yield f"{'':36}" + "".join(f"{name:>27}" for name in names)
    for place in places:
        measured, model = typical(place, n, rounds), predicted(place)
        pairs = [(getattr(measured, name), getattr(model, name)) for name in names]
        yield f"{place!s:36}" + "".join(
            f"{number(found):>11} {number(said):>9} {said / found - 1:>+5.0%}"
            for found, said in pairs
        )


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
