"""Broadcasts on a site whose clients come and go, and whose Redis is restarted."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer
from tests.helpers import wait_for
from tests.sites.site import GROUP, PATIENCE_S, Guest, Site


class Crowd:
    """The guests of a site, and what each of them has to hear."""

    def __init__(self, site: Site, seed: int) -> None:
        self._site = site
        self._random = random.Random(seed)
        self._number = 0
        self.expected: dict[Guest, list[int]] = {}

    async def grow(self, count: int) -> None:
        """Have more guests come."""
        for guest in await self._site.welcome(count, "broadcast", "sync-broadcast"):
            self.expected[guest] = []

    async def shrink(self, count: int) -> None:
        """Have some go, who have heard all that they had to."""
        for guest in self._random.sample(list(self.expected), count):
            assert guest.numbers == self.expected.pop(guest)
            self._site.guests.remove(guest)
            await guest.leave()

    async def talk(self) -> None:
        """Send broadcasts, an ordinary message to all, and one to a single guest."""
        layer = self._site.layer
        for kind in ("all", "all", "note", "all"):
            self._number += 1
            await layer.group_send(GROUP, {"type": f"room.{kind}", "n": self._number})
            for numbers in self.expected.values():
                numbers.append(self._number)
        self._number += 1
        guest = self._random.choice(list(self.expected))
        await self._site.settle()
        await layer.send(guest.channel, {"type": "room.note", "n": self._number})
        self.expected[guest].append(self._number)
        await wait_for(lambda: self._number in guest.numbers, PATIENCE_S)

    def check(self) -> None:
        """See that nobody has missed or repeated anything."""
        assert all(guest.numbers == numbers for guest, numbers in self.expected.items())


@pytest.mark.parametrize(
    ("count", "seconds"),
    [
        (10, 5),
        pytest.param(500, 600, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
async def test_a_waiting_consumer_misses_no_message(
    open_site: Callable[..., Any],
    private_server: RedisServer,
    kind: str,
    count: int,
    seconds: float,
) -> None:
    """And whoever has gone leaves nothing: no mailbox, and no memory."""
    site = await open_site(kind, hosts=[private_server.url])
    crowd = Crowd(site, seed=count)
    await crowd.grow(count)
    await crowd.talk()
    before, began = await site.facts(), time.monotonic()
    restarted = False
    while time.monotonic() - began < seconds:
        await crowd.shrink(max(1, count // 50))
        await crowd.grow(max(1, count // 50))
        await crowd.talk()
        if not restarted and time.monotonic() - began > seconds / 2:
            restarted = True
            await asyncio.to_thread(private_server.restart)
            await reunite(site)
    crowd.check()
    await wait_for(lambda: has_only(site, count), PATIENCE_S)
    after = await site.facts()
    print(f"\n{kind}, {count} guests, {seconds} s: before {before}, then {after}")
    assert after["rss_mb"] - before["rss_mb"] < 50


async def reunite(site: Site) -> None:
    """Wait until all guests hear again, as what is sent until then may be lost."""

    async def all_hear() -> bool:
        site.markers += 1
        with contextlib.suppress(ConnectionError):
            await site.layer.group_send(GROUP, {"type": "room.note", "n": -site.markers})
        return all(one.marker >= first for one in site.guests)

    first = site.markers + 1
    await wait_for(all_hear, PATIENCE_S)
    await site.settle()


async def has_only(site: Site, count: int) -> bool:
    """Tell whether the process has a mailbox for each guest and no other."""
    return bool((await site.facts())["mailboxes"] == count)
