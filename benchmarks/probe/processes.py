"""One message to members in several real processes: latency, and what is missing or doubled."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.probe.bench import Bench, Layer
from benchmarks.probe.groups import CAPACITY
from benchmarks.probe.meter import percentile, process_cpu_s
from benchmarks.probe.registry import Figures, scenario

GROUP = "everybody"
MEMBERS = 4000
PROCESSES = 2
DELIVERY_TIMEOUT_S = 20.0
PIPE_LIMIT_BYTES = 64 * 1024 * 1024
WARM_UP_ID = -1


@dataclass
class Ledger:
    """What the members of one process received."""

    expected: int
    received: int = 0
    distinct: int = 0
    cpu_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)


class Members:
    """The consumers of one process; they run until all have every message, or told to stop."""

    def __init__(self, members: int, messages: int) -> None:
        self._counts = [bytearray(messages) for _ in range(members)]
        self.ledger = Ledger(expected=members * messages)
        self.complete = asyncio.Event()

    async def consume(self, layer: Layer, channel: str, counts: bytearray) -> None:
        """Receive for ever, and write down when each message came."""
        ledger = self.ledger
        while True:
            message = await layer.receive(channel)
            if message["id"] == WARM_UP_ID:
                continue
            ledger.latencies_s.append(round(time.monotonic() - message["sent_s"], 6))
            ledger.received += 1
            if not counts[message["id"]]:
                ledger.distinct += 1
            counts[message["id"]] = 1
            if ledger.distinct == ledger.expected:
                self.complete.set()

    async def run(self, bench: Bench) -> None:
        """Join, report, receive, and print the ledger."""
        layer = bench.layer(capacity=CAPACITY)
        tasks = []
        for counts in self._counts:
            channel = await layer.new_channel()
            await layer.group_add(GROUP, channel)
            tasks.append(asyncio.ensure_future(self.consume(layer, channel, counts)))
        await bench.settle()
        cpu_before_s = process_cpu_s()
        print("ready", flush=True)
        told_to_stop = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        complete = asyncio.create_task(self.complete.wait())
        await asyncio.wait({told_to_stop, complete}, return_when=asyncio.FIRST_COMPLETED)
        self.ledger.cpu_s = process_cpu_s() - cpu_before_s
        print("complete", flush=True)
        await told_to_stop
        print(json.dumps(asdict(self.ledger)), flush=True)
        for task in (*tasks, complete):
            task.cancel()
        await asyncio.gather(*tasks, complete, return_exceptions=True)


async def serve_members(bench: Bench, members: int, messages: int) -> None:
    """The life of a process that holds members."""
    await Members(members, messages).run(bench)


class MemberProcess:
    """A process of members as its parent sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, bench: Bench, members: int, messages: int) -> MemberProcess:
        """Start it; it is not ready yet."""
        arguments = {
            "bench": bench.as_order(),
            "members": members,
            "messages": messages,
            "uvloop": type(asyncio.get_running_loop()).__module__.startswith("uvloop"),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            os.path.join(os.path.dirname(os.path.dirname(__file__)), "run_one.py"),
            json.dumps({"members_of": arguments}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=PIPE_LIMIT_BYTES,
        )
        return cls(process)

    async def says(self, word: str) -> None:
        """Wait for a word."""
        line = (await self._line()).decode().strip()
        if line != word:
            raise RuntimeError(f"A process of members said {line!r} instead of {word!r}.")

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        return await self._process.stdout.readline()

    async def stop(self) -> Ledger:
        """End it and take its ledger."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"stop\n")
        lines = [await self._line()]
        while not lines[-1].startswith(b"{") and lines[-1]:
            lines.append(await self._line())
        await self._process.wait()
        return Ledger(**json.loads(lines[-1]))


@scenario(
    "multi_process",
    n=12,
    quick_n=4,
    headline="p99_ms",
    notes=("p50_ms", "missing", "doubled"),
)
async def multi_process(bench: Bench, n: int) -> Figures:
    """4,000 members in 2 processes, a third one sends; latency of each delivery."""
    return await across_processes(bench, n, MEMBERS, PROCESSES)


async def across_processes(bench: Bench, n: int, members: int, processes: int) -> Figures:
    """Send at a steady pace to members in other processes, and add up their ledgers."""
    sender = bench.layer(capacity=CAPACITY)
    each = bench.crowd_of(members) // processes
    homes = [await MemberProcess.start(bench, each, n) for _ in range(processes)]
    await asyncio.gather(*[home.says("ready") for home in homes])
    await sender.group_send(GROUP, {"type": "tick", "id": WARM_UP_ID, "sent_s": 0.0})
    await bench.settle()
    arrived: Any = asyncio.gather(*[home.says("complete") for home in homes])
    with bench.meter as meter:
        await send_at_a_pace(sender, n, bench.scale.interval_s)
        await asyncio.wait([arrived], timeout=DELIVERY_TIMEOUT_S)
    await asyncio.sleep(bench.scale.linger_s)
    arrived.cancel()
    ledgers = await asyncio.gather(*[home.stop() for home in homes])
    for ledger in ledgers:
        meter.add_client_cpu(ledger.cpu_s)
    return meter.figures(n, **added_up(list(ledgers)))


async def send_at_a_pace(sender: Layer, n: int, interval_s: float) -> None:
    """Group messages at equal distances, each with the time at which its sending began."""
    next_s = time.monotonic()
    for i in range(n):
        await asyncio.sleep(max(0.0, next_s - time.monotonic()))
        message = {"type": "tick", "id": i, "sent_s": time.monotonic(), "text": "x" * 100}
        await sender.group_send(GROUP, message)
        next_s += interval_s


def added_up(ledgers: list[Ledger]) -> Figures:
    """Latencies and counts over all processes."""
    latencies_s = [latency_s for ledger in ledgers for latency_s in ledger.latencies_s]
    figures: Figures = {
        f"p{share}_ms": round(1e3 * percentile(latencies_s, share / 100), 2)
        for share in (50, 90, 95, 99)
    }
    return {
        **figures,
        "max_ms": round(1e3 * max(latencies_s), 2),
        "missing": sum(ledger.expected - ledger.distinct for ledger in ledgers),
        "doubled": sum(ledger.received - ledger.distinct for ledger in ledgers),
    }
