"""Who is alive hears, who is gone leaves nothing behind: real consumers under real servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers import wait_for
from tests.sites.site import GROUP, PATIENCE_S, Guest, Site

SLOW = [pytest.mark.slow, pytest.mark.timeout(600)]
#: A consumer that is gone has left everything after so many seconds.
GONE_S = 20.0


@pytest.mark.parametrize(
    ("program", "count", "expiry"),
    [("uvicorn", 10, 2), ("daphne", 10, 2), pytest.param("uvicorn", 1000, 5, marks=SLOW)],
)
async def test_consumers_with_long_handlers_stay(
    open_site: Callable[..., Any], observer: Any, kind: str, program: str, count: int, expiry: float
) -> None:
    """They work three times as long as ``expiry`` while their group is busy.  Then each gets what
    is not too old by then, and is in its group.  One that does not work misses nothing.
    """
    site = await open_site(kind, server=program, expiry=expiry)
    guests = await site.welcome(count)
    awake = (await site.welcome(1))[0]
    before = await site.facts()
    for guest in guests:
        await site.layer.send(guest.channel, {"type": "room.work", "seconds": 3 * expiry})
    # Slowly enough for a busy machine to deliver most of it in time.
    pause_s = max(0.1, count / 1000)
    sent_at = await talk(site, pause_s, lambda: all("worked" in one.heard for one in guests))
    after = await site.facts()
    await site.settle()
    for guest in guests:
        assert too_old_when_missed(guest, sent_at, expiry)
    assert awake.numbers == list(sent_at)
    assert await observer.members(site) == count + 1
    print(
        f"\n{kind}, {program}: {len(sent_at)} to {count} that work; before {before}, then {after}"
    )
    assert after["rss_mb"] - before["rss_mb"] < 100


async def talk(site: Site, pause_s: float, is_done: Callable[[], bool]) -> dict[int, float]:
    """Send a note to the group again and again; return when each was sent."""
    sent_at = {}
    while not is_done():
        number = len(sent_at)
        sent_at[number] = time.monotonic()
        await site.layer.group_send(GROUP, {"type": "room.note", "n": number})
        await asyncio.sleep(pause_s)
    return sent_at


def too_old_when_missed(guest: Guest, sent_at: dict[int, float], expiry_s: float) -> bool:
    """Tell whether what a guest did not hear had expired when it heard the next."""
    notes = guest.notes
    assert guest.numbers == sorted(notes), "out of order, or twice"
    next_heard_at = guest.marked_at
    for number in sorted(sent_at, reverse=True):
        if number in notes:
            next_heard_at = notes[number]
        elif next_heard_at - sent_at[number] < expiry_s:
            return False
    return True


@pytest.mark.parametrize(
    ("program", "count"),
    [("uvicorn", 10), ("daphne", 10), pytest.param("uvicorn", 1000, marks=SLOW)],
)
async def test_an_ended_consumer_leaves_nothing_behind(
    open_site: Callable[..., Any], observer: Any, kind: str, program: str, count: int
) -> None:
    """Half of the consumers are asynchronous.  Some raise in a handler, the clients of others go,
    and none leaves its group.  The application keeps all of them in a dict for ever.
    """
    site = await open_site(kind, server=program, keeps=True)
    staying = await site.welcome(2, "async", "sync")
    leaving = await site.welcome(count // 5, "async", "sync")
    failing = await site.welcome(count, "async", "sync")
    all_of_them = len(staying) + len(leaving) + len(failing)
    assert await observer.members(site) == all_of_them
    await asyncio.gather(*[guest.leave() for guest in leaving])
    for guest in failing:
        await site.layer.send(guest.channel, {"type": "room.fail"})
    await wait_for(lambda: all(guest.gone for guest in failing), PATIENCE_S)
    began = time.monotonic()

    async def all_is_gone() -> bool:
        left = (
            (await site.facts())["mailboxes"],
            await observer.members(site),
            observer.subscriptions(),
        )
        return left == (2, 2, 3 if kind == "pubsub" else 0)

    await wait_for(all_is_gone, GONE_S)
    took_s = time.monotonic() - began
    assert (await site.facts())["kept"] == all_of_them
    await site.layer.group_send(GROUP, {"type": "room.note", "n": 1})
    await site.settle(staying)
    assert [guest.numbers for guest in staying] == [[1], [1]]
    print(f"\n{kind}, {program}: {count} raised, all of them gone after {took_s:.1f} s")
