"""What a burst costs real consumers of both releases, on one machine in one run."""

from __future__ import annotations

import sys
import time
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
    new = await arrived(kind, way, count, sys.executable, tmp_path)
    old = await arrived(kind, way, count, old_python, tmp_path)
    print(f"\n{kind}, {way}, {count:,} in a row: 4.3.0 {told(old)}; here {told(new)}")
    assert new[0] == 1
    assert new[0] >= old[0]


async def arrived(
    kind: str, way: str, count: int, python: str, folder: Path
) -> tuple[float, float, float]:
    """Return which part of a burst was heard, how long it took to send, and until all was heard."""
    with RedisServer() as server:
        options: dict[str, Any] = {"hosts": [server.url], "prefix": "burst"}
        if count > 1000 and (kind == "core" or python == sys.executable):
            options["expiry"] = 600
        layer = class_of(kind)(**options)
        async with running_site(layer, folder, kind=kind, options=options, python=python) as site:
            guests = await site.welcome(GUESTS)
            began = time.monotonic()
            sent_s = (await site.send(way, GROUP, count))["took_s"]
            await site.settle()
            heard_s = time.monotonic() - began
            heard = sum(len(set(guest.numbers)) for guest in guests)
        await layer.close()
    return heard / (GUESTS * count), sent_s, heard_s


def told(result: tuple[float, float, float]) -> str:
    part, sent_s, heard_s = result
    return f"{part:.1%} (sent in {sent_s:.1f} s, heard in {heard_s:.1f} s)"
