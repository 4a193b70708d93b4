"""Entries of ``hosts`` that stand for a cluster: how it is found, and what is wrong without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from channels_redis.exceptions import ConfigurationError
from channels_redis.testing.servers import ClusterSet, RedisServer
from tests.conftest import find_server_or_skip
from tests.contract.steps import works
from tests.helpers import is_older, receive, wait_for

PASSWORD = "s3cret"


@pytest.fixture(scope="module")
def guarded() -> Iterator[ClusterSet]:
    """Three primaries that ask for a password."""
    find_server_or_skip()
    with ClusterSet(3, config={"requirepass": PASSWORD}) as cluster:
        yield cluster


class Provider(redis.CredentialProvider):
    """Credentials that are asked for at each connection."""

    def get_credentials(self) -> tuple[str, str]:
        return "default", PASSWORD

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.get_credentials()


FORMS: dict[str, Callable[[RedisServer], dict[str, Any]]] = {
    "URL": lambda server: {"address": f"redis://:{PASSWORD}@{server.host}:{server.port}"},
    "valkey URL": lambda server: {
        "address": f"valkey://default:{PASSWORD}@{server.host}:{server.port}"
    },
    "pair": lambda server: {"address": (server.host, server.port), "password": PASSWORD},
    "host": lambda server: {"host": server.host, "port": server.port, "password": PASSWORD},
    "servers": lambda server: (
        {"startup_nodes": [("127.0.0.1", 1), server.address]}
        | {"username": "default", "password": PASSWORD}
    ),
    "provider": lambda server: {"address": server.address, "credential_provider": Provider()},
}


@pytest.mark.parametrize("form", FORMS)
async def test_a_cluster_is_found_by_any_of_its_servers(
    make_layer: Callable[..., Any], kind: str, guarded: ClusterSet, form: str
) -> None:
    """One that answers is enough; all keywords hold for all servers, Pub/Sub included."""
    entry = {"cluster": True, **FORMS[form](guarded.primaries[0])}
    layer, other = (make_layer(kind, hosts=[entry]) for _ in range(2))
    await works(layer)
    # So many that all servers have some.
    for number in range(12):
        channel = await layer.new_channel()
        await layer.group_add(f"group{number}", channel)
        await other.send(channel, {"type": "direct"})
        await other.group_send(f"group{number}", {"type": "group"})
        got = [await receive(layer, channel) for _ in range(2)]
        assert sorted(message["type"] for message in got) == ["direct", "group"]


async def test_a_cluster_beside_a_single_server(
    make_layer: Callable[..., Any], kind: str, guarded: ClusterSet, redis_url: str
) -> None:
    """They make one ring like any others."""
    hosts = [{**guarded.host_entry(), "password": PASSWORD}, redis_url]
    layer = make_layer(kind, hosts=hosts)
    await works(layer)
    for number in range(12):
        await layer.send("tasks", {"number": number})
    numbers = [(await receive(layer, "tasks"))["number"] for _ in range(12)]
    assert sorted(numbers) == list(range(12))


@pytest.mark.parametrize("sharded", [True, False])
async def test_either_kind_of_pubsub_can_be_asked_for(
    make_layer: Callable[..., Any], guarded: ClusterSet, sharded: bool
) -> None:
    """``sharded_pubsub`` overrules what the servers can do."""
    if sharded and is_older(guarded.primaries[0], (7,)):
        pytest.skip("sharded Pub/Sub came with Redis 7.0")
    entry = {**guarded.host_entry(), "password": PASSWORD, "sharded_pubsub": sharded}
    layer = make_layer("pubsub", hosts=[entry])
    channel = await layer.new_channel()
    subscribed: list[bytes] = []
    for server in guarded.primaries:
        subscribed += server.command("PUBSUB", "SHARDCHANNELS" if sharded else "CHANNELS", channel)
    assert subscribed == [channel.encode()]
    await layer.send(channel, {"type": "test"})
    assert (await receive(layer, channel))["type"] == "test"


async def test_what_two_servers_pass_on_is_received_once(
    make_layer: Callable[..., Any], guarded: ClusterSet
) -> None:
    """While a replica takes over, a subscriber may hear both of them; equal messages that were
    sent one by one are all received.
    """
    if is_older(guarded.primaries[0], (7,)):
        pytest.skip("sharded Pub/Sub came with Redis 7.0")
    entry = {**guarded.host_entry(), "password": PASSWORD}
    layer = make_layer("pubsub", hosts=[entry])
    channel = await layer.new_channel()
    server = guarded.owner(channel)
    with redis.Redis(host=server.host, port=server.port, password=PASSWORD) as client:
        listening = client.pubsub()
        listening.ssubscribe(channel)
        assert listening.get_message(timeout=5)["type"] == "ssubscribe"
        for _ in range(2):
            await layer.send(channel, {"type": "equal"})
        passed_on = [listening.get_message(timeout=5)["data"] for _ in range(2)]
        listening.close()
    for payload in passed_on:
        server.command("SPUBLISH", channel, payload)
    await layer.send(channel, {"type": "marker"})
    received = [(await receive(layer, channel))["type"] for _ in range(3)]
    assert received == ["equal", "equal", "marker"]


async def test_each_server_has_one_connection_for_commands(
    make_layer: Callable[..., Any], kind: str, guarded: ClusterSet, prefix: str
) -> None:
    """However many groups there are and however much is sent at once."""
    entry = {**guarded.host_entry(), "password": PASSWORD, "client_name": prefix}
    layer = make_layer(kind, hosts=[entry])
    sending = [layer.group_send(f"group{number}", {"type": "test"}) for number in range(200)]
    await asyncio.gather(*sending)

    def connections() -> list[int]:
        clients = [server.command("CLIENT", "LIST").decode() for server in guarded.primaries]
        return [listed.count(f"name={prefix} ") for listed in clients]

    # The one that the map was asked for on may just be ending.
    await wait_for(lambda: connections() == [1, 1, 1])


async def test_an_entry_for_one_server_of_a_cluster_is_told_the_right_one(
    make_layer: Callable[..., Any], kind: str, guarded: ClusterSet
) -> None:
    """At the first use that other servers are needed for, without the password."""
    server = guarded.primaries[0]
    address = f"redis://:{PASSWORD}@{server.host}:{server.port}"
    layer = make_layer(kind, hosts=[address])
    with pytest.raises(ConfigurationError) as caught:
        # Some of them are in slots of other servers.
        for number in range(30):
            await layer.send(f"work{number}", {"type": "test"})
    right = f'{{"cluster": True, "address": "redis://{server.host}:{server.port}"}}'
    assert right in str(caught.value)
    assert PASSWORD not in str(caught.value)


async def test_an_entry_for_a_cluster_needs_one(
    make_layer: Callable[..., Any], kind: str, redis_url: str
) -> None:
    """A server that is in no cluster is a clear error at the first use."""
    layer = make_layer(kind, hosts=[{"cluster": True, "address": redis_url}])
    with pytest.raises(ConfigurationError, match=r"does not belong to a cluster.*remove 'cluster'"):
        await works(layer)


@pytest.fixture
def user(guarded: ClusterSet, prefix: str) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A function that makes a user with some rights, and returns an entry for it."""
    if is_older(guarded.primaries[0], (6,)):
        pytest.skip("users came with Redis 6.0")

    def make(rights: str) -> dict[str, Any]:
        for server in guarded.primaries:
            words = ["reset", "on", f">{PASSWORD}", f"~{prefix}*", "resetchannels", f"&{prefix}*"]
            server.command("ACL", "SETUSER", prefix, *words, *rights.split())
        return {**guarded.host_entry(), "username": prefix, "password": PASSWORD}

    yield make
    for server in guarded.primaries:
        server.command("ACL", "DELUSER", prefix)


def documented_rights(begin: str) -> str:
    """Return the rights in a line of the documentation."""
    text = Path(__file__).parents[2].joinpath("docs", "configuration.rst").read_text("utf-8")
    line = next(line for line in text.splitlines() if line.strip().startswith(begin))
    return " ".join(word for word in line.split() if word.startswith("+"))


async def test_the_documented_rights_are_enough(
    make_layer: Callable[..., Any], kind: str, guarded: ClusterSet, user: Callable[..., Any]
) -> None:
    """Those for a single server, and those that a cluster needs besides."""
    if is_older(guarded.primaries[0], (7,)):
        pytest.skip("older servers do not know all of these commands")
    rights = documented_rights("ACL SETUSER app") + " " + documented_rights("+asking")
    layer = make_layer(kind, hosts=[user(rights)])
    await works(layer)
    await layer.flush()


async def test_without_the_right_to_ask_for_the_slots_nothing_works(
    make_layer: Callable[..., Any], kind: str, user: Callable[..., Any]
) -> None:
    """A clear error at the first use."""
    layer = make_layer(kind, hosts=[user("+@all -cluster")])
    with pytest.raises(ConfigurationError, match=r"(?i)refuses:.*cluster"):
        await works(layer)


async def test_a_fork_detaches_the_connections_of_a_custom_client(
    make_layer: Callable[..., Any], kind: str, guarded: ClusterSet
) -> None:
    """Those of ``connection()`` are inherited like all others, and silenced in a child."""
    layer = make_layer(kind, hosts=[{**guarded.host_entry(), "password": PASSWORD}])
    client = layer.connection(0)
    await client.ping(target_nodes=client.ALL_NODES)
    assert len(layer._sessions.get().scope.descriptors()) >= len(guarded.servers)


async def test_all_connections_of_the_users_own_client_are_known_and_closed(
    make_layer: Callable[..., Any], kind: str, guarded: ClusterSet, prefix: str
) -> None:
    """Also after redis-py has asked for the slots again, as it does after a lost connection."""
    entry = {**guarded.host_entry(), "password": PASSWORD, "client_name": prefix}
    layer = make_layer(kind, hosts=[entry])
    client = layer.connection(0)

    def connections() -> int:
        listed = [server.command("CLIENT", "LIST").decode() for server in guarded.servers]
        return sum(one.count(f"name={prefix} ") for one in listed)

    async def use() -> None:
        for number in range(30):
            assert await client.zcard(f"nothing{number}") == 0

    await use()
    await client.nodes_manager.initialize()
    await use()
    assert len(layer._sessions.get().scope.descriptors()) == connections()
    await layer.close()
    await wait_for(lambda: connections() == 0)
