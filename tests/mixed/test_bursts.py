"""What a burst costs real consumers of both releases, on one machine in one run."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer
from tests.conftest import class_of
from tests.sites.site import GROUP, running_site

GUESTS = 20


@pytest.mark.measured
@pytest.mark.parametrize(
    "count", [1_000, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
@pytest.mark.parametrize("way", ["await", "async_to_sync"])
async def test_no_less_of_a_burst_arrives_than_on_the_old_release(
    kind: str, way: str, count: int, old_python: str, tmp_path: Path
) -> None:
    """Group messages in a row to twenty plain consumers under uvicorn, with the default options.
    How long ten thousand take is the machine's affair.
    """
    new = await burst(kind, way, count, sys.executable, tmp_path)
    old = await burst(kind, way, count, old_python, tmp_path)
    print(f"\n{kind}, {way}, {count:,} in a row: 4.3.0 {old}; here {new}")
    assert new.part == 1


@dataclass
class Burst:
    """Which part of a burst was heard, how long that took, and the processor's time of the site."""

    part: float
    sent_s: float
    heard_s: float
    cpu_s: float

    def __str__(self) -> str:
        times = f"sent in {self.sent_s:.1f} s, heard in {self.heard_s:.1f} s"
        return f"{self.part:.1%} ({times}; {self.cpu_s:.1f} s of a processor)"


async def burst(kind: str, way: str, count: int, python: str, folder: Path) -> Burst:
    """Send a burst to a site of its own."""
    with RedisServer() as server:
        options: dict[str, Any] = {"hosts": [server.url], "prefix": "burst"}
        if count > 1000 and (kind == "core" or python == sys.executable):
            options["expiry"] = 600
        layer = class_of(kind)(**options)
        async with running_site(layer, folder, kind=kind, options=options, python=python) as site:
            guests = await site.welcome(GUESTS)
            before = await site.facts()
            began = time.monotonic()
            sent_s = (await site.send(way, GROUP, count))["took_s"]
            await site.settle()
            heard_s = time.monotonic() - began
            cpu_s = (await site.facts())["cpu_s"] - before["cpu_s"]
            heard = sum(len(set(guest.numbers)) for guest in guests)
        await layer.close()
    return Burst(heard / (GUESTS * count), sent_s, heard_s, cpu_s)
