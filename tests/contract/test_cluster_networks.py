"""How the servers of a cluster are reached: TLS, users, IPv6, host names, NAT."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from channels_redis._format.keyspace import Keyspace, non_local_name
from channels_redis._format.slots import slot_of
from channels_redis.exceptions import ConfigurationError, ConnectionLost
from channels_redis.testing._binaries import server_version
from channels_redis.testing._certificates import Certificate, make_certificate
from channels_redis.testing.servers import ClusterSet, RedisServer, wait_until
from tests.conftest import find_server_or_skip
from tests.contract.steps import works
from tests.helpers import is_older, receive, until_connected, wait_for

PASSWORD = "s3cret"
SAY = {"type": "test"}

#: So long several handshakes of TLS may take on a busy machine.
HANDSHAKES_S = 30


async def works_everywhere(layer: Any, other: Any) -> None:
    """So many channels and groups that every server has some."""
    await works(layer)
    for number in range(12):
        channel = await layer.new_channel()
        await layer.group_add(f"group{number}", channel)
        await other.send(channel, SAY)
        await other.group_send(f"group{number}", SAY)
        assert [await receive(layer, channel) for _ in range(2)] == [SAY, SAY]


def local_ends(servers: list[RedisServer], name: str) -> set[str]:
    """Return the servers' ends of the connections of a name, as ``address:port``."""
    found = set()
    for server in servers:
        for line in server.command("CLIENT", "LIST").decode().splitlines():
            if f" name={name} " in line:
                ends = re.search(r" laddr=(\S+) ", line)
                found.add(ends[1] if ends else "unknown")
    return found


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for all servers, signed by itself."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def tls_cluster(certificate: Certificate) -> Iterator[ClusterSet]:
    """A cluster whose servers speak TLS with each other too."""
    config = {
        "tls-cluster": "yes",
        "tls-replication": "yes",
        "tls-cert-file": certificate.path,
        "tls-key-file": certificate.key_path,
        "tls-ca-cert-file": certificate.path,
    }
    with ClusterSet(3, tls=True, binary=find_server_or_skip(tls=True), config=config) as cluster:
        yield cluster


TLS_FORMS: dict[str, Callable[[RedisServer, str, str], dict[str, Any]]] = {
    "rediss URL": lambda server, user, path: {
        "address": f"rediss://{user}:{PASSWORD}@{server.host}:{server.tls_port}",
        "ssl_ca_certs": path,
    },
    "valkeys URL, unverified": lambda server, user, path: {
        "address": f"valkeys://{user}:{PASSWORD}@localhost:{server.tls_port}",
        "ssl_cert_reqs": None,
    },
    "start-up nodes": lambda server, user, path: {
        "startup_nodes": [("127.0.0.1", 1), (server.host, server.tls_port)],
        "ssl": True,
        "ssl_ca_certs": path,
        "username": user,
        "password": PASSWORD,
    },
}


@pytest.fixture
def tls_user(tls_cluster: ClusterSet, prefix: str) -> Iterator[str]:
    """A user of the cluster with a password."""
    for server in tls_cluster.servers:
        words = ["on", f">{PASSWORD}", f"~{prefix}*", f"&{prefix}*", "+@all"]
        server.command("ACL", "SETUSER", prefix, *words)
    yield prefix
    for server in tls_cluster.servers:
        server.command("ACL", "DELUSER", prefix)


@pytest.mark.parametrize("form", TLS_FORMS)
async def test_a_cluster_with_tls_is_reached_by_a_user(
    make_layer: Callable[..., Any],
    kind: str,
    tls_cluster: ClusterSet,
    tls_user: str,
    certificate: Certificate,
    form: str,
) -> None:
    """The servers that the slots lead to get the same TLS, user and password as the first."""
    entry = TLS_FORMS[form](tls_cluster.servers[0], tls_user, certificate.path)
    hosts = [{"cluster": True, "client_name": tls_user, **entry}]
    layer, other = (make_layer(kind, hosts=hosts, connect_wait_s=HANDSHAKES_S) for _ in range(2))
    await works_everywhere(layer, other)
    if not is_older(tls_cluster.servers[0], (6, 2)):
        ends = local_ends(tls_cluster.servers, tls_user)
        assert ends == {f"127.0.0.1:{server.tls_port}" for server in tls_cluster.servers}


async def test_a_certificate_of_a_cluster_that_cannot_be_verified_is_a_configuration_error(
    make_layer: Callable[..., Any], kind: str, tls_cluster: ClusterSet
) -> None:
    """As for a single server."""
    server = tls_cluster.servers[0]
    entry = {"cluster": True, "address": f"rediss://{server.host}:{server.tls_port}"}
    layer = make_layer(kind, hosts=[entry], connect_wait_s=2)
    with pytest.raises(ConfigurationError, match="(?i)certificate"):
        await works(layer)


# What servers call themselves


NAMED = "redis.internal.example"
CALLED: dict[str, tuple[str | None, dict[str, str]]] = {
    "IPv6": ("::1", {"bind": "127.0.0.1 ::1", "cluster-announce-ip": "::1"}),
    "hostname": (
        "localhost",
        {
            "cluster-announce-hostname": "localhost",
            "cluster-preferred-endpoint-type": "hostname",
        },
    ),
    "another network": (
        NAMED,
        {"cluster-announce-hostname": NAMED, "cluster-preferred-endpoint-type": "hostname"},
    ),
    "nothing": (None, {"cluster-preferred-endpoint-type": "unknown-endpoint"}),
}


@pytest.fixture(scope="module")
def called(request: pytest.FixtureRequest) -> Iterator[ClusterSet]:
    """A cluster whose servers call each other as the test's parameter says."""
    host, config = CALLED[request.param]
    binary = find_server_or_skip()
    if server_version(binary)[1] < (7,) and host != "::1":
        pytest.skip("host names came with Redis 7.0")
    with ClusterSet(3, binary=binary, config=config) as cluster:
        wait_until(lambda: hosts_named(cluster) == {host.encode() if host else None}, "known")
        yield cluster


def hosts_named(cluster: ClusterSet) -> set[Any]:
    """Return the hosts that the servers give for each other and themselves."""
    answers = [server.command("CLUSTER", "SLOTS") for server in cluster.servers]
    return {owner[0] for answer in answers for _, _, owner, *_ in answer}


async def moves_on(layer: Any, other: Any, kind: str, prefix: str, cluster: ClusterSet) -> None:
    """A name whose slot has moved is found where the server points to (MOVED)."""
    channel = await layer.new_channel()
    await other.send(channel, SAY)
    assert await receive(layer, channel) == SAY
    name = Keyspace(prefix).queue(non_local_name(channel)) if kind == "core" else channel
    target = next(one for one in cluster.primaries if one is not cluster.owner(name))
    waiting = asyncio.create_task(receive(layer, channel))
    await asyncio.to_thread(cluster.move_slot, slot_of(name), target)

    async def heard() -> bool:
        # On pubsub, what is published before the subscription stands there is missed.
        await other.send(channel, SAY)
        await asyncio.wait({waiting}, timeout=0.1)
        return waiting.done()

    await wait_for(heard)
    assert await waiting == SAY


@pytest.mark.parametrize("called", ["IPv6"], indirect=True)
async def test_servers_that_go_by_ipv6_addresses_are_reached(
    make_layer: Callable[..., Any], kind: str, prefix: str, called: ClusterSet
) -> None:
    """``cluster-announce-ip ::1``: in the map of the slots and in redirections."""
    server = called.servers[0]
    entry = {"cluster": True, "address": f"redis://[::1]:{server.port}", "client_name": prefix}
    layer, other = (make_layer(kind, hosts=[entry]) for _ in range(2))
    await works_everywhere(layer, other)
    await moves_on(layer, other, kind, prefix, called)
    if not is_older(server, (6, 2)):
        ends = local_ends(called.servers, prefix)
        assert ends == {f"[::1]:{server.port}" for server in called.servers}


@pytest.mark.parametrize("called", ["hostname", "nothing"], indirect=True)
async def test_servers_that_go_by_host_names_or_nothing_are_reached(
    make_layer: Callable[..., Any], kind: str, prefix: str, called: ClusterSet
) -> None:
    """``cluster-preferred-endpoint-type``: by their names, or where the first was asked."""
    entry = {"cluster": True, "address": called.servers[0].url}
    layer, other = (make_layer(kind, hosts=[entry]) for _ in range(2))
    await works_everywhere(layer, other)
    await moves_on(layer, other, kind, prefix, called)


@pytest.mark.parametrize("called", ["another network"], indirect=True)
async def test_host_names_of_another_network_are_translated(
    make_layer: Callable[..., Any], kind: str, prefix: str, called: ClusterSet
) -> None:
    """``address_remap`` gets what the servers go by, in the map and in redirections."""
    asked = []

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        asked.append(address)
        return "127.0.0.1", address[1]

    entry = {"cluster": True, "address": called.servers[0].url, "address_remap": remap}
    layer, other = (make_layer(kind, hosts=[entry]) for _ in range(2))
    await works_everywhere(layer, other)
    await moves_on(layer, other, kind, prefix, called)
    assert set(asked) == {(NAMED, server.port) for server in called.servers}


async def test_a_translation_that_fails_from_the_start_is_a_configuration_error(
    make_layer: Callable[..., Any], cluster_set: ClusterSet, kind: str
) -> None:
    """A dict that has not all servers is soon written; the error says which one is missing."""
    known: dict[tuple[str, int], tuple[str, int]] = {}
    entry = {**cluster_set.host_entry(), "address_remap": lambda address: known[address]}
    layer = make_layer(kind, hosts=[entry])
    for call in (layer.send("work", SAY), layer.group_send("room", SAY), layer.receive("work")):
        with pytest.raises(ConfigurationError, match=r"address_remap.*KeyError.*127\.0\.0\.1"):
            await asyncio.wait_for(call, 15)
    known.update((server.address, server.address) for server in cluster_set.servers)
    await layer.send("work", SAY)
    assert await receive(layer, "work") == SAY


async def test_a_translation_that_fails_later_ends_no_receive(
    make_layer: Callable[..., Any], cluster_set: ClusterSet, kind: str
) -> None:
    """It has worked before and may do so again, for example where it asks a name server."""
    working = True

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        if not working:
            raise OSError("no name server")
        return address

    entry = {**cluster_set.host_entry(), "address_remap": remap}
    layer = make_layer(kind, hosts=[entry], connect_wait_s=0.5)
    await until_connected(lambda: layer.send("work", SAY))
    assert await receive(layer, "work") == SAY
    channel = await until_connected(layer.new_channel)
    working = False

    async def elsewhere() -> None:
        """Another event loop has to learn the map."""
        for name in ("jobs", channel):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(layer.receive(name), 1)
        with pytest.raises(ConnectionLost):
            await layer.send("jobs", SAY)

    await asyncio.to_thread(asyncio.run, elsewhere())


async def test_a_translation_that_fails_is_told_to_whom_it_concerns(
    make_layer: Callable[..., Any], cluster_set: ClusterSet, prefix: str
) -> None:
    """``address_remap`` raises for where a command is to go, which would wait for ever."""
    broken = False

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        if broken:
            raise KeyError("no such server")
        return address

    entry = {**cluster_set.host_entry(), "address_remap": remap}
    layer = make_layer("core", hosts=[entry])
    await layer.send("work", SAY)
    cluster = layer._sessions.get().backend(0)
    slot = slot_of(Keyspace(prefix).queue("work"))
    right = cluster.owner(slot)
    # As after a move that nobody has told of.
    cluster.map.assign(slot, next(one for one in cluster.map.primaries if one != right))
    broken = True
    with pytest.raises(ConnectionLost, match="KeyError: 'no such server'.*was not executed"):
        await asyncio.wait_for(layer.send("work", SAY), 15)
    broken = False
    await layer.send("work", SAY)
    assert [await receive(layer, "work") for _ in range(2)] == [SAY, SAY]
