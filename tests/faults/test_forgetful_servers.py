"""Servers that have forgotten who is in which group, and are told again (core).

The layer is never asked to join again, and nothing handles ``on_reconnect``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from channels_redis._format.keyspace import Keyspace
from channels_redis._format.slots import slot_of
from channels_redis.exceptions import ConnectionLost
from channels_redis.testing.servers import ClusterSet, RedisServer, SentinelSet
from tests.conftest import find_server_or_skip
from tests.helpers import (
    numbered,
    receive,
    receive_until_marker,
    until_connected,
    wait_for,
    waiting,
)
from tests.proxy import Proxy

BACK = "redis.back"
#: Many, to be written in several goes.
MANY = 10_000


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have leases renewed so often that no test waits long for it."""
    monkeypatch.setattr("channels_redis._groups.leases.RENEWAL_S", 0.2)


async def member(layer: Any, *groups: str) -> str:
    """Return a channel that is in groups, and hears them."""
    channel: str = await layer.new_channel()
    for group in groups or ("room",):
        await layer.group_add(group, channel)
        await hears(layer, channel, group)
    return channel


async def hears(layer: Any, channel: str, group: str = "room", times: int = 1) -> None:
    """Fail unless what is sent to a group arrives so often at a channel."""
    await layer.group_send(group, {"type": "x", "group": group})
    assert await receive_until_marker(layer, channel) == [{"type": "x", "group": group}] * times


async def comes_back_empty(server: RedisServer) -> None:
    """Kill a server, and start it again."""
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


def members(server: RedisServer, prefix: str, group: str = "room") -> dict[str, float]:
    """The members of a group on a server, and when they joined."""
    flat = server.command("ZRANGE", Keyspace(prefix).group(group), 0, -1, "WITHSCORES")
    return {name.decode(): float(score) for name, score in zip(flat[::2], flat[1::2], strict=True)}


def has(server: RedisServer, prefix: str, channel: str) -> bool:
    """Tell whether a channel is in the group."""
    return channel in members(server, prefix)


def leases(server: RedisServer, prefix: str) -> dict[str, float]:
    """The leases of processes on a server, and when they end."""
    flat = server.command("ZRANGE", Keyspace(prefix).leases(0), 0, -1, "WITHSCORES")
    return {name.decode(): float(score) for name, score in zip(flat[::2], flat[1::2], strict=True)}


async def settled(layer: Any) -> None:
    """Return when all that was written is confirmed, by a renewal after it."""
    for keeper in layer._keepers._all:
        await wait_for(partial(is_settled, keeper.memberships), 60)


def is_settled(told: Any) -> bool:
    """Tell whether nothing is owed, and all that was written is confirmed."""
    return not (told._owed or told._recent or told._unleased)


# One server


async def test_memberships_are_restored_on_a_server_that_comes_back_without_data(
    make_layer: Callable[..., Any], private_server: RedisServer
) -> None:
    """Also while nobody sends anything."""
    layer = make_layer("core", hosts=[private_server.url])
    channel = await member(layer)
    waiter = waiting(layer, channel)
    await comes_back_empty(private_server)
    await wait_for(lambda: members(private_server, layer.prefix))
    await layer.group_send("room", {"type": "x", "n": 1})
    assert (await asyncio.wait_for(waiter, 10))["n"] == 1


async def test_consumers_are_in_their_groups_when_they_get_on_reconnect(
    make_layer: Callable[..., Any], private_server: RedisServer
) -> None:
    """Memberships are written before ``on_reconnect`` is announced."""
    layer = make_layer("core", hosts=[private_server.url], on_reconnect=BACK)
    channel = await member(layer)
    waiter = waiting(layer, channel)
    await comes_back_empty(private_server)
    assert (await asyncio.wait_for(waiter, 10))["type"] == BACK
    assert list(members(private_server, layer.prefix)) == [channel]


async def test_memberships_are_restored_on_a_flushed_server(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str, often: None
) -> None:
    """No connection was lost, and there was no outage: the next renewal finds the lease gone."""
    layer = make_layer("core", hosts=[private_server.url])
    channel = await member(layer)
    await settled(layer)
    private_server.command("FLUSHALL")
    await wait_for(lambda: members(private_server, prefix))
    await hears(layer, channel)


async def test_memberships_are_restored_on_a_server_that_was_flushed_right_after_the_first_join(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str, often: None
) -> None:
    """There was no lease yet that could be missed."""
    layer = make_layer("core", hosts=[private_server.url])
    for _ in range(20):
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        private_server.command("FLUSHALL")
        await wait_for(partial(has, private_server, prefix, channel))
        await layer.group_discard("room", channel)
        await wait_for(lambda: not leases(private_server, prefix))


async def test_memberships_are_restored_on_a_server_with_an_older_dump(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str, often: None
) -> None:
    """It has a lease, but an older one."""
    layer = make_layer("core", hosts=[private_server.url])
    old = await member(layer)
    await settled(layer)
    private_server.command("SAVE")
    new = await member(layer)
    dumped = leases(private_server, prefix)
    await wait_for(lambda: leases(private_server, prefix) != dumped)
    await settled(layer)
    await comes_back_empty(private_server)
    await wait_for(lambda: set(members(private_server, prefix)) == {old, new})
    await hears(layer, new)
    assert await receive_until_marker(layer, old) == [{"type": "x", "group": "room"}] * 2


async def test_a_lease_with_another_end_is_not_trusted(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str, often: None
) -> None:
    """An earlier one and a later one alike."""
    layer = make_layer("core", hosts=[private_server.url])
    channel = await member(layer)
    for change in (-1, 1):
        await settled(layer)
        private_server.command("DEL", layer._group_key("room"))
        key = Keyspace(prefix).leases(0)
        private_server.command("ZINCRBY", key, change, layer.client_prefix)
        await wait_for(lambda: members(private_server, prefix))
        await hears(layer, channel)


async def test_memberships_that_a_server_still_has_are_not_written_again(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """What other processes have removed stays removed, after an outage without a loss too."""
    layer, other = (make_layer("core", hosts=[private_server.url]) for _ in range(2))
    channel = await member(layer, "room", "hall")
    await settled(layer)
    await other.group_discard("room", channel)
    waiter = waiting(layer, channel)
    private_server.command("SAVE")
    await comes_back_empty(private_server)
    await layer.group_send("hall", {"type": "x"})
    assert await asyncio.wait_for(waiter, 10) == {"type": "x"}
    await settled(layer)
    assert members(private_server, prefix) == {}


async def test_memberships_keep_their_age(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """A group is left ``group_expiry`` after joining it, however often it was written."""
    layer = make_layer("core", hosts=[private_server.url], group_expiry=3)
    first = await member(layer)
    before = members(private_server, prefix)
    await asyncio.sleep(1)
    second = await member(layer)
    before = {**members(private_server, prefix), **before}
    await receive(layer, first)
    waiter = waiting(layer, first)
    await comes_back_empty(private_server)
    await wait_for(lambda: len(members(private_server, prefix)) == 2)
    after = members(private_server, prefix)
    assert after == {name: pytest.approx(before[name], abs=0.3) for name in (first, second)}
    await wait_for(lambda: layer.group_size("room"))
    await wait_for(lambda: is_empty(layer))
    await comes_back_empty(private_server)
    await settled(layer)
    assert members(private_server, prefix) == {}
    waiter.cancel()


async def is_empty(layer: Any) -> bool:
    """Tell whether the group has no member any more."""
    return bool(await layer.group_size("room") == 0)


async def test_leaves_that_could_not_be_sent_are_sent_later(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """Of a consumer that left in an outage, and of one that was cancelled while it did."""
    with Proxy(private_server.host, private_server.port) as proxy:
        layer = make_layer("core", hosts=[proxy.url], connect_wait_s=0.3)
        await until_connected(lambda: layer.send("work", numbered(0)))
        stays, leaves, ends = [await member(layer, "room") for _ in range(3)]
        waiter = waiting(layer, stays)
        proxy.refuse()
        with pytest.raises(ConnectionLost):
            await layer.group_discard("room", leaves)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(layer.group_discard("room", ends), 0.05)
        assert len(members(private_server, prefix)) == 3
        proxy.resume()
        await wait_for(lambda: list(members(private_server, prefix)) == [stays])
        waiter.cancel()


async def test_a_join_that_failed_is_never_written(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """Nor is one that was given up; an older membership that it would have renewed stays."""
    layer = make_layer("core", hosts=[private_server.url], connect_wait_s=0.3)
    await until_connected(lambda: layer.send("work", numbered(0)))
    stays, fails, given_up = [await member(layer, "room") for _ in range(3)]
    waiter = waiting(layer, stays)
    await asyncio.to_thread(private_server.kill)
    for channel in (stays, fails):
        for group in ("room", "hall"):
            with pytest.raises(ConnectionLost) as caught:
                await layer.group_add(group, channel)
            assert not caught.value.maybe_executed
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(layer.group_add("hall", given_up), 0.05)
    await asyncio.to_thread(private_server.start)
    await wait_for(lambda: len(members(private_server, prefix)) == 3)
    await settled(layer)
    assert members(private_server, prefix, "hall") == {}
    waiter.cancel()


async def test_a_join_whose_answer_was_lost_may_have_run(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """It was sent again, and the connection did not come back in time."""
    with Proxy(private_server.host, private_server.port) as proxy:
        layer = make_layer("core", hosts=[proxy.url], connect_wait_s=0.3)
        await until_connected(lambda: layer.send("work", numbered(0)))
        await member(layer)
        await settled(layer)
        proxy.drop_replies()
        joining = asyncio.create_task(layer.group_add("hall", await layer.new_channel()))
        await wait_for(lambda: members(private_server, prefix, "hall"))
        proxy.refuse()
        with pytest.raises(ConnectionLost) as caught:
            await joining
        assert caught.value.maybe_executed


# Leases


async def test_there_is_a_lease_only_while_there_are_memberships(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str, often: None
) -> None:
    """And it expires by itself where its process does not end it."""
    layer = make_layer("core", hosts=[private_server.url])
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "x"})
    await receive(layer, channel)
    assert private_server.command("KEYS", f"{prefix}:live:*") == []
    await layer.group_add("room", channel)
    await wait_for(lambda: list(leases(private_server, prefix)) == [layer.client_prefix])
    assert 0 < private_server.command("TTL", Keyspace(prefix).leases(0)) <= 2 * layer.group_expiry
    await layer.group_discard("room", channel)
    await wait_for(lambda: not leases(private_server, prefix))


async def test_a_flush_forgets_the_memberships_of_its_own_process_alone(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str, often: None
) -> None:
    """The leases of other processes stay, so that these do not undo the flush."""
    mine, other = (make_layer("core", hosts=[private_server.url]) for _ in range(2))
    for layer in (mine, other):
        await member(layer, layer.client_prefix)
        await settled(layer)
    before = leases(private_server, prefix)
    await mine.flush()
    assert leases(private_server, prefix).keys() == {other.client_prefix}
    await wait_for(
        lambda: leases(private_server, prefix)[other.client_prefix] > before[other.client_prefix]
    )
    await settled(other)
    assert private_server.command("KEYS", f"{prefix}:group:*") == []
    await comes_back_empty(private_server)
    key = Keyspace(prefix).group(other.client_prefix)
    await wait_for(lambda: private_server.command("KEYS", f"{prefix}:group:*") == [key])


async def test_a_quiet_process_sends_little(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """One command each ten seconds, however many members it has."""
    layer = make_layer("core", hosts=[private_server.url])
    for _ in range(100):
        await layer.group_add("room", await layer.new_channel())
    await settled(layer)
    (keeper,) = layer._keepers._all
    started = []
    keeper._round = partial(counted, keeper._round, started)
    await asyncio.sleep(3)
    assert len(started) <= 1


async def counted(call: Callable[..., Any], calls: list[Any], *args: Any) -> Any:
    """Note a call."""
    calls.append(args)
    return await call(*args)


async def test_many_memberships_are_written_in_about_a_second(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """In goes of a thousand, with everything else in between; each once."""
    layer = make_layer("core", hosts=[private_server.url])
    channels = [await layer.new_channel() for _ in range(MANY // 20)]
    joins = [(f"room-{n}", channel) for n in range(20) for channel in channels]
    for start in range(0, MANY, 500):
        await asyncio.gather(*[layer.group_add(*pair) for pair in joins[start : start + 500]])
    await settled(layer)
    waiter = waiting(layer, channels[0])
    private_server.command("CONFIG", "RESETSTAT")
    await comes_back_empty(private_server)
    await wait_for(lambda: len(members(private_server, prefix, "room-19")) == MANY // 20)
    await settled(layer)
    assert all(len(members(private_server, prefix, f"room-{n}")) == MANY // 20 for n in range(20))
    assert int(private_server.info("commandstats")["cmdstat_zadd"].split("=")[1].split(",")[0]) < (
        MANY * 1.1
    )
    waiter.cancel()


# Loops, threads and forks


def test_a_loop_that_comes_later_finds_the_loss(
    make_core: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """The one on which the group was joined has ended meanwhile."""
    layer = make_core(hosts=[private_server.url])
    channel = asyncio.run(member(layer))
    private_server.kill()
    private_server.start()

    async def later() -> None:
        waiter = waiting(layer, channel)
        await wait_for(lambda: list(members(private_server, prefix)) == [channel], 15)
        waiter.cancel()
        await asyncio.wait({waiter})
        await hears(layer, channel)
        await layer.close()

    asyncio.run(later())


async def test_groups_that_were_joined_by_blocking_calls_are_written_again(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """The consumer receives on its loop; a synchronous view has added it."""
    layer = make_layer("core", hosts=[private_server.url])
    channel = await layer.new_channel()
    await asyncio.to_thread(layer.sync.group_add, "room", channel)
    await hears(layer, channel)
    waiter = waiting(layer, channel)
    await comes_back_empty(private_server)
    await wait_for(lambda: list(members(private_server, prefix)) == [channel])
    waiter.cancel()


@pytest.fixture
def make_core(prefix: str) -> Callable[..., Any]:
    """A function that makes layers for tests that run loops of their own."""
    from channels_redis.core import RedisChannelLayer

    return partial(RedisChannelLayer, prefix=prefix)


# Rings, Sentinels, clusters


async def test_each_shard_of_a_ring_gets_the_memberships_of_its_own_groups(
    make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """The one that forgot is told again; the other is left alone."""
    with RedisServer() as second:
        layer = make_layer("core", hosts=[private_server.url, second.url])
        names = [f"{n}-room" for n in range(100)]
        here, there = (
            next(name for name in names if layer.consistent_hash(name) == n) for n in (0, 1)
        )
        channel = await member(layer, here, there)
        await settled(layer)
        second.command("DEL", layer._group_key(there))
        waiter = waiting(layer, channel)
        await comes_back_empty(private_server)
        await wait_for(lambda: members(private_server, prefix, here))
        await settled(layer)
        assert members(second, prefix, there) == {}
        waiter.cancel()


@pytest.mark.parametrize("crash", [False, True], ids=["planned", "crash"])
@pytest.mark.parametrize("loss", ["everything", "what came last", "since an older renewal"])
async def test_memberships_are_restored_on_a_lagging_replica_after_a_failover(
    make_layer: Callable[..., Any],
    own_sentinels: SentinelSet,
    prefix: str,
    loss: str,
    crash: bool,
) -> None:
    """An empty one; one that misses only what came after the renewal; and one that lags more."""
    layer = make_layer("core", hosts=[own_sentinels.host_entry()])
    first = await member(layer)
    await settled(layer)
    last = await member(layer)
    await layer.group_discard("room", await member(layer))
    waiters = [waiting(layer, channel) for channel in (first, last)]
    await asyncio.to_thread(own_sentinels.settle)
    (replica,) = own_sentinels.replicas
    replica.command("CONFIG", "SET", "replica-read-only", "no")
    if loss == "everything":
        replica.command("FLUSHALL")
    else:
        replica.command("ZREM", Keyspace(prefix).group("room"), last)
        replica.command("ZADD", Keyspace(prefix).group("room"), 2**31, f"{last}gone")
    if loss == "since an older renewal":
        replica.command("ZINCRBY", Keyspace(prefix).leases(0), -10, layer.client_prefix)
        replica.command("ZREM", Keyspace(prefix).group("room"), first)
    if crash:
        old = own_sentinels.primary
        await asyncio.to_thread(old.kill)
        await asyncio.to_thread(own_sentinels.wait_for_new_primary, old)
    else:
        assert await asyncio.to_thread(own_sentinels.failover) is replica
    await wait_for(lambda: {first, last} <= members(replica, prefix).keys(), 20)
    for waiter in waiters:
        waiter.cancel()


@pytest.fixture
def bare_cluster() -> Iterator[ClusterSet]:
    """Three primaries without replicas, which serve the slots they have when one fails."""
    find_server_or_skip()
    with ClusterSet(3, config={"cluster-require-full-coverage": "no"}) as cluster:
        yield cluster


def groups_by_server(cluster: ClusterSet, prefix: str) -> dict[RedisServer, str]:
    """Return the name of a group for each primary."""
    keys = Keyspace(prefix)
    names = [f"room-{n}" for n in range(100)]
    found = {cluster.owner(keys.group(name).decode()): name for name in names}
    assert len(found) == 3
    return found


async def member_everywhere(
    layer: Any, cluster: ClusterSet, prefix: str
) -> tuple[dict[RedisServer, str], str]:
    """Return the name of a group for each primary, and a channel that is in all of them."""
    by_server = groups_by_server(cluster, prefix)
    channel = await member(layer, *by_server.values())
    await settled(layer)
    return by_server, channel


async def test_memberships_are_restored_on_one_primary_of_a_cluster(
    make_layer: Callable[..., Any], bare_cluster: ClusterSet, prefix: str, often: None
) -> None:
    """It comes back empty, or is flushed while connections stand; the others are left alone."""
    layer = make_layer("core", hosts=[bare_cluster.host_entry()])
    by_server, channel = await member_everywhere(layer, bare_cluster, prefix)
    (server, group), (other, untouched), _ = by_server.items()
    other.command("DEL", Keyspace(prefix).group(untouched))
    waiter = waiting(layer, channel)
    await comes_back_empty(server)
    await asyncio.to_thread(bare_cluster.wait_until_ok)
    await wait_for(lambda: members(server, prefix, group))
    await settled(layer)
    server.command("FLUSHALL")
    await wait_for(lambda: members(server, prefix, group))
    assert members(other, prefix, untouched) == {}
    waiter.cancel()


async def test_memberships_are_restored_on_a_primary_that_lost_the_slot_of_its_lease(
    make_layer: Callable[..., Any], bare_cluster: ClusterSet, prefix: str, often: None
) -> None:
    """Slots move, with groups and leases in them; then one primary after the other is flushed."""
    layer = make_layer("core", hosts=[bare_cluster.host_entry()])
    by_server, channel = await member_everywhere(layer, bare_cluster, prefix)
    (_, moved), (target, _), _ = by_server.items()
    (keeper,) = layer._keepers._all
    slots = {slot_of(Keyspace(prefix).group(moved))}
    slots |= {slot_of(lease.key) for lease in keeper.memberships._leases.values()}
    for slot in (one for one in slots if bare_cluster.owner_of(one) is not target):
        await asyncio.to_thread(bare_cluster.move_slot, slot, target)
    waiter = waiting(layer, channel)
    await wait_for(lambda: members(target, prefix, moved))
    for server in bare_cluster.primaries:
        here = [name for name in by_server.values() if owns(bare_cluster, server, prefix, name)]
        await settled(layer)
        server.command("FLUSHALL")
        await wait_for(lambda: all(members(server, prefix, name) for name in here))  # noqa: B023 (awaited here)
    waiter.cancel()


def owns(cluster: ClusterSet, server: RedisServer, prefix: str, group: str) -> bool:
    """Tell whether a server has a group."""
    return cluster.owner(Keyspace(prefix).group(group).decode()) is server


@pytest.mark.usefixtures("often")
async def test_a_prefix_in_braces_needs_one_lease(
    make_layer: Callable[..., Any], bare_cluster: ClusterSet, prefix: str
) -> None:
    """All keys of such a layer are in one slot of a cluster."""
    layer = make_layer("core", hosts=[bare_cluster.host_entry()], prefix=f"{{{prefix}}}")
    await member(layer, "one", "two", "three")
    await settled(layer)
    (keeper,) = layer._keepers._all
    assert [lease.key for lease in keeper.memberships._leases.values()] == [f"{{{prefix}}}:live:0"]
