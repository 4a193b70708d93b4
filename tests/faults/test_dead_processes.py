"""Processes that are gone without a word: what they take with them, and what they leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.helpers import calls_by_command, numbered, queue_key, receive, wait_for

RECEIVERS = 4
#: What a process has popped of a general channel: for each receiver one that it holds, and one
#: that is on its way to it.
POPPED = 2 * RECEIVERS
MESSAGES = 2000
AT_ONCE = 50
DEAD = 1000


class Worker:
    """A process that receives on a general channel, and the numbers that it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.received: list[int] = []
        self._process = process
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.received.append(int(line))

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reading


@contextlib.asynccontextmanager
async def workers(count: int, *arguments: str) -> AsyncIterator[list[Worker]]:
    """So many workers that wait for messages, killed at the end."""
    async with contextlib.AsyncExitStack() as stack:
        processes = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.faults.worker", *arguments, str(RECEIVERS)),
                stdout=asyncio.subprocess.PIPE,
            )
            for _ in range(count)
        ]
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        started = [Worker(process) for process in processes]
        for worker in started:
            stack.push_async_callback(worker.kill)
        yield started


@pytest.mark.measured
async def test_a_killed_worker_takes_no_more_with_it_than_it_had_popped(
    make_layer: Callable[..., Any], kind: str, server: Any, prefix: str
) -> None:
    """SIGKILL of one of four in midstream; the others get all the rest, and nothing twice."""
    layer = make_layer(kind, capacity=MESSAGES)
    async with workers(4, kind, server.url, prefix, "work") as crew:
        sending = asyncio.create_task(_stream(layer))
        await wait_for(lambda: len(crew[0].received) > MESSAGES // 20, 30)
        await crew[0].kill()
        await sending
        await wait_for(lambda: server.command("EXISTS", queue_key(prefix, "work")) == 0, 30)
        received = [worker.received for worker in crew]
        await wait_for(lambda: sum(map(len, received)) >= MESSAGES - POPPED, 30)
        await asyncio.gather(*map(_take_the_last, crew[1:]))
        times = Counter(number for worker in crew for number in worker.received)
    lost = set(range(MESSAGES)) - times.keys()
    print(f"\n{kind}: {len(lost)} of {MESSAGES} lost with the worker that was killed")
    assert len(lost) <= POPPED
    assert max(times.values()) == 1


async def _stream(layer: Any) -> None:
    """Send faster than the workers receive, so that all of them are busy all the time."""
    for first in range(0, MESSAGES, AT_ONCE):
        sends = [layer.send("work", numbered(n)) for n in range(first, first + AT_ONCE)]
        await asyncio.gather(*sends)


async def _take_the_last(worker: Worker) -> None:
    """Wait until a worker has printed all that it has taken: nothing more comes for a while."""
    while True:
        before = len(worker.received)
        await asyncio.sleep(0.3)
        if len(worker.received) == before:
            return


@pytest.mark.measured
async def test_a_group_of_the_dead_costs_two_round_trips_and_one_line(
    make_layer: Callable[..., Any],
    private_server: Any,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A thousand processes were killed while in a group; their queues fill up, and that is all."""
    server, capacity, sends = private_server, 3, 6
    layer = make_layer("core", hosts=[server.url], capacity=capacity, expiry=30)
    dead = [f"specific.{secrets.token_hex(16)}!{secrets.token_hex(16)}" for _ in range(DEAD)]
    await asyncio.gather(*[layer.group_add("room", channel) for channel in dead])
    living = await layer.new_channel()
    await layer.group_add("room", living)
    server.command("CONFIG", "RESETSTAT")
    took_s = []
    with caplog.at_level(logging.INFO, "channels_redis"):
        for number in range(sends):
            began = time.perf_counter()
            await layer.group_send("room", numbered(number))
            took_s.append(time.perf_counter() - began)
            assert await receive(layer, living) == numbered(number)
    print(f"\ngroup_send to {DEAD} dead processes: {1000 * sorted(took_s)[sends // 2]:.0f} ms")
    calls = calls_by_command(server)
    scripts = calls.get("evalsha", 0) + calls.get("eval", 0)
    assert scripts <= sends * (1 + DEAD + 1) + 10 * sends, "one per queue and one for the members"
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "room" in caplog.text
    for channel in (dead[0], dead[-1]):
        key = queue_key(prefix, channel)
        assert server.command("ZCARD", key) == capacity
        assert 0 < server.command("TTL", key) <= 60, "the messages of the dead expire"


async def test_the_dead_cost_nothing_where_nothing_is_kept(
    make_layer: Callable[..., Any], private_server: Any, prefix: str
) -> None:
    """Pub/Sub publishes once, whoever has been in the group."""
    layer = make_layer("pubsub", hosts=[private_server.url])
    other = make_layer("pubsub", hosts=[private_server.url])
    for _ in range(100):
        await other.group_add("room", await other.new_channel())
    private_server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await other.close()
    private_server.command("CONFIG", "RESETSTAT")
    await layer.group_send("room", numbered(1))
    assert calls_by_command(private_server)["publish"] == 1
    assert private_server.command("KEYS", "*") == []
