"""Every form an entry of ``hosts`` may have, on real servers: plain, TLS, Unix, Sentinel, mixed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis.asyncio

from channels_redis.exceptions import ConfigurationError
from channels_redis.testing.servers import RedisServer
from tests.contract.steps import works
from tests.helpers import is_older, receive

PASSWORD = "p@ss/word:1"
PERCENT_ENCODED = "p%40ss%2Fword%3A1"
SAY = {"type": "x"}


async def written_to_database(server: Any, number: int, prefix: str, layer: Any) -> bool:
    """Whether a queue of the layer lies in this database."""
    await layer.send("waiting", SAY)
    client = redis.asyncio.Redis(host=server.host, port=server.port, db=number)
    found = bool(await client.exists(f"{prefix}waiting"))
    await client.aclose()
    return found


PLAIN_FORMS: dict[str, Callable[[Any], Any]] = {
    "URL": lambda server: f"redis://{server.host}:{server.port}",
    "URL with database": lambda server: f"redis://{server.host}:{server.port}/0",
    "valkey URL": lambda server: f"valkey://{server.host}:{server.port}",
    "tuple": lambda server: (server.host, server.port),
    "list": lambda server: [server.host, server.port],
    "dict with address": lambda server: {"address": f"redis://{server.host}:{server.port}"},
    "dict with valkey address": lambda server: {"address": f"valkey://{server.host}:{server.port}"},
    "dict of keywords": lambda server: {"host": server.host, "port": server.port},
    "address and keywords": lambda server: {
        "address": f"redis://{server.host}:{server.port}",
        "client_name": "channels",
        "socket_keepalive": True,
    },
    "time-outs and health checks": lambda server: {
        "host": server.host,
        "port": server.port,
        "socket_timeout": 5,
        "socket_connect_timeout": 5,
        "health_check_interval": 1,
        "retry_on_timeout": True,
    },
    "RESP3": lambda server: {"host": server.host, "port": server.port, "protocol": 3},
    "pool size and retries": lambda server: {
        "address": f"redis://{server.host}:{server.port}?health_check_interval=2",
        "max_connections": 50,
        "protocol": 2,
    },
}


@pytest.mark.parametrize("form", PLAIN_FORMS)
async def test_a_plain_server_is_reached(
    kind: str, make_layer: Any, server: Any, form: str
) -> None:
    """URL, pair and dict, with any keyword of redis-py's connections."""
    if form == "RESP3" and is_older(server, (6,)):
        pytest.skip("RESP3 came with Redis 6.0")
    entry = PLAIN_FORMS[form](server)
    before = copy.deepcopy(entry)
    await works(make_layer(kind, hosts=[entry]))
    assert entry == before


@pytest.mark.parametrize(
    "entry",
    [
        lambda server: f"redis://{server.host}:{server.port}/3",
        lambda server: f"redis://{server.host}:{server.port}?db=3",
        lambda server: {"address": f"redis://{server.host}:{server.port}/3"},
        lambda server: {"address": f"redis://{server.host}:{server.port}", "db": 3},
        lambda server: {"host": server.host, "port": server.port, "db": 3},
    ],
)
async def test_the_database_is_obeyed(
    kind: str, make_layer: Any, server: Any, prefix: str, entry: Any
) -> None:
    """Queues lie in the database that the entry names, and in no other."""
    layer = make_layer(kind, hosts=[entry(server)])
    await works(layer)
    assert await written_to_database(server, 3, prefix, layer)
    assert not await written_to_database(server, 0, prefix, layer)


@pytest.fixture(scope="module")
def guarded_server() -> Iterator[RedisServer]:
    """A server that asks for a password."""
    with RedisServer(config={"requirepass": PASSWORD}) as server:
        yield server


class Provider(redis.CredentialProvider):
    """Credentials that are asked for at each connection."""

    def get_credentials(self) -> tuple[str, str]:
        return "default", PASSWORD

    async def get_credentials_async(self) -> tuple[str, str]:
        return self.get_credentials()


PASSWORD_FORMS: dict[str, Callable[[Any], Any]] = {
    "URL": lambda server: f"redis://:{PERCENT_ENCODED}@{server.host}:{server.port}/0",
    "URL with user": lambda server: (
        f"redis://default:{PERCENT_ENCODED}@{server.host}:{server.port}"
    ),
    "address and password": lambda server: {
        "address": f"redis://{server.host}:{server.port}",
        "password": PASSWORD,
    },
    "keywords": lambda server: {
        "host": server.host,
        "port": server.port,
        "username": "default",
        "password": PASSWORD,
    },
    "credential provider": lambda server: {
        "host": server.host,
        "port": server.port,
        "credential_provider": Provider(),
    },
    "address and credential provider": lambda server: {
        "address": f"redis://{server.host}:{server.port}",
        "credential_provider": Provider(),
    },
}


@pytest.mark.parametrize("form", PASSWORD_FORMS)
async def test_a_password_is_given(
    kind: str, make_layer: Any, guarded_server: RedisServer, form: str
) -> None:
    """In the URL, as keywords, or from a provider."""
    await works(make_layer(kind, hosts=[PASSWORD_FORMS[form](guarded_server)]))


TLS_FORMS: dict[str, Callable[[RedisServer], Any]] = {
    "address, unverified": lambda server: {"address": server.tls_url, "ssl_cert_reqs": None},
    "valkeys address": lambda server: {
        "address": server.tls_url.replace("rediss", "valkeys"),
        "ssl_cert_reqs": None,
    },
    "URL, unverified": lambda server: f"{server.tls_url}?ssl_cert_reqs=none",
    "ssl=True": lambda server: {
        "host": server.host,
        "port": server.tls_port,
        "ssl": True,
        "ssl_cert_reqs": None,
    },
    "ssl_ keywords alone": lambda server: {
        "host": server.host,
        "port": server.tls_port,
        "ssl_cert_reqs": "none",
    },
    "verified by its own certificate": lambda server: {
        "address": server.tls_url,
        "ssl_ca_certs": certificate_of(server),
        "ssl_check_hostname": False,
    },
    "connection class": lambda server: {
        "host": server.host,
        "port": server.tls_port,
        "connection_class": redis.asyncio.SSLConnection,
        "ssl_cert_reqs": "none",
    },
}


def certificate_of(server: RedisServer) -> str:
    assert server.certificate is not None
    return server.certificate.path


@pytest.mark.parametrize("form", TLS_FORMS)
async def test_a_tls_server_is_reached(
    kind: str, make_layer: Any, tls_server: RedisServer, form: str
) -> None:
    """Self-signed with verification off, verified by its own certificate, by URL or keywords."""
    await works(make_layer(kind, hosts=[TLS_FORMS[form](tls_server)]))


async def test_a_certificate_that_cannot_be_verified_is_a_configuration_error(
    kind: str, make_layer: Any, tls_server: RedisServer
) -> None:
    """Verification is on unless it is turned off, and the error says it is about TLS."""
    layer = make_layer(kind, hosts=[tls_server.tls_url], connect_wait_s=2)
    with pytest.raises(ConfigurationError, match="(?i)certificate"):
        await layer.send("tasks", SAY)


UNIX_FORMS: dict[str, Callable[[RedisServer], Any]] = {
    "URL": lambda server: server.unix_url,
    "dict with address": lambda server: {"address": server.unix_url},
    "address and keyword": lambda server: {"address": server.unix_url, "socket_timeout": 5},
    "path": lambda server: {"path": str(server.unix_path)},
    "unix_socket_path": lambda server: {"unix_socket_path": str(server.unix_path)},
    "path and database": lambda server: {"path": str(server.unix_path), "db": 1},
}


@pytest.mark.parametrize("form", UNIX_FORMS)
async def test_a_unix_socket_is_reached(
    kind: str, make_layer: Any, unix_server: RedisServer, form: str
) -> None:
    """By URL, ``path`` or ``unix_socket_path``."""
    await works(make_layer(kind, hosts=[UNIX_FORMS[form](unix_server)]))


async def test_a_sentinel_primary_is_reached(kind: str, make_layer: Any, sentinel_set: Any) -> None:
    """The Sentinels name the primary, with keywords for them and for it."""
    entry = {
        **sentinel_set.host_entry(),
        "sentinel_kwargs": {"socket_timeout": 2},
        "client_name": "channels",
    }
    before = copy.deepcopy(entry)
    await works(make_layer(kind, hosts=[entry]))
    assert entry == before


async def test_a_sentinel_entry_obeys_its_database(
    kind: str, make_layer: Any, sentinel_set: Any, prefix: str
) -> None:
    """``db`` is for the primary."""
    layer = make_layer(kind, hosts=[{**sentinel_set.host_entry(), "db": 2}])
    await works(layer)
    assert await written_to_database(sentinel_set.primary, 2, prefix, layer)
    assert not await written_to_database(sentinel_set.primary, 0, prefix, layer)


async def test_a_sentinel_that_is_down_is_passed_over(
    kind: str, make_layer: Any, sentinel_set: Any
) -> None:
    """The first of the list does not answer: the next one does."""
    entry = sentinel_set.host_entry()
    with RedisServer() as gone:
        dead = (gone.host, gone.port)
    await works(make_layer(kind, hosts=[{**entry, "sentinels": [dead, *entry["sentinels"]]}]))


async def test_all_forms_may_be_mixed_in_one_ring(
    kind: str,
    make_layer: Any,
    server: Any,
    tls_server: RedisServer,
    unix_server: RedisServer,
    sentinel_set: Any,
) -> None:
    """Plain, TLS, Unix and Sentinel shards side by side: all are used, nothing is lost."""
    hosts = [
        (server.host, server.port),
        {"address": tls_server.tls_url, "ssl_cert_reqs": None},
        {"path": str(unix_server.unix_path)},
        sentinel_set.host_entry(),
    ]
    layer, other = make_layer(kind, hosts=hosts), make_layer(kind, hosts=hosts)
    await works(layer)
    for number in range(16):
        channel = await layer.new_channel()
        await layer.group_add(f"room{number}", channel)
        await other.send(channel, SAY)
        await other.group_send(f"room{number}", {"type": "group"})
        got = [await receive(layer, channel) for _ in range(2)]
        assert sorted(message["type"] for message in got) == ["group", "x"]
        await other.send("tasks", {"number": number})
    numbers = [(await receive(layer, "tasks"))["number"] for _ in range(16)]
    assert sorted(numbers) == list(range(16))
