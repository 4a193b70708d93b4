"""Kills at the size of a site: a process with 1,000 members in 20 groups, again and again."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer
from tests.conftest import class_of
from tests.helpers import receive_until_marker, wait_for
from tests.presence.process import Process, attend, shorten_leases_here, started

pytestmark = pytest.mark.slow

LEASE_S = 6.0
GRACE_S = 1.0
ROUNDS = 20
SURVIVORS = 5
GROUPS = [f"room.{number}" for number in range(20)]
USERS = 50
RULES = {"room.*": {"key": "user", "grace_s": GRACE_S, "events": True}}


async def fill(process: Process, first: int) -> None:
    """Let a process have users in all groups, others than any before."""
    for group in GROUPS:
        await process.call("attend", group, *range(first, first + USERS))


async def is_gone(layer: Any, seers: dict[str, str]) -> bool:
    """Tell whether only this process has members."""
    sizes = [len(await layer.group_presence(group)) for group in GROUPS]
    return sizes == [1] * len(seers)


async def left(layer: Any, channel: str, first: int, found: list[int]) -> bool:
    """Collect the leaves that came; tell whether all users have left, and fail for a second one."""
    for message in await receive_until_marker(layer, channel):
        if message["type"] == "presence.leave" and message["key"] >= first:
            found.append(message["key"])
    assert len(found) == len(set(found)), "a leave came twice"
    return len(found) == USERS


async def all_left(layer: Any, seers: dict[str, str], first: int) -> None:
    """Return when all users have left all groups."""
    for channel in seers.values():
        await wait_for(partial(left, layer, channel, first, []), 60)


async def kill_one(
    fleet: list[Process], layer: Any, seers: dict[str, str], first: int
) -> tuple[float, float]:
    """Kill the first process, and others that clean up; return the seconds until its users were
    gone, and until they had left.
    """
    await fill(fleet[0], first)
    await fleet[0].kill()
    killed_at = time.monotonic()
    await wait_for(partial(is_gone, layer, seers), LEASE_S + 20)
    gone_s = time.monotonic() - killed_at
    for cleaner in fleet[SURVIVORS:]:
        await cleaner.kill()
    await all_left(layer, seers, first)
    return gone_s, time.monotonic() - killed_at


@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_all_users_of_a_killed_process_leave_once(
    kind: str, private_server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty times over; in half of them processes that clean up are killed as well."""
    shorten_leases_here(monkeypatch, LEASE_S)
    options = {"hosts": [private_server.url], "prefix": prefix, "presence": RULES}
    layer = class_of(kind)(**options)
    seers = {group: await attend(layer, group, 0) for group in GROUPS}
    await wait_for(lambda: layer._keeper_of(GROUPS[0]).deaths.may_judge)
    took = []
    for number in range(ROUNDS):
        async with contextlib.AsyncExitStack() as stack:
            starting = [started(kind, LEASE_S, **options) for _ in range(SURVIVORS + number % 2)]
            fleet = [await stack.enter_async_context(one) for one in starting]
            took.append(await kill_one(fleet, layer, seers, 1000 * (number + 1)))
    await layer.close()
    gone_s, left_s = (max(times) for times in zip(*took, strict=True))
    print(f"{kind}: gone after {gone_s:.1f} s, left after {left_s:.1f} s at most")
