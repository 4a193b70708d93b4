"""A Redis Cluster whose servers fail and whose slots move, with messages all the time.

The layer that receives does nothing else: what it sends can't tell it of a change.  ``-s`` shows
the figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
import redis

from channels_redis._format.keyspace import Keyspace, non_local_name
from channels_redis._format.slots import slot_of
from channels_redis.exceptions import ConnectionLost
from channels_redis.testing.servers import ClusterSet, RedisServer, wait_until
from tests.conftest import find_server_or_skip
from tests.faults.test_ordeals import HASTY, Crowds, crowds, ordeal
from tests.helpers import is_older, receive, receive_until_marker, until_connected, wait_for
from tests.proxy import Proxy

#: Slots of topics that a test moves; it is the servers that take their time.
MOVED_SLOTS = 4


@pytest.fixture(scope="module")
def replicated() -> Iterator[ClusterSet]:
    """Three primaries and a replica of each; whoever breaks something repairs it."""
    find_server_or_skip()
    with ClusterSet(3, 1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def bare() -> Iterator[ClusterSet]:
    """Three primaries without replicas, which serve the slots they have when one fails."""
    find_server_or_skip()
    with ClusterSet(3, config={"cluster-require-full-coverage": "no"}) as cluster:
        yield cluster


def queue_of(prefix: str, channel: str) -> str:
    """Return the key by which messages to a channel of core go."""
    return Keyspace(prefix).queue(non_local_name(channel))


def names_of(prefix: str, gathered: Crowds) -> list[str]:
    """Return what messages go by: the one queue of core, and the topics of pubsub."""
    return [queue_of(prefix, gathered["core"].channels[0]), *gathered["pubsub"].channels]


@contextmanager
def without(cluster: ClusterSet, server: RedisServer) -> Iterator[None]:
    """Put things in order again after a server of a cluster was killed or frozen."""
    try:
        yield
    finally:
        if server.running:
            server.thaw()
        else:
            server.start()
        cluster.wait_until_ok()


# Replicas that take over


def fail_over(cluster: ClusterSet, key: str, how: str) -> None:
    """Have a replica take over for the primary of a key; return when it has."""
    if how == "planned":
        cluster.failover(key)
        return
    old = cluster.owner(key)
    replica = cluster.replicas_of(old)[0]
    if how == "killed":
        old.kill()
    else:
        old.freeze()
    wait_until(lambda: replica.info("replication")["role"] == "master", "promoted")


@pytest.mark.parametrize(
    ("how", "sharded"),
    [
        ("killed", None),
        pytest.param("killed", False, marks=pytest.mark.slow),
        pytest.param("planned", None, marks=pytest.mark.slow),
        pytest.param("frozen", None, marks=pytest.mark.slow),
    ],
)
async def test_a_failover(
    make_layer: Callable[..., Any],
    prefix: str,
    replicated: ClusterSet,
    how: str,
    sharded: bool | None,
) -> None:
    """Nobody raises, all hear again once a replica serves the slots, and nothing comes twice."""
    entry = {**replicated.host_entry(), "sharded_pubsub": sharded}
    async with crowds(make_layer, entry, command_timeout_s=1.5) as gathered:
        key = names_of(prefix, gathered)[0]
        with without(replicated, replicated.owner(key)):
            fault = partial(asyncio.to_thread, fail_over, replicated, key, how)
            await ordeal(gathered, fault, f"failover, {how}")


# Slots that move


def move(cluster: ClusterSet, names: list[str], target: RedisServer) -> None:
    """Move the slots of some names, one after the other."""
    for slot in sorted({slot_of(name) for name in names}):
        if cluster.owner_of(slot) is not target:
            cluster.move_slot(slot, target)


async def test_slots_that_move_to_a_new_primary_and_back(
    make_layer: Callable[..., Any], prefix: str, bare: ClusterSet
) -> None:
    """Nobody raises; core loses nothing, pubsub what no server had a subscriber for."""
    async with crowds(make_layer, bare.host_entry()) as gathered:
        names = names_of(prefix, gathered)[: 1 + MOVED_SLOTS]
        first, newcomer = bare.primaries[0], await asyncio.to_thread(bare.add_primary)
        targets = iter([newcomer, first])

        async def move_all() -> None:
            await asyncio.to_thread(move, bare, names, next(targets))

        await ordeal(gathered, move_all, "slots moved", rounds=2)
        await asyncio.to_thread(bare.remove, newcomer)
        assert gathered["core"].ledger.missing == []


@contextmanager
def on_its_way(cluster: ClusterSet, key: str) -> Iterator[None]:
    """Have the slot of a key under migration: what is in it stays, what is new goes elsewhere."""
    slot = slot_of(key)
    source = cluster.owner_of(slot)
    target = next(one for one in cluster.primaries if one is not source)
    cluster.begin_move(slot, target)
    yield
    cluster.move_keys(slot, source, target)
    cluster.end_move(slot, target)


async def test_a_slot_that_is_on_its_way(
    make_layer: Callable[..., Any], prefix: str, bare: ClusterSet
) -> None:
    """While a slot is under migration, messages go and come at both ends, in order (ASK)."""
    layer, sender = (make_layer("core", hosts=[bare.host_entry()]) for _ in range(2))
    channel = await layer.new_channel()
    await sender.send(channel, {"type": "test", "number": 0})

    with on_its_way(bare, queue_of(prefix, channel)):
        for number in range(1, 4):
            await sender.send(channel, {"type": "test", "number": number})
        assert [(await receive(layer, channel))["number"] for _ in range(4)] == [0, 1, 2, 3]
        # The key is gone now: what comes goes to the other server before the slot does.
        waiting = asyncio.create_task(receive(layer, channel))
        await sender.send(channel, {"type": "test", "number": 4})
        assert (await waiting)["number"] == 4
        await sender.send(channel, {"type": "test", "number": 5})
    assert (await receive(layer, channel))["number"] == 5
    assert await receive_until_marker(layer, channel, sender) == []


@pytest.mark.parametrize("count", [16, 32])
async def test_a_batch_that_empties_a_queue_on_its_way_is_not_lost(
    make_layer: Callable[..., Any], prefix: str, bare: ClusterSet, count: int
) -> None:
    """A script that takes the last message finds its key gone to another server."""
    layer, sender = (make_layer("core", hosts=[bare.host_entry()]) for _ in range(2))
    channel = await layer.new_channel()
    for number in range(count):
        await sender.send(channel, {"type": "test", "number": number})
    with on_its_way(bare, queue_of(prefix, channel)):
        for number in range(count):
            assert (await receive(layer, channel))["number"] == number
    assert await receive_until_marker(layer, channel, sender) == []


async def test_what_expires_on_its_way_holds_up_no_message(
    make_layer: Callable[..., Any], prefix: str, bare: ClusterSet
) -> None:
    """A script that drops the last old thing goes on at the server that the key is going to."""
    layer, sender = (make_layer("core", hosts=[bare.host_entry()]) for _ in range(2))
    channel = await layer.new_channel()
    queue, group = queue_of(prefix, channel), Keyspace(prefix).group("group").decode()
    for key in queue, group:
        bare.owner(key).command("ZADD", key, 1, "old")
    with on_its_way(bare, queue), on_its_way(bare, group):
        await sender.send(channel, {"type": "test.new"})
        assert (await receive(layer, channel))["type"] == "test.new"
        await sender.group_send("group", {"type": "test.nobody"})
        await layer.group_add("group", channel)
        await sender.group_send("group", {"type": "test.group"})
        assert (await receive(layer, channel))["type"] == "test.group"


# Primaries that nobody takes over for


async def channels_by_server(
    make: Callable[[], Any], cluster: ClusterSet, name_of: Callable[[str], str]
) -> dict[RedisServer, tuple[Any, str]]:
    """Return a layer and a channel of it whose messages go through each primary."""
    found: dict[RedisServer, tuple[Any, str]] = {}
    while len(found) < len(cluster.primaries):
        layer = make()
        channel = await until_connected(layer.new_channel)
        found.setdefault(cluster.owner(name_of(channel)), (layer, channel))
    return found


@pytest.fixture
def name_of(kind: str, prefix: str) -> Callable[[str], str]:
    """A function of a channel: what decides which server its messages go through."""
    return partial(queue_of, prefix) if kind == "core" else str


@pytest.fixture
def group_at(kind: str, prefix: str, bare: ClusterSet) -> Callable[[RedisServer], str]:
    """A function of a server: a group that it serves."""
    keys = Keyspace(prefix)

    def name(group: str) -> str:
        return keys.group(group).decode() if kind == "core" else keys.group_topic(group)

    groups = [f"group{number}" for number in range(200)]
    return lambda server: next(group for group in groups if bare.owner(name(group)) is server)


async def test_without_one_primary_the_others_go_on(
    make_layer: Callable[..., Any],
    kind: str,
    bare: ClusterSet,
    name_of: Callable[[str], str],
    group_at: Callable[[RedisServer], str],
) -> None:
    """Messages through the others come; a group message reaches whom it can, and then raises."""
    if kind == "pubsub" and is_older(bare.primaries[0], (7,)):
        pytest.skip("without sharded Pub/Sub, whoever is connected to the dead server hears late")
    make = partial(make_layer, kind, hosts=[bare.host_entry()], connect_wait_s=0.5)
    sender, receivers = make(), await channels_by_server(make, bare, name_of)
    victim, *others = receivers
    groups = group_at(victim), group_at(others[0])
    for layer, channel in receivers.values():
        for group in groups:
            await until_connected(partial(layer.group_add, group, channel))
    lost_layer, lost_channel = receivers[victim]
    waiting = asyncio.create_task(receive(lost_layer, lost_channel, timeout_s=60))

    with without(bare, victim):
        victim.kill()
        for server in others:
            layer, channel = receivers[server]
            await until_connected(partial(sender.send, channel, {"type": "test.direct"}))
            assert (await receive(layer, channel))["type"] == "test.direct"
        with pytest.raises(ConnectionLost):
            await sender.send(lost_channel, {"type": "test.lost"})
        with pytest.raises(ConnectionLost):
            await sender.group_send(groups[0], {"type": "test.lost"})
        await reach_the_living(kind, sender, groups[1], [receivers[one] for one in others])
        if kind == "core":
            assert not waiting.done()

    await wait_for(partial(sends, sender, lost_channel), timeout_s=30)
    message = await waiting
    assert message["type"] == ("test.back" if kind == "core" else "test.group")


async def test_the_living_are_asked_about_the_dead_over_connections_that_stay(
    make_layer: Callable[..., Any], bare: ClusterSet
) -> None:
    """A thousand processes that miss a server do not storm the others, one dial per question,
    even if they only receive.
    """
    layer = make_layer("pubsub", hosts=[bare.host_entry()])
    victim, *others = await channels_by_server(lambda: layer, bare, str)
    with ExitStack() as stack:
        stack.enter_context(without(bare, victim))
        clients = [stack.enter_context(redis.Redis(*one.address)) for one in others]

        def counted(section: str, name: str) -> int:
            found = [client.info(section).get(name, 0) for client in clients]
            return sum(one["calls"] if isinstance(one, dict) else one for one in found)

        questions = partial(counted, "commandstats", "cmdstat_cluster|slots")
        if not questions():
            pytest.skip("this server does not count subcommands")
        victim.kill()
        begun = questions()
        await wait_for(lambda: questions() > begun + 6, timeout_s=60)
        before, begun = counted("stats", "total_connections_received"), questions()
        await wait_for(lambda: questions() > begun + 6, timeout_s=60)
        assert counted("stats", "total_connections_received") == before


async def reach_the_living(
    kind: str, sender: Any, group: str, receivers: list[tuple[Any, str]]
) -> None:
    """Send to a group that has a member behind the dead server, which core can't reach."""
    if kind == "core":
        with pytest.raises(ConnectionLost):
            await sender.group_send(group, {"type": "test.group"})
    else:
        await sender.group_send(group, {"type": "test.group"})
    for layer, channel in receivers:
        assert (await receive(layer, channel))["type"] == "test.group"


async def sends(layer: Any, channel: str) -> bool:
    """Tell whether a message can be sent."""
    try:
        await layer.send(channel, {"type": "test.back"})
    except redis.exceptions.ConnectionError:
        return False
    return True


@pytest.fixture
def all_or_nothing(bare: ClusterSet) -> Iterator[ClusterSet]:
    """A cluster that serves nothing while a slot is not served, as is the default."""
    require_full_coverage(bare, "yes")
    yield bare
    require_full_coverage(bare, "no")


def require_full_coverage(cluster: ClusterSet, value: str) -> None:
    for server in cluster.living:
        server.command("CONFIG", "SET", "cluster-require-full-coverage", value)


@pytest.mark.slow
async def test_a_cluster_that_is_down_for_a_while(
    make_layer: Callable[..., Any], prefix: str, all_or_nothing: ClusterSet
) -> None:
    """Senders raise in time, receivers wait, and hear again when it is up (CLUSTERDOWN).

    Sharded Pub/Sub goes on meanwhile, unless ``cluster-allow-pubsubshard-when-down`` is no.
    """
    cluster = all_or_nothing
    make = partial(make_layer, "core", hosts=[cluster.host_entry()], connect_wait_s=0.5)
    sender, receivers = make(), await channels_by_server(make, cluster, partial(queue_of, prefix))
    waiting = [
        (channel, asyncio.create_task(receive(layer, channel, timeout_s=60)))
        for layer, channel in receivers.values()
    ]
    victim, other, _ = receivers
    with without(cluster, victim):
        victim.kill()
        await wait_for(
            lambda: b"cluster_state:fail" in other.command("CLUSTER", "INFO"), timeout_s=30
        )
        with pytest.raises(ConnectionLost):
            await sender.send(receivers[other][1], {"type": "test.lost"})
        assert not any(task.done() for _, task in waiting)

    for channel, task in waiting:
        await wait_for(partial(heard, sender, channel, task), timeout_s=30)
        assert (await task)["type"] == "test.back"


async def heard(sender: Any, channel: str, waiting: asyncio.Task[Any]) -> bool:
    """Send a message, and tell whether it, or one before it, has come."""
    await sends(sender, channel)
    await asyncio.wait({waiting}, timeout=0.2)
    return waiting.done()


# Addresses


async def test_addresses_that_are_translated_and_all_change(
    make_layer: Callable[..., Any], kind: str, bare: ClusterSet, name_of: Callable[[str], str]
) -> None:
    """Behind NAT, ``address_remap`` tells where the servers are; it is asked again and again."""
    translated: dict[tuple[str, int], tuple[str, int]] = {}
    entry = {**bare.host_entry(), "address_remap": lambda address: translated[address]}

    with ExitStack() as stack:

        def translate() -> list[Proxy]:
            proxies = [stack.enter_context(Proxy(*one.address)) for one in bare.primaries]
            for server, proxy in zip(bare.primaries, proxies, strict=True):
                translated[server.address] = proxy.host, proxy.port
            return proxies

        before = translate()
        make = partial(make_layer, kind, hosts=[entry], **HASTY)
        receivers = await channels_by_server(make, bare, name_of)
        sender = make()
        for layer, channel in receivers.values():
            await sender.send(channel, {"type": "test.before"})
            assert (await receive(layer, channel))["type"] == "test.before"
        assert all(proxy.links for proxy in before)

        waiting = [
            (channel, asyncio.create_task(receive(layer, channel, timeout_s=60)))
            for layer, channel in receivers.values()
        ]
        after = translate()
        for proxy in before:
            proxy.refuse()
        for channel, task in waiting:
            await wait_for(partial(heard, sender, channel, task), timeout_s=30)
            assert (await task)["type"] == "test.back"
        assert all(proxy.links for proxy in after)
