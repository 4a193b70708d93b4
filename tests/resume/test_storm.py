"""What it costs when all clients of a process come back at once; prints figures."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer
from tests.conftest import class_of
from tests.resume.site import (
    SECRET_KEY,
    Visitor,
    Web,
    all_joined,
    options_for,
    running,
    signing_with,
)

SOCKETS = 2000
ROUNDS = 5


def cpu_s(web: Web, server: RedisServer) -> float:
    """Return the seconds that a web process and the server of the layer have worked."""
    fields = Path(f"/proc/{web.pid}/stat").read_text().rpartition(") ")[2].split()
    of_web = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    info = server.info("cpu")
    return of_web + float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


async def storm(visitors: list[Visitor], times: int) -> None:
    """Have all clients lose their connections, and wait until they are back."""
    await asyncio.gather(*[one.drop() for one in visitors])
    await all_joined(visitors, times)


@pytest.mark.slow
@pytest.mark.measured
@pytest.mark.timeout(900)
async def test_clients_that_resume_come_back_for_little_more(
    kind: str, private_server: RedisServer, prefix: str, tmp_path: Path
) -> None:
    """Than those that only join again: the figures are of one storm of 2,000 sockets."""
    options = options_for(private_server.url, prefix)
    with signing_with(SECRET_KEY):
        layer: Any = class_of(kind)(**options)
    figures = {}
    for path in ("/plain", "/resuming"):
        async with running(1, kind, options, tmp_path) as [web]:
            visitors: list[Visitor] = []
            for _ in range(SOCKETS // 100):
                visitors += [Visitor([web], path) for _ in range(100)]
                await all_joined(visitors)
            await layer.group_send("room.1", {"type": "room.note", "n": 0})
            spent, took = [], []
            for number in range(ROUNDS):
                began, worked = time.monotonic(), cpu_s(web, private_server)
                await storm(visitors, number + 2)
                took.append(time.monotonic() - began)
                spent.append(cpu_s(web, private_server) - worked)
            figures[path] = min(spent), min(took)
            assert all(one.reloads == 0 for one in visitors)
            await asyncio.gather(*[one.leave() for one in visitors])
    await layer.close()
    for path, (spent_s, took_s) in figures.items():
        print(
            f"\n{kind}, {SOCKETS} sockets, {path}: {spent_s:.2f} s of CPU, {took_s:.2f} s", end=""
        )
    print(f"\nratio of CPU {figures['/resuming'][0] / figures['/plain'][0]:.2f}")
