"""Messages about users who join and leave a group: each once, and none for a page that reloads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis._groups.leaves import Leaves
from channels_redis.testing.servers import RedisServer
from tests.helpers import receive_until_marker, wait_for
from tests.presence.process import attend, shorten_leases_here, started

LEASE_S = 1.2
GRACE_S = 0.4
ROOM = "room.1"
JOIN, LEAVE = "presence.join", "presence.leave"


def rooms(grace_s: float = GRACE_S) -> dict[str, Any]:
    """The option of a site."""
    return {"room.*": {"key": "user", "grace_s": grace_s, "events": True}}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let leases be short in this process."""
    shorten_leases_here(monkeypatch, LEASE_S)


@pytest.fixture
def options(private_server: RedisServer, prefix: str) -> dict[str, Any]:
    """The options of all processes of a site."""
    return {"hosts": [private_server.url], "prefix": prefix, "presence": rooms()}


class Witness:
    """A channel in the group, and what it has heard."""

    def __init__(self, layer: Any, channel: str) -> None:
        self.layer = layer
        self.channel = channel
        self.heard: list[tuple[str, Any]] = []

    async def listen(self) -> list[tuple[str, Any]]:
        """Return all that came until now."""
        for message in await receive_until_marker(self.layer, self.channel):
            assert message["group"] == ROOM
            self.heard.append((message["type"], message["key"]))
        return self.heard

    async def until(self, *events: tuple[str, Any]) -> None:
        """Return when exactly these have come, in any order."""

        async def have_come() -> bool:
            return sorted(await self.listen()) == sorted(events)

        await wait_for(have_come)
        self.heard = []


async def witness(layer: Any) -> Witness:
    """Return a witness who has heard of its own join."""
    one = Witness(layer, await attend(layer, ROOM, 1))
    await one.until((JOIN, 1))
    return one


async def after_grace(layer: Any, seer: Witness, user: int, grace_s: float = GRACE_S) -> None:
    """Let a user come and go; what was due before that has been announced."""
    channel = await attend(layer, ROOM, user)
    await layer.group_discard(ROOM, channel)
    await seer.until((JOIN, user), (LEAVE, user))


async def test_a_history_keeps_who_has_joined_and_left(
    kind: str, make_layer: Callable[..., Any], hosts: list[Any]
) -> None:
    """A client that resumes gets them like other messages."""
    layer = make_layer(kind, hosts=hosts, presence=rooms(), history={"room.*": {}})
    seer = await witness(layer)
    await after_grace(layer, seer, 2)
    history = await layer.group_history(ROOM)
    kept = [(message["type"], message["key"]) for message in history.messages]
    assert kept == [(JOIN, 1), (JOIN, 2), (LEAVE, 2)]


async def test_joins_and_leaves_are_announced_with_the_info(
    kind: str, make_layer: Callable[..., Any], hosts: list[Any]
) -> None:
    """To all members, in all processes; a leave when the grace is over."""
    one = make_layer(kind, hosts=hosts, presence=rooms())
    other = make_layer(kind, hosts=hosts, presence=rooms())
    seer = await witness(one)
    channel = await other.new_channel()
    await other.group_add(ROOM, channel, presence={"user": 2, "name": "Bob"})
    message = await one.receive(seer.channel)
    assert message["info"] == {"user": 2, "name": "Bob"}
    assert (message["type"], message["group"], message["key"]) == (JOIN, ROOM, 2)
    await other.group_discard(ROOM, channel)
    message = await asyncio.wait_for(one.receive(seer.channel), 30)
    assert (message["type"], message["group"], message["key"]) == (LEAVE, ROOM, 2)
    assert message["info"] == {"user": 2, "name": "Bob"}


async def test_two_tabs_are_one_person(kind: str, make_layer: Callable[..., Any]) -> None:
    """The first joins, and the last leaves; a change of the info is no event."""
    layer = make_layer(kind, presence=rooms())
    other = make_layer(kind, presence=rooms())
    seer = await witness(layer)
    tabs = [await attend(layer, ROOM, 2), await attend(other, ROOM, 2)]
    await layer.group_add(ROOM, tabs[0], presence={"user": 2, "mood": "fine"})
    await seer.until((JOIN, 2))
    await layer.group_discard(ROOM, tabs[0])
    await after_grace(layer, seer, 3)
    await other.group_discard(ROOM, tabs[1])
    await seer.until((LEAVE, 2))


async def test_a_page_that_reloads_is_silent(kind: str, make_layer: Callable[..., Any]) -> None:
    """It leaves, and joins with another channel within the grace."""
    layer = make_layer(kind, presence=rooms())
    seer = await witness(layer)
    channel = await attend(layer, ROOM, 2)
    await seer.until((JOIN, 2))
    for _ in range(3):
        await layer.group_discard(ROOM, channel)
        channel = await attend(layer, ROOM, 2)
    await after_grace(layer, seer, 3)
    assert await seer.listen() == []


async def test_a_user_who_becomes_another_leaves_and_joins(
    kind: str, make_layer: Callable[..., Any]
) -> None:
    """As at a login."""
    layer = make_layer(kind, presence=rooms())
    seer = await witness(layer)
    channel = await attend(layer, ROOM, 2)
    await layer.group_add(ROOM, channel, presence={"user": 3})
    await seer.until((JOIN, 2), (JOIN, 3), (LEAVE, 2))


async def test_the_users_of_a_killed_process_leave_once(
    kind: str, make_layer: Callable[..., Any], options: dict[str, Any], short: None
) -> None:
    """However many survivors there are; who has a tab elsewhere stays."""
    layers = [make_layer(kind, **options) for _ in range(3)]
    seer = await witness(layers[0])
    await attend(layers[1], ROOM, 2)
    await attend(layers[2], ROOM, 10)
    await seer.until((JOIN, 2), (JOIN, 10))
    async with started(kind, LEASE_S, **options) as process:
        await process.call("attend", ROOM, *range(10, 15))
        await seer.until(*[(JOIN, user) for user in range(11, 15)])
        await process.kill()
    await seer.until(*[(LEAVE, user) for user in range(11, 15)])
    await after_grace(layers[1], seer, 3)
    await wait_for(lambda: [layer.stats().dead_processes for layer in layers] == [1] * 3)
    # Those of the killed process, and of the last visitor.
    await wait_for(lambda: sum(layer.stats().announced_leaves for layer in layers) == 4 + 1)


async def test_a_process_that_is_killed_in_the_grace_is_followed_by_another(
    kind: str, make_layer: Callable[..., Any], options: dict[str, Any], short: None
) -> None:
    """Redis has the leave."""
    options = {**options, "presence": rooms(1.5)}
    layer = make_layer(kind, **options)
    seer = await witness(layer)
    async with started(kind, LEASE_S, **options) as process:
        (channel,) = await process.call("attend", ROOM, 10)
        await seer.until((JOIN, 10))
        await process.call("group_discard", ROOM, channel)
        await process.kill()
    await seer.until((LEAVE, 10))


async def test_a_leave_that_is_announced_again_comes_once(
    kind: str, make_layer: Callable[..., Any]
) -> None:
    """By a process that follows one that died after it had sent the message."""
    layer = make_layer(kind, presence=rooms())
    seer = await witness(layer)
    again = {"type": LEAVE, "group": ROOM, "key": 9, "info": {}, "id": "x.1"}
    for _ in range(3):
        await layer.group_send(ROOM, again)
    await layer.group_send(ROOM, {**again, "id": "x.2"})
    await seer.until((LEAVE, 9), (LEAVE, 9))


async def test_a_frozen_process_leaves_and_joins_again(
    kind: str, make_layer: Callable[..., Any], options: dict[str, Any], short: None
) -> None:
    """Each once."""
    layer = make_layer(kind, **options)
    seer = await witness(layer)
    async with started(kind, LEASE_S, **options) as process:
        await process.call("attend", ROOM, 10)
        await seer.until((JOIN, 10))
        process.freeze()
        await seer.until((LEAVE, 10))
        process.thaw()
        await seer.until((JOIN, 10))


async def test_an_outage_and_a_loss_of_data_are_no_events(
    kind: str,
    make_layer: Callable[..., Any],
    options: dict[str, Any],
    private_server: RedisServer,
    short: None,
) -> None:
    """Nobody has left."""
    layer = make_layer(kind, **options)
    seer = await witness(layer)
    async with started(kind, LEASE_S, **options) as process:
        await process.call("attend", ROOM, 10, 11)
        await seer.until((JOIN, 10), (JOIN, 11))
        await asyncio.to_thread(private_server.kill)
        await asyncio.sleep(1.5 * LEASE_S)
        await asyncio.to_thread(private_server.start)
        await wait_for(lambda: not layer._health[0].down)

        async def is_whole() -> bool:
            return len(await layer.group_presence(ROOM)) == 3

        await wait_for(is_whole)
        await wait_for(lambda: layer._keeper_of(ROOM).deaths.may_judge)
        await after_grace(layer, seer, 3)


# Decisions


def test_a_leave_that_another_has_begun_to_announce_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it may have died; then the user is back."""
    now = [100.0]
    monkeypatch.setattr("channels_redis._runtime.clock.monotonic", lambda: now[0])
    leaves = Leaves()
    assert leaves.next_s() is None
    leaves.add("room", ["ann", "bob"], 15)
    leaves.add("hall", ["ann"], -5)
    assert leaves.due() == {"hall": ["ann"]}
    leaves.done("hall", "ann")
    assert leaves.next_s() == 15
    now[0] += 15
    assert leaves.due() == {"room": ["ann", "bob"]}
    leaves.done("room", "ann")
    leaves.passed("room", "bob")
    assert leaves.due() == {}
    assert leaves.groups() == {"room"}
    now[0] += 11
    assert leaves.due() == {"room": ["bob"]}
    leaves.passed("room", "bob")
    assert leaves.next_s() is None
