"""Who renews the leases of a process, whose members others would delete otherwise."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis import _session
from channels_redis._format.keyspace import Keyspace
from channels_redis._groups import leases
from channels_redis._runtime.portal import portal
from channels_redis.exceptions import ConfigurationError, LayerClosed
from channels_redis.testing.servers import RedisServer, wait_until
from tests.conftest import class_of
from tests.helpers import SCRIPT_HEAD, run_script, script_arguments_for
from tests.presence.process import shorten_leases_here

LEASE_S = 1.5


@pytest.fixture
def layer(
    make_layer_blocking: Callable[..., Any],
    private_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """A layer with short leases, which no loop renews before it ends."""
    shorten_leases_here(monkeypatch, LEASE_S)
    monkeypatch.setattr(_session, "SWEEP_S", LEASE_S / 3)
    return make_layer_blocking("core", hosts=[private_server.url])


@pytest.fixture
def lease_end_s(private_server: RedisServer, layer: Any, prefix: str) -> Callable[[], float]:
    """Return when the lease of this process ends, in unix seconds; 0 if there is none."""

    def end_s() -> float:
        leases_key = Keyspace(prefix).leases(0)
        return float(private_server.command("ZSCORE", leases_key, layer.client_prefix) or 0)

    return end_s


async def join(layer: Any) -> str:
    """Return a channel in a group."""
    channel: str = await layer.new_channel()
    await layer.group_add("room", channel)
    return channel


def wait_until_renewed(lease_end_s: Callable[[], float]) -> None:
    """Wait until somebody renews the lease, for longer than it would last."""
    first = wait_until(lease_end_s, "written")
    wait_until(lambda: lease_end_s() > first + LEASE_S, "renewed")


def test_the_lease_is_renewed_after_the_only_loop_has_ended(
    layer: Any, lease_end_s: Callable[[], float]
) -> None:
    """As in a script that joins first and works in synchronous code then."""

    async def join_with_a_lease() -> None:
        await join(layer)
        while not lease_end_s():
            await asyncio.sleep(0)

    asyncio.run(join_with_a_lease())
    wait_until_renewed(lease_end_s)


def test_the_lease_is_renewed_while_the_only_loop_is_blocked_since_the_first_join(
    layer: Any, lease_end_s: Callable[[], float]
) -> None:
    """The loop has had no time to check anything."""

    async def join_and_block() -> None:
        await join(layer)
        while not lease_end_s():
            await asyncio.sleep(0)
        wait_until_renewed(lease_end_s)

    asyncio.run(join_and_block())


def test_a_layer_that_was_closed_and_taken_for_dead_lives_when_it_joins_again(
    layer: Any, lease_end_s: Callable[[], float], private_server: RedisServer, prefix: str
) -> None:
    """Nobody skips its members in between, and its lease is renewed."""

    async def join_with_a_lease() -> None:
        await join(layer)
        while not lease_end_s():
            await asyncio.sleep(0)

    asyncio.run(join_with_a_lease())
    layer.sync.close()
    mark = -round(time.time())
    private_server.command("ZADD", Keyspace(prefix).leases(0), mark, layer.client_prefix)

    async def join_again() -> float:
        await join(layer)
        return lease_end_s()

    assert asyncio.run(join_again()) > 0
    wait_until_renewed(lease_end_s)


FORK = f"""
import os, time
from tests.presence.process import shorten_leases

shorten_leases({LEASE_S})

async def join():
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    while not any(lease.end_s for lease in layer._keepers.of("room").memberships._leases.values()):
        await asyncio.sleep(0.01)

asyncio.run(join())
while layer._keepers._backup_session is None:
    time.sleep(0.01)
child = os.fork()
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
told = layer._keepers.of("room").memberships
end_s = max(lease.end_s for lease in told._leases.values())
while max(lease.end_s for lease in told._leases.values()) < end_s + {LEASE_S}:
    time.sleep(0.01)
"""


async def test_the_lease_is_renewed_after_a_fork(redis_url: str, prefix: str) -> None:
    """For which the thread that renews it is stopped, and started again in the parent."""
    from channels_redis.core import RedisChannelLayer

    arguments = script_arguments_for(RedisChannelLayer, [redis_url], prefix)
    # Python 3.12 and later count the threads after the fork, and warn of the one started again.
    await run_script(SCRIPT_HEAD + FORK, *arguments, may_warn=True)


def test_a_lease_that_nobody_can_renew_lasts_as_long_as_its_members(
    layer: Any, lease_end_s: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where no thread can be started."""

    def refuse(*_: Any) -> None:
        raise LayerClosed("The call needs a thread, but none can be started.")

    async def join_with_a_lease() -> None:
        await join(layer)
        while not lease_end_s():
            await asyncio.sleep(0)

    with monkeypatch.context() as patches:
        patches.setattr(portal, "call_soon", refuse)
        asyncio.run(join_with_a_lease())
    assert lease_end_s() > time.time() + layer.group_expiry - leases.LEASE_S


def test_no_thread_is_asked_for_where_nobody_joins(
    layer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages alone need none."""
    monkeypatch.setattr(_session, "SWEEP_S", 0.05)
    asked: list[Any] = []

    async def send_and_receive() -> None:
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "x"})
        assert await layer.receive(channel) == {"type": "x"}
        ticks = 0
        tick = layer._keepers.tick

        def count(session: Any) -> None:
            nonlocal ticks
            tick(session)
            ticks += 1

        monkeypatch.setattr(layer._keepers, "tick", count)
        while ticks < 2:
            await asyncio.sleep(0.01)

    with monkeypatch.context() as patches:
        patches.setattr(portal, "call_soon", asked.append)
        asyncio.run(send_and_receive())
    assert asked == []


async def test_the_keys_of_presence_expire_later_than_a_lease(
    make_layer: Callable[..., Any], kind: str, private_server: RedisServer, prefix: str
) -> None:
    """Also with a short ``group_expiry``, as they are refreshed when leases are renewed."""
    presence = {"*": {"key": "user"}}
    layer = make_layer(kind, hosts=[private_server.url], group_expiry=5, presence=presence)
    await layer.group_add("room", await layer.new_channel(), presence={"user": 1})
    writer = layer._keepers.of("room")._writer
    for key in (writer.presence_key("room"), writer.keys.held(layer.client_prefix)):
        assert private_server.command("PTTL", key) > leases.LEASE_S * 1000


@pytest.mark.parametrize("prefix", ["a{b", "{}x"])
def test_a_prefix_whose_braces_are_no_hash_tag_is_refused_in_a_cluster(
    kind: str, prefix: str
) -> None:
    """The presence of a group would be in another slot than the group."""
    server = "redis://localhost:6379"
    cluster = [{"address": server, "cluster": True}]
    presence = {"*": {"key": "user"}}
    with pytest.raises(ConfigurationError, match=r"presence: in a cluster.* braces"):
        class_of(kind)(hosts=cluster, prefix=prefix, presence=presence)
    class_of(kind)(hosts=[server], prefix=prefix, presence=presence)
    class_of(kind)(hosts=cluster, prefix=prefix)
    class_of(kind)(hosts=cluster, prefix="{a}", presence=presence)
