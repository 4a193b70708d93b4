"""One process of the site under test: consumers, workers and senders on one layer.

Started as ``python -m tests.soak.process PLAN`` with a `Plan` as JSON. It obeys words on its
standard input, one a line, and answers each with a line of JSON:

======  ==========================================================================================
open    make the channels; answers their names
begin   (followed by a line with the names of all channels of all processes) begin to send
stop    stop sending, and wait for the ends of the calls under way
drain   receive what is under way; answers the facts that `Facts` lists
======  ==========================================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypedDict

import redis.exceptions
from channels.exceptions import ChannelFull

from channels_redis.exceptions import ConnectionLost
from tests.conftest import class_of
from tests.soak.journal import NOT_SENT, SENT, UNKNOWN, Journal

LOST, BACK, NUMBER, END = "soak.lost", "soak.back", "soak.number", "soak.end"

CONSUMERS = 40
#: So many of the consumers are in the group, so many of these work long now and then, and so many
#: of all read too slowly for what they get.
MEMBERS, BUSY, SLOW = 10, 2, 2
WORKERS = 4
SENDERS = 24
GENERAL = ["work.a", "work.b"]
GROUP = "hall"

SLOW_CAPACITY = 20
SLOW_READ_S = 0.4
EXPIRY_S = 20
#: How long a handler of a busy consumer runs, and how many of the messages make it do so.
WORK_S, WORK_ODDS = 1.5 * EXPIRY_S, 1 / 150
#: Of a thousand sends so many go to the group, to workers and to slow consumers.
TO_GROUP, TO_WORKERS, TO_SLOW = 20, 200, 20
#: So many of the sends are followed by so many group messages in a row.
BURST_ODDS, BURST = 1 / 40_000, 1000
#: A general channel counts as empty when nothing has come for so long.
QUIET_S = 3.0


class Plan(TypedDict):
    """What a process is told at its start; ``rate`` is in messages per second."""

    kind: str
    index: int
    folder: str
    url: str
    prefix: str
    rate: float


class Facts(TypedDict):
    """What a process knows at its end; times of ``losses`` and ``returns`` are monotonic."""

    losses: list[float]
    returns: list[float]
    raised: list[str]
    dropped: dict[str, int]
    rss_mb: list[float]


class Process:
    """The consumers, workers and senders."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.layer: Any = class_of(plan["kind"])(
            hosts=[plan["url"]],
            prefix=plan["prefix"],
            expiry=EXPIRY_S,
            channel_capacity={f"*{slow_prefix(plan['kind'])}*": SLOW_CAPACITY, "work.*": 50_000},
            on_disconnect=LOST,
            on_reconnect=BACK,
            connect_wait_s=1,
            command_timeout_s=2,
        )
        self.journal = Journal(Path(plan["folder"]))
        self.random = random.Random(plan["index"])
        self.numbers = itertools.count(plan["index"] << 40)
        self.own: list[str] = []
        self.channels: list[str] = []
        self.index_of: dict[str, int] = {}
        self.fast: list[str] = []
        self.slow: list[str] = []
        self.busy: list[str] = []
        self.ended: set[str] = set()
        self.heard_work_at = time.monotonic()
        self.stopping = asyncio.Event()
        self.senders: list[asyncio.Task[None]] = []
        self.receivers: list[asyncio.Task[None]] = []
        self.facts: Facts = {
            "losses": [],
            "returns": [],
            "raised": [],
            "dropped": {},
            "rss_mb": [],
        }

    async def open(self) -> list[str]:
        slow = slow_prefix(self.plan["kind"])
        for number in range(CONSUMERS):
            make = self.layer.new_channel
            channel = await (make(slow) if number < SLOW else make())
            self.own.append(channel)
            if CONSUMERS - number <= MEMBERS:
                await self.layer.group_add(GROUP, channel)
        return self.own

    def begin(self, channels: list[str]) -> None:
        """Begin to receive and to send; ``channels`` are those of all processes, in one order."""
        self.channels = [*channels, *GENERAL]
        self.index_of = {name: index for index, name in enumerate(self.channels)}
        slow = slow_prefix(self.plan["kind"])
        self.slow = [name for name in channels if slow in name]
        self.busy = self.own[-BUSY:]
        self.fast = [name for name in channels if slow not in name]
        works: list[Awaitable[None]] = [self.consume(name) for name in self.own]
        works += [self.work(name, n % 2 == 0) for name in GENERAL for n in range(WORKERS)]
        self.receivers = [asyncio.create_task(self._guard(work)) for work in works]
        self.senders = [asyncio.create_task(self._guard(self.send())) for _ in range(SENDERS)]

    async def stop(self) -> None:
        self.stopping.set()
        await asyncio.wait(self.senders)

    async def drain(self) -> Facts:
        for channel in self.own:
            await self._send_end(channel)
        while len(self.ended) < len(self.own) or self._quiet_s() < QUIET_S:
            await asyncio.sleep(0.05)
        self.note_memory()
        for task in self.receivers:
            task.cancel()
        await asyncio.gather(*self.receivers, return_exceptions=True)
        self.facts["dropped"] = dict(self.layer._report.dropped)
        await self.layer.close()
        self.journal.flush()
        return self.facts

    async def watch_memory(self) -> None:
        while True:
            self.note_memory()
            await asyncio.sleep(1)

    def note_memory(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.facts["rss_mb"].append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)

    def _quiet_s(self) -> float:
        return time.monotonic() - self.heard_work_at

    async def _guard(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:
            self.facts["raised"].append(repr(error))

    # Receiving

    async def consume(self, channel: str) -> None:
        while channel not in self.ended:
            message = await self.layer.receive(channel)
            self._take(channel, message)
            if channel in self.slow:
                await self._handle(SLOW_READ_S)
            elif channel in self.busy and self.random.random() < WORK_ODDS:
                await self._handle(WORK_S)

    async def _handle(self, limit_s: float) -> None:
        """Read nothing for so long, or until the end."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), limit_s)

    async def work(self, channel: str, hasty: bool) -> None:
        """Receive as a worker does, or as one who gives up soon and comes back."""
        while True:
            receiving = self.layer.receive(channel)
            try:
                message = await (asyncio.wait_for(receiving, 0.05) if hasty else receiving)
            except asyncio.TimeoutError:
                continue
            self.heard_work_at = time.monotonic()
            self._take(channel, message)

    def _take(self, channel: str, message: dict[str, Any]) -> None:
        now = time.monotonic()
        if message["type"] == NUMBER:
            self.journal.received(message["number"], self.index_of[channel], now)
        elif message["type"] == END:
            self.ended.add(channel)
        elif channel == self.own[SLOW]:
            # One of the consumers is enough to know when the process was told.
            self.facts["losses" if message["type"] == LOST else "returns"].append(now)

    # Sending

    async def send(self) -> None:
        """Send at random, on time or as late as the layer makes it."""
        pause_s = SENDERS / self.plan["rate"]
        due = time.monotonic() + self.random.uniform(0, pause_s)
        while not self.stopping.is_set():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + pause_s, time.monotonic() - 1)
            await self._send_one()
            if self.random.random() < BURST_ODDS:
                await self._send_burst()

    async def _send_burst(self) -> None:
        for _ in range(BURST):
            number = next(self.numbers)
            message = {"type": NUMBER, "number": number}
            group = len(self.channels), self.layer.group_send, GROUP
            if await self._call(number, *group, message) != SENT:
                return

    async def _send_one(self) -> None:
        number = next(self.numbers)
        message = {"type": NUMBER, "number": number, "text": "x" * self._size()}
        dice = self.random.randrange(1000)
        if dice < TO_GROUP:
            await self._call(number, len(self.channels), self.layer.group_send, GROUP, message)
            return
        names = self.fast
        if dice < TO_GROUP + TO_WORKERS:
            names = GENERAL
        elif dice < TO_GROUP + TO_WORKERS + TO_SLOW:
            names = self.slow
        channel = self.random.choice(names)
        await self._call(number, self.index_of[channel], self.layer.send, channel, message)

    def _size(self) -> int:
        return 20_000 if self.random.random() < 0.001 else self.random.randrange(200)

    async def _call(
        self,
        number: int,
        target: int,
        call: Callable[[str, Any], Awaitable[None]],
        name: str,
        message: dict[str, Any],
    ) -> int:
        """Send a message, write down how that went, and return the outcome."""
        began, outcome = time.monotonic(), UNKNOWN
        try:
            await call(name, message)
            outcome = SENT
        except ConnectionLost as error:
            outcome = UNKNOWN if error.maybe_executed else NOT_SENT
        except redis.exceptions.ResponseError:
            # A script that the memory limit refused for one queue has run for others.
            outcome = UNKNOWN if name == GROUP else NOT_SENT
        except ChannelFull:
            outcome = NOT_SENT
        self.journal.sent(number, target, outcome, began, time.monotonic())
        return outcome

    async def _send_end(self, channel: str) -> None:
        while True:
            try:
                await self.layer.send(channel, {"type": END})
                return
            except (redis.exceptions.ConnectionError, ChannelFull):
                await asyncio.sleep(0.1)


def slow_prefix(kind: str) -> str:
    """Return what the names of the slow consumers' channels begin with."""
    return "sluggish" if kind == "core" else "sluggish."


async def main(plan: Plan) -> None:
    process = Process(plan)
    reader = asyncio.StreamReader(limit=2**24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    watch = asyncio.create_task(process.watch_memory())
    while word := (await reader.readline()).decode().strip():
        answer: Any = None
        if word == "open":
            answer = await process.open()
        elif word == "begin":
            process.begin(json.loads(await reader.readline()))
        elif word == "stop":
            await process.stop()
        elif word == "drain":
            answer = await process.drain()
        print(json.dumps(answer), flush=True)
    watch.cancel()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
