"""Lower bounds: what one round trip and one event loop cost when there is no layer at all."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections import deque
from typing import Any

import msgpack
import redis.asyncio

from benchmarks.probe.bench import MESSAGE, Bench
from benchmarks.probe.direct import SENDERS
from benchmarks.probe.lifetimes import KIB
from benchmarks.probe.meter import percentile, resident_bytes
from benchmarks.probe.registry import Figures, bound

#: What a send must do on the server: drop the expired, count, add, set the expiry. The general
#: channel that send_seq and send_conc write to is a queue on both layers.
SEND_SCRIPT = b"""
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, ARGV[2])
if redis.call('ZCOUNT', KEYS[1], '-inf', '+inf') >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1])
redis.call('EXPIRE', KEYS[1], 60)
return 1
"""
PAYLOAD = msgpack.packb(MESSAGE)


class BareConnection:
    """One redis-py connection, used by one caller at a time or by many in a pipeline."""

    def __init__(self, bench: Bench) -> None:
        pool: Any = redis.asyncio.ConnectionPool.from_url(bench.url)
        self.connection = pool.make_connection()
        self._key = f"{bench.prefix}chan"
        self._packed: list[bytes] = []
        self._to_write = asyncio.Event()
        self._waiting: deque[asyncio.Future[Any]] = deque()

    async def open(self) -> None:
        """Connect, and load the script."""
        await self.connection.connect()
        self._sha = await self.call("SCRIPT", "LOAD", SEND_SCRIPT)

    async def call(self, *words: Any) -> Any:
        """One command, one round trip."""
        await self.connection.send_packed_command(
            self.connection.pack_command(*words), check_health=False
        )
        return await self.connection.read_response()

    def send_command(self) -> tuple[Any, ...]:
        """The words of one send."""
        now_s = time.time()
        member = os.urandom(12) + PAYLOAD
        return ("EVALSHA", self._sha, 1, self._key, member, now_s - 60, 10**9, now_s)

    def pipelined(self, *words: Any) -> asyncio.Future[Any]:
        """One command that leaves together with all others of this tick."""
        self._packed.extend(self.connection.pack_command(*words))
        self._to_write.set()
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(reply)
        return reply

    async def write_commands(self) -> None:
        """Write what has gathered, for ever."""
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            packed, self._packed = self._packed, []
            await self.connection.send_packed_command(packed, check_health=False)

    async def read_replies(self) -> None:
        """Give replies to those who wait, in order, for ever."""
        while True:
            reply = await self.connection.read_response()
            self._waiting.popleft().set_result(reply)

    async def close(self) -> None:
        """Disconnect."""
        await self.connection.disconnect()


@bound("send_seq")
async def script_per_round_trip(bench: Bench, n: int) -> Figures:
    """One script call per round trip."""
    bare = BareConnection(bench)
    await bare.open()
    with bench.meter as meter:
        for _ in range(n):
            await bare.call(*bare.send_command())
    await bare.close()
    return meter.figures(n)


@bound("send_conc")
async def scripts_in_a_pipeline(bench: Bench, n: int) -> Figures:
    """64 callers of the script on one connection."""
    bare = BareConnection(bench)
    await bare.open()
    ends = [asyncio.ensure_future(end) for end in (bare.write_commands(), bare.read_replies())]
    each = max(1, n // SENDERS)

    async def caller() -> None:
        for _ in range(each):
            await bare.pipelined(*bare.send_command())

    with bench.meter as meter:
        await asyncio.gather(*[caller() for _ in range(SENDERS)])
    for end in ends:
        end.cancel()
    await asyncio.gather(*ends, return_exceptions=True)
    await bare.close()
    return meter.figures(each * SENDERS)


async def resolve_futures(bench: Bench, n: int, members: int) -> Figures:
    """Futures resolved one after the other, each waiter decoding once."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[bytes]] = [loop.create_future() for _ in range(members)]
    progress = Progress(members)

    async def consume(i: int) -> None:
        while True:
            msgpack.unpackb(await waiting[i])
            waiting[i] = loop.create_future()
            progress.one_more()

    def give() -> None:
        for future in waiting:
            future.set_result(PAYLOAD)

    return await hand_out(bench, n, [consume(i) for i in range(members)], progress, give)


async def fill_queues(bench: Bench, n: int, members: int) -> Figures:
    """An ``asyncio.Queue`` for each consumer, each decoding once."""
    queues: list[asyncio.Queue[bytes]] = [asyncio.Queue() for _ in range(members)]
    progress = Progress(members)

    async def consume(queue: asyncio.Queue[bytes]) -> None:
        while True:
            msgpack.unpackb(await queue.get())
            progress.one_more()

    def give() -> None:
        for queue in queues:
            queue.put_nowait(PAYLOAD)

    return await hand_out(bench, n, [consume(queue) for queue in queues], progress, give)


class Progress:
    """Counts what was received, up to one for each member."""

    def __init__(self, members: int) -> None:
        self._members = members
        self._seen = 0
        self.complete = asyncio.Event()

    def one_more(self) -> None:
        """Another member has received."""
        self._seen += 1
        if self._seen == self._members:
            self._seen = 0
            self.complete.set()


async def hand_out(bench: Bench, n: int, consumers: Any, progress: Progress, give: Any) -> Figures:
    """Give everybody a message, n times, and take the median time until all have it."""
    tasks = [asyncio.ensure_future(consumer) for consumer in consumers]
    await asyncio.sleep(0)
    times_s = []
    with bench.meter as meter:
        for _ in range(n):
            progress.complete.clear()
            started_s = time.perf_counter()
            give()
            await progress.complete.wait()
            times_s.append(time.perf_counter() - started_s)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return meter.figures(n, all_received_ms=round(1e3 * percentile(times_s, 0.5), 3))


def define_fan_out_bound(name: str, members: int) -> None:
    """The bound of a fan-out: futures; beside it the same through queues."""

    async def run(bench: Bench, n: int) -> Figures:
        consumers = bench.crowd_of(members)
        queues = await fill_queues(bench, n, consumers)
        futures = await resolve_futures(bench, n, consumers)
        return {**futures, "queues_ms": queues["all_received_ms"]}

    bound(name)(run)


for name, members in (("group_10", 10), ("group_1000", 1000), ("group_10000", 10_000)):
    define_fan_out_bound(name, members)


@bound("memory")
async def bare_tasks(bench: Bench, n: int) -> Figures:
    """Tasks that wait for a future each, and nothing else."""
    loop = asyncio.get_running_loop()

    async def consume() -> None:
        while True:
            await loop.create_future()

    gc.collect()
    before_bytes = resident_bytes()
    with bench.meter as meter:
        tasks = [asyncio.ensure_future(consume()) for _ in range(n)]
        await asyncio.sleep(0.1)
    gc.collect()
    grown_bytes = resident_bytes() - before_bytes
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return meter.figures(n, kib_per_consumer=round(grown_bytes / n / KIB, 2))
