"""Real consumers hear their groups again after the server has forgotten them (core).

``-s`` shows how long that took, from the moment at which the server had forgotten and answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis.exceptions import ConnectionLost
from channels_redis.testing.servers import RedisServer
from tests.helpers import wait_for
from tests.sites.site import PATIENCE_S, Guest, Site

PROCESSES = 3
#: Between two messages to the groups that have not all heard one.
PAUSE_S = 0.2


async def hear_again(layer: Any, members: dict[str, list[Guest]], number: int) -> None:
    """Send to each group until all its members have heard it."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        deaf = [
            group
            for group, guests in members.items()
            if any(number not in one.numbers for one in guests)
        ]
        if not deaf:
            return
        assert time.monotonic() < deadline, f"{len(deaf)} groups are not heard"
        note = {"type": "room.note", "n": number}
        for group in deaf:
            with contextlib.suppress(ConnectionLost):
                await layer.group_send(group, note)
        await asyncio.sleep(PAUSE_S)


async def all_are_written(layer: Any, names: list[str], guests: int) -> bool:
    """Tell whether the server knows all memberships."""
    try:
        sizes = await asyncio.gather(*[layer.group_size(name) for name in names])
    except ConnectionLost:
        return False
    return sum(sizes) == guests


@pytest.mark.parametrize("loss", ["killed", "flushed"])
@pytest.mark.parametrize(
    ("guests", "groups"),
    [
        (60, 6),
        pytest.param(2000, 50, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
async def test_all_consumers_receive_their_groups_again(
    open_site: Callable[..., Any],
    private_server: RedisServer,
    guests: int,
    groups: int,
    loss: str,
) -> None:
    """In three processes, whose server is killed and comes back empty, or is flushed."""
    sites: list[Site] = [
        await open_site("core", hosts=[private_server.url]) for _ in range(PROCESSES)
    ]
    layer = sites[0].layer
    names = [f"room-{n}" for n in range(groups)]
    members: dict[str, list[Guest]] = {name: [] for name in names}
    for site in sites:
        for index, guest in enumerate(await site.welcome(guests // PROCESSES, groups=names)):
            members[names[index % groups]].append(guest)
    await hear_again(layer, members, 1)
    # What is told to the server again is all that it has to know; nothing of it was just told.
    await wait_for(lambda: private_server.command("ZCARD", f"{layer.prefix}:live:0") == PROCESSES)
    if loss == "killed":
        await asyncio.to_thread(private_server.kill)
        await asyncio.to_thread(private_server.start)
    else:
        private_server.command("FLUSHALL")
    back_at = time.monotonic()
    count = sum(map(len, members.values()))
    await wait_for(lambda: all_are_written(layer, names, count), PATIENCE_S)
    written_s = time.monotonic() - back_at
    await hear_again(layer, members, 2)
    all_guests = [guest for group in members.values() for guest in group]
    took = sorted(guest.times[guest.numbers.index(2)] - back_at for guest in all_guests)
    p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
    print(f"\n{loss}, {len(took)} guests: written after {written_s:.2f} s, ", end="")
    print(f"heard p50 {p50:.2f} s, p99 {p99:.2f} s, last {took[-1]:.2f} s")
    assert not any(guest.gone for guest in all_guests)
