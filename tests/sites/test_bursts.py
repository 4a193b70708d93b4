"""A burst is not a slow consumer: what many messages in a row cost whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers import wait_for
from tests.sites.site import GROUP

GUESTS = 20
SLOW = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=SLOW)])
@pytest.mark.parametrize("way", ["await", "async_to_sync"])
async def test_a_burst_arrives_whole(
    open_site: Callable[..., Any], kind: str, way: str, count: int
) -> None:
    """Group messages in a row to twenty plain consumers: more than ``capacity``, which is for those
    who do not read.  How long they take is the machine's affair.
    """
    site = await open_site(kind, expiry=3600)
    guests = await site.welcome(GUESTS)
    began = time.monotonic()
    told = await site.send(way, GROUP, count)
    await site.settle()
    took_s = time.monotonic() - began
    heard = sum(len(guest.numbers) for guest in guests)
    print(
        f"\n{kind}, {way}: {heard / (GUESTS * count):.1%} of {GUESTS} x {count:,}; sent in"
        f" {told['took_s']:.1f} s, heard in {took_s:.1f} s: {await site.facts()}"
    )
    for guest in guests:
        assert guest.numbers == list(range(count))


#: How long a million deliveries take is the machine's affair.
ROOM = {"max_buffered_bytes": 10**9, "max_queued_bytes": 10**9, "expiry": 3600}
LITTLE_ROOM = {"max_buffered_bytes": 100_000, "max_queued_bytes": 200_000}


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (GUESTS, LITTLE_ROOM),
        (GUESTS, ROOM),
        pytest.param(1000, ROOM, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
        pytest.param(1000, {}, marks=SLOW),
    ],
    ids=["little room", "room", "1000 and room", "1000 by default"],
)
async def test_the_memory_of_a_burst_to_many_is_limited_and_drops_are_reported(
    open_site: Callable[..., Any], kind: str, size: int, options: dict[str, int]
) -> None:
    """So many group messages to as many sockets of one process: what does not arrive is counted,
    and with enough room all of it arrives.
    """
    site = await open_site(kind, **options)
    guests = await site.welcome(size)
    before = await site.facts()
    count = max(size, 300)
    told = await site.send("await", GROUP, count)
    peak = await site.facts()
    await site.settle()
    while site.markers > 1 and await site.settle() > 1:
        pass
    facts = await site.facts()
    heard = sum(len(guest.numbers) for guest in guests)
    refused = told["refused"] + site.layer.stats().refused
    lost = sum(facts["dropped"].values()) + refused * size
    memory = " -> ".join(f"{one['rss_mb']:.0f}" for one in (before, peak, facts))
    print(
        f"\n{kind}, {count:,} to {size:,}, {options or 'defaults'}: {heard / size / count:.1%}"
        f" heard, {refused} frames refused, dropped {facts['dropped']}, {memory} MB"
    )
    markers = size * site.markers - sum(guest.markers for guest in guests)
    # By default some expire in the queue, where a frame for all of them counts as one.
    assert heard + lost == size * count + markers or not options
    if options is ROOM:
        assert lost == 0
    assert bool(facts["dropped"]) == any("Dropped" in line for line in site.log)


@pytest.mark.parametrize(
    ("count", "budget_bytes"), [(8_000, 400_000), pytest.param(1_000_000, None, marks=SLOW)]
)
async def test_a_consumer_that_never_reads_loses_only_its_own_messages(
    open_site: Callable[..., Any], kind: str, count: int, budget_bytes: int | None
) -> None:
    """The process stays within its budget, and 99 siblings hear all."""
    options = {} if budget_bytes is None else {"max_buffered_bytes": budget_bytes}
    site = await open_site(kind, **options)
    stopped, *siblings = await site.welcome(100)
    await site.layer.send(stopped.channel, {"type": "room.stop"})
    await wait_for(lambda: stopped.heard == ["stopped"])
    before = await site.facts()
    flood = asyncio.create_task(site.send("flood", stopped.channel, count))
    number, rss_mb = 0, []
    while not flood.done():
        await site.layer.group_send(GROUP, {"type": "room.note", "n": number})
        number += 1
        rss_mb.append((await site.facts())["rss_mb"])
        await asyncio.sleep(0.05)
    await site.settle(siblings)
    facts = await site.facts()
    print(
        f"\n{kind}: {count:,} to one that never reads, {await flood}; {number} to 99 others; before"
        f" {before}, at most {max(rss_mb):.0f} MB, then {facts}"
    )
    assert site.layer.stats().refused == 0
    for guest in siblings:
        assert guest.numbers == list(range(number))
    budget_mb = (budget_bytes or 64 * 2**20) / 1e6
    assert max(rss_mb) - before["rss_mb"] < 1.5 * budget_mb + 30
    assert sum(facts["dropped"].values()) > 0
