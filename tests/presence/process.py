"""A process with a layer, which does what its parent writes to it, one JSON list a line.

``["members", "room", 3]`` makes so many channels and adds them to a group, ``["attend", "room", 7,
8]`` makes one for each of these users, ``["block", 2]`` blocks the event loop for so many seconds;
all else is a method of the layer and its arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from channels_redis import _session
from channels_redis._groups import attendance, leases
from channels_redis.testing.servers import RedisServer
from tests.conftest import class_of
from tests.helpers import wait_for

LONGEST_LINE_BYTES = 2**24


def shorten_leases(lease_s: float) -> None:
    """Shorten all times that depend on the length of a lease."""
    _session.SWEEP_S = lease_s / 15
    leases.LEASE_S = lease_s
    leases.RENEWAL_S = lease_s / 3
    leases.BLOCKED_S = lease_s / 6
    attendance.CLAIM_S = max(1, round(lease_s / 3))


def shorten_leases_here(monkeypatch: pytest.MonkeyPatch, lease_s: float) -> None:
    """Do the same in this process, until the end of the test."""
    for name in ("LEASE_S", "RENEWAL_S", "BLOCKED_S"):
        monkeypatch.setattr(leases, name, getattr(leases, name))
    monkeypatch.setattr(attendance, "CLAIM_S", attendance.CLAIM_S)
    monkeypatch.setattr(_session, "SWEEP_S", _session.SWEEP_S)
    shorten_leases(lease_s)


class Process:
    """A process with a layer, as its parent has it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def call(self, *words: Any) -> Any:
        """Have something done there, and return the result."""
        self.write(*words)
        return await self.read()

    def write(self, *words: Any) -> None:
        """Have something done there, and do not wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")

    async def read(self) -> Any:
        """Return the next result."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 60)
        return json.loads(line)

    def freeze(self) -> None:
        """Stop the process until it is thawed."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it continue."""
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End the process, which has no time for anything."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


@contextlib.asynccontextmanager
async def started(kind: str, lease_s: float, **options: Any) -> AsyncIterator[Process]:
    """Run a process, and kill it at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.presence.process", kind, str(lease_s)),
        json.dumps(options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LONGEST_LINE_BYTES,
    )
    one = Process(process)
    try:
        assert await one.read() == "ready"
        yield one
    finally:
        await one.kill()


async def attend(layer: Any, group: str, user: int) -> str:
    """Return a channel of a user in a group with presence."""
    channel: str = await layer.new_channel()
    await layer.group_add(group, channel, presence={"user": user})
    return channel


async def do(layer: Any, name: str, *args: Any) -> Any:
    """Do what a line says."""
    if name == "members":
        group, count = args
        channels = [await layer.new_channel() for _ in range(count)]
        await asyncio.gather(*[layer.group_add(group, channel) for channel in channels])
        # A process is seen as soon as it has a lease.
        told = layer._keepers.of(group).memberships
        await wait_for(lambda: any(lease.end_s for lease in told._leases.values()))
        return channels
    if name == "attend":
        group, *users = args
        return [await attend(layer, group, user) for user in users]
    if name == "block":
        time.sleep(args[0])
        return None
    return await getattr(layer, name)(*args)


async def serve(layer: Any) -> None:
    """Do what comes on standard input, until it is closed."""
    print('"ready"', flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await do(layer, *json.loads(line))), flush=True)


def commands_of(server: RedisServer) -> dict[str, int]:
    """Return how often each command was called, scripts included."""
    lines = server.command("INFO", "commandstats").decode().split()
    found = [line.removeprefix("cmdstat_").partition(":calls=") for line in lines if ":" in line]
    return {name: int(rest.split(",")[0]) for name, _, rest in found if rest}


if __name__ == "__main__":
    shorten_leases(float(sys.argv[2]))
    asyncio.run(serve(class_of(sys.argv[1])(**json.loads(sys.argv[3]))))
