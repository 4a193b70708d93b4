"""Members of dead processes on core: no queue is filled for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis._format.keyspace import Keyspace
from channels_redis._groups.deaths import Deaths, process_of
from channels_redis._transport.scripts import Renewal
from channels_redis.testing.servers import RedisServer
from tests.helpers import receive, wait_for
from tests.presence.process import commands_of, shorten_leases_here, started

LEASE_S = 1.5
#: For processes that must not be taken for dead, on a busy machine.
LONG_LEASE_S = 5.0
SAY = {"type": "x"}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let leases be short in this process, too."""
    shorten_leases_here(monkeypatch, LEASE_S)


@pytest.fixture
def make_survivor(
    make_layer: Callable[..., Any], private_server: RedisServer, short: None
) -> Callable[..., Any]:
    """Return a function that makes a layer of this process on the private server."""
    return lambda **options: make_layer("core", **{"hosts": [private_server.url], **options})


async def member(layer: Any, group: str = "room") -> str:
    """Return a channel in a group."""
    channel: str = await layer.new_channel()
    await layer.group_add(group, channel)
    return channel


def stored(server: RedisServer, prefix: str, group: str = "room") -> int:
    """Return the number of members that the server has."""
    return int(server.command("ZCARD", Keyspace(prefix).group(group)))


async def members_of(layer: Any) -> set[str]:
    """Return the members of the group."""
    return set(await layer.group_channels("room"))


async def test_a_killed_process_is_gone_one_lease_and_one_renewal_later(
    make_survivor: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """From what is read, from what is sent to, and from the server."""
    survivor = make_survivor()
    mine = await member(survivor)
    async with started("core", LEASE_S, hosts=[private_server.url], prefix=prefix) as process:
        await process.call("members", "room", 1000)
        assert await survivor.group_size("room") == 1001
        await process.kill()
        await wait_for(lambda: all_dead(survivor))
    queues = commands_of(private_server).get("evalsha", 0)
    await survivor.group_send("room", SAY)
    assert await receive(survivor, mine) == SAY
    assert commands_of(private_server)["evalsha"] - queues < 10
    assert private_server.command("KEYS", f"{prefix}specific.*") == []
    assert await survivor.group_channels("room") == [mine]
    assert await survivor.group_size("room") == 1
    assert stored(private_server, prefix) == 1


def all_dead(layer: Any) -> bool:
    """Tell whether the layer knows of a dead process."""
    return any(keeper.deaths.known for keeper in layer._keepers._all)


async def test_a_sender_without_members_skips_dead_processes(
    make_survivor: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """Such as a task queue: it asks at its first message who is dead."""
    survivor = make_survivor()
    await member(survivor, "elsewhere")
    async with started("core", LEASE_S, hosts=[private_server.url], prefix=prefix) as process:
        await process.call("members", "room", 10)
        await process.kill()
        await wait_for(lambda: all_dead(survivor))
    sender = make_survivor()
    await sender.group_send("room", SAY)
    assert private_server.command("KEYS", f"{prefix}specific.*") == []
    assert stored(private_server, prefix) == 0


async def test_a_frozen_process_is_gone_and_back_when_it_continues(
    make_survivor: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """Also where its members were removed meanwhile; nobody is there twice."""
    survivor = make_survivor()
    mine = await member(survivor)
    async with started("core", LEASE_S, hosts=[private_server.url], prefix=prefix) as process:
        theirs = await process.call("members", "room", 5)
        process.freeze()
        await wait_for(lambda: all_dead(survivor))
        assert await members_of(survivor) == {mine}
        process.thaw()

        async def is_back() -> bool:
            return await members_of(survivor) == {mine, *theirs}

        await wait_for(is_back)
        await survivor.group_send("room", SAY)
        for channel in theirs:
            assert await process.call("receive", channel) == SAY


async def test_a_process_whose_loop_is_blocked_stays(
    make_layer: Callable[..., Any],
    private_server: RedisServer,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its lease is renewed in another thread."""
    shorten_leases_here(monkeypatch, LONG_LEASE_S)
    survivor = make_layer("core", hosts=[private_server.url])
    await member(survivor)
    async with started("core", LONG_LEASE_S, hosts=[private_server.url], prefix=prefix) as process:
        await process.call("members", "room", 5)
        first = lease_ends(private_server, prefix)

        def have_renewed() -> bool:
            found = lease_ends(private_server, prefix)
            return all(found[name] > end + LONG_LEASE_S / 5 for name, end in first.items())

        # By then the process has a second thread for its leases.
        await wait_for(have_renewed)
        ends = lease_ends(private_server, prefix)
        process.write("block", 1.3 * LONG_LEASE_S)
        # Meanwhile the survivor, too, has been there for a lease.
        assert await process.read() is None
        await wait_for(lambda: survivor._keepers.of("room").deaths.may_judge)
        assert not all_dead(survivor)
        assert await survivor.group_size("room") == 6
        later = lease_ends(private_server, prefix)
        assert all(later[name] > end + LONG_LEASE_S for name, end in ends.items())


def lease_ends(server: RedisServer, prefix: str) -> dict[bytes, float]:
    """Return the leases of the processes, and when they end."""
    flat = server.command("ZRANGE", Keyspace(prefix).leases(0), 0, -1, "WITHSCORES")
    return {name: float(end) for name, end in zip(flat[::2], flat[1::2], strict=True)}


@pytest.mark.parametrize("with_data", [True, False])
async def test_nobody_is_taken_for_dead_after_an_outage(
    make_survivor: Callable[..., Any], private_server: RedisServer, prefix: str, with_data: bool
) -> None:
    """Of more than a lease, in which nobody could renew one."""
    survivor = make_survivor()
    mine = await member(survivor)
    async with started("core", LEASE_S, hosts=[private_server.url], prefix=prefix) as process:
        theirs = await process.call("members", "room", 3)
        await wait_for(lambda: survivor._keepers.of("room").deaths.may_judge)
        if with_data:
            private_server.command("SAVE")
        await asyncio.to_thread(private_server.kill)
        await asyncio.sleep(2 * LEASE_S)
        await asyncio.to_thread(private_server.start)

        async def is_whole() -> bool:
            return await members_of(survivor) == {mine, *theirs}

        await wait_for(is_whole)
        await wait_for(lambda: survivor._keepers.of("room").deaths.may_judge)
        assert not all_dead(survivor)
        assert await is_whole()


async def test_members_of_processes_without_a_lease_count_as_alive(
    make_survivor: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """Such as those of 4.3.0."""
    survivor = make_survivor()
    mine = await member(survivor)
    old = "specific.00000000000000000000000000000000!00000000000000000000000000000000"
    await survivor.group_add("room", old)
    await wait_for(lambda: survivor._keepers.of("room").deaths.may_judge)
    assert await members_of(survivor) == {mine, old}


async def test_leases_cost_one_command_in_a_third_of_a_lease(
    make_survivor: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """However many members there are."""
    survivor = make_survivor()
    for _ in range(100):
        await member(survivor)
    keeper = survivor._keepers.of("room")
    await wait_for(lambda: keeper.deaths.may_judge)
    before = commands_of(private_server)
    looks = keeper.memberships._looks
    await wait_for(lambda: keeper.memberships._looks >= looks + 3)
    after = commands_of(private_server)
    sent = after["evalsha"] - before["evalsha"] + after.get("ping", 0) - before.get("ping", 0)
    assert sent <= 2 * 4  # each with a check of a connection that was idle


# Decisions


def test_the_process_of_a_channel_is_in_its_name() -> None:
    """And a general channel has none."""
    assert process_of("specific.abc!def") == "abc"
    assert process_of("a.b.abc!def") == "abc"
    assert process_of("worker") == ""
    assert process_of("worker.abc") == ""


def answer(*dead: str) -> Renewal:
    """Return what a server says."""
    return Renewal(30.0, 20.0, 1000.0, list(dead))


def test_a_group_is_read_again_after_another_death() -> None:
    """And only then."""
    deaths = Deaths(30)
    assert deaths.is_clean("room")
    deaths.learn("live", answer("abc"))
    assert not deaths.is_clean("room")
    assert deaths.suspects("room", ["specific.abc!1", "specific.def!1", "worker"]) == {"abc"}
    assert deaths.suspects("room", ["specific.def!1"]) == set()
    assert deaths.is_clean("room")
    deaths.learn("live", answer("abc", "def"))
    assert deaths.suspects("room", ["specific.def!1"]) == {"def"}
    deaths.returned({"abc", "def"})
    assert deaths.is_clean("room")


def test_processes_that_were_dead_before_are_not_counted() -> None:
    """Else the statistics of a new process would begin with those of a day."""
    deaths = Deaths(30)
    deaths.learn("live", answer("abc"))
    assert deaths.found == set()
    deaths.learn("live", answer("abc", "def"))
    deaths.learn("live", answer("def"))
    assert deaths.found == {"def"}


def test_who_was_cut_off_judges_nobody_for_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that has just begun, or whose renewal was late."""
    now = [100.0]
    monkeypatch.setattr("channels_redis._runtime.clock.monotonic", lambda: now[0])
    deaths = Deaths(30)
    deaths.learn("live", answer())
    for begin in (lambda: None, deaths.unsettle, lambda: deaths.settle(sound=False)):
        begin()
        deaths.settle(sound=True)
        now[0] += 29
        deaths.settle(sound=True)
        assert not deaths.may_judge
        assert deaths.judgement("live").asked_s == 0
        now[0] += 1
        assert deaths.may_judge
    deaths.learn("live", answer())
    now[0] += 5
    assert deaths.judgement("live") == (1005.0, 970.0)
