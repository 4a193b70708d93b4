"""Host entries: the pools they make on every redis-py, what is refused, what is printed."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import redis
from redis.asyncio import Redis
from redis.asyncio.connection import (
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from channels_redis._config import pools
from channels_redis.exceptions import ConfigurationError
from channels_redis.testing.servers import RedisServer, SentinelSet
from channels_redis.utils import (
    _close_redis,
    _wrap_close,
    close_pool,
    create_pool,
    decode_hosts,
    describe_host,
    redact_hosts,
)
from tests.conftest import find_server_or_skip
from tests.helpers import wait_for

SENTINELS = {"sentinels": [("s1", 26379), ["s2", "26380"]], "master_name": "main"}
SECRET = "s3cret"


def pool_of(entry: Any) -> Any:
    return create_pool(decode_hosts([entry])[0])


def connection_of(entry: Any) -> Any:
    return pool_of(entry).make_connection()


def retries(connection: Any) -> int:
    count: int = connection.retry._retries  # only newer versions have a method for it
    return count


@pytest.mark.parametrize(
    ("entry", "connection_class", "attributes"),
    [
        ("redis://h", Connection, {"host": "h", "port": 6379, "db": 0}),
        (
            "redis://u:p%40@h:7/3",
            Connection,
            {"port": 7, "db": 3, "username": "u", "password": "p@"},
        ),
        ("redis://h?db=4&socket_timeout=2", Connection, {"db": 4, "socket_timeout": 2.0}),
        ("valkey://h:7/3", Connection, {"host": "h", "port": 7, "db": 3}),
        ("REDIS://h", Connection, {"host": "h"}),
        ("rediss://h:7", SSLConnection, {"host": "h", "port": 7}),
        ("valkeys://:p@h", SSLConnection, {"host": "h", "password": "p"}),
        ("unix:///run/r.sock?db=2", UnixDomainSocketConnection, {"path": "/run/r.sock", "db": 2}),
        (("h", 7), Connection, {"host": "h", "port": 7}),
        (["h", "7"], Connection, {"host": "h", "port": 7}),
        ({}, Connection, {"host": "localhost", "port": 6379}),
        ({"host": "h", "port": 7, "db": 2}, Connection, {"host": "h", "port": 7, "db": 2}),
        ({"address": "redis://h:7", "db": 2}, Connection, {"host": "h", "port": 7, "db": 2}),
        ({"address": "redis://h:7/5", "db": 2}, Connection, {"db": 5}),
        ({"address": "redis://h", "password": "p"}, Connection, {"password": "p"}),
        ({"address": "redis://h", "ssl_cert_reqs": None}, Connection, {"host": "h"}),
        ({"address": "valkey://h", "ssl_check_hostname": False}, Connection, {"host": "h"}),
        (
            {"address": "unix:///r", "ssl_cert_reqs": None},
            UnixDomainSocketConnection,
            {"path": "/r"},
        ),
        ({"address": "redis://h", "ssl": False, "ssl_ca_certs": "/no"}, Connection, {"host": "h"}),
        ({"address": "rediss://h", "ssl": True}, SSLConnection, {"host": "h"}),
        ({"address": "redis://h", "connection_class": SSLConnection}, SSLConnection, {"host": "h"}),
        ({"address": ("h", 7), "ssl": True}, SSLConnection, {"host": "h", "port": 7}),
        (" redis://h:7\n", Connection, {"host": "h", "port": 7}),
        ('"redis://h:7"', Connection, {"host": "h", "port": 7}),
        ({"address": "'redis://h:7' "}, Connection, {"host": "h", "port": 7}),
        ((" h", "7 "), Connection, {"host": "h", "port": 7}),
        ({"host": "h ", "port": " 7", "db": " 2"}, Connection, {"host": "h", "port": 7, "db": "2"}),
        (
            {"address": "rediss://h", "ssl_cert_reqs": None},
            SSLConnection,
            {"check_hostname": False},
        ),
        ({"host": "h", "ssl": True}, SSLConnection, {"cert_reqs": ssl.CERT_REQUIRED}),
        ({"host": "h", "ssl": False, "ssl_cert_reqs": None}, Connection, {"host": "h"}),
        ({"host": "h", "ssl_cert_reqs": "none"}, SSLConnection, {"cert_reqs": ssl.CERT_NONE}),
        ({"path": "/r.sock", "db": 2}, UnixDomainSocketConnection, {"path": "/r.sock", "db": 2}),
        ({"unix_socket_path": "/r.sock"}, UnixDomainSocketConnection, {"path": "/r.sock"}),
        ({**SENTINELS, "db": 3}, SentinelManagedConnection, {"db": 3}),
        (
            {**SENTINELS, "ssl": True},
            SentinelManagedSSLConnection,
            {"cert_reqs": ssl.CERT_REQUIRED},
        ),
        (
            {**SENTINELS, "ssl_cert_reqs": None},
            SentinelManagedSSLConnection,
            {"check_hostname": False},
        ),
    ],
    ids=str,
)
def test_every_form_makes_the_connection_it_stands_for(
    entry: Any, connection_class: type, attributes: dict[str, Any]
) -> None:
    """URL, pair and dict; TCP, TLS, Unix socket and Sentinel; Redis and Valkey."""
    connection = connection_of(entry)
    assert type(connection) is connection_class
    assert {name: getattr(connection, name) for name in attributes} == attributes


@pytest.mark.parametrize("requirement", [None, "none", ssl.CERT_NONE])
@pytest.mark.parametrize("more", [{}, {"ssl_check_hostname": True}])
def test_no_verification_means_no_host_names_either(requirement: Any, more: Any) -> None:
    """However it is written and whatever redis-py's default is, the TLS context can be made."""
    connection = connection_of({"host": "h", "ssl_cert_reqs": requirement, **more})
    context = connection.ssl_context.get()
    assert context.verify_mode is ssl.CERT_NONE
    assert context.check_hostname is False


@pytest.mark.parametrize("requirement", ["required", ssl.CERT_REQUIRED])
def test_verification_stays_on_where_it_is_asked_for(requirement: Any) -> None:
    """Words and constants alike, on every redis-py."""
    context = connection_of({"host": "h", "ssl_cert_reqs": requirement}).ssl_context.get()
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("entry", ["redis://h", ("h", 1), {"path": "/r.sock"}, SENTINELS], ids=str)
def test_what_the_user_left_open_has_the_same_safe_values_on_every_redis_py(entry: Any) -> None:
    """No read time-out, no repeated commands, no limit of connections, bytes, RESP2."""
    pool, connection = pool_of(entry), connection_of(entry)
    assert pool.max_connections >= 2**31
    assert (connection.socket_timeout, connection.socket_connect_timeout) == (None, 5)
    assert connection.protocol == 2
    assert connection.health_check_interval == 0
    assert retries(connection) == 0
    assert connection.encoder.decode_responses is False
    assert getattr(connection, "socket_keepalive", True) is True
    assert not notifies_of_maintenance(pool)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other names")
@pytest.mark.parametrize("entry", ["redis://h", "rediss://h", ("h", 1), SENTINELS], ids=str)
def test_idle_connections_are_kept_alive_alike_on_every_redis_py(entry: Any) -> None:
    """A probe after 30 s of silence, every 5 s; three that are not answered end it."""
    connection = connection_of(entry)
    assert connection.socket_keepalive is True
    assert connection.socket_keepalive_options == {
        socket.TCP_KEEPIDLE: 30,
        socket.TCP_KEEPINTVL: 5,
        socket.TCP_KEEPCNT: 3,
    }


@pytest.mark.parametrize("base", [{"host": "h"}, {"address": "redis://h"}, SENTINELS], ids=str)
def test_keepalive_as_the_user_sets_it_is_obeyed(base: dict[str, Any]) -> None:
    """Other times, the system's own, or none."""
    mine = {socket.SO_KEEPALIVE: 7}
    assert options_of({**base, "socket_keepalive_options": mine}) == mine
    assert not options_of({**base, "socket_keepalive_options": None})
    assert not connection_of({**base, "socket_keepalive": False}).socket_keepalive


def options_of(entry: Any) -> Any:
    return connection_of(entry).socket_keepalive_options


def test_where_the_system_has_no_options_keepalive_is_only_switched_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some systems lack these constants, and macOS calls the first by another name."""
    for name in pools._KEEPALIVE:
        monkeypatch.delattr(socket, name, raising=False)
    assert not options_of("redis://h")
    monkeypatch.setattr(socket, "TCP_KEEPALIVE", 16, raising=False)
    assert options_of("redis://h") == {16: 30}


def notifies_of_maintenance(pool: ConnectionPool) -> bool:
    config = pool.connection_kwargs.get("maint_notifications_config")
    handler = getattr(pool, "_maint_notifications_pool_handler", None)
    return handler is not None or bool(config and config.enabled)


def test_maintenance_notifications_stay_off_under_resp3_too() -> None:
    """There redis-py 8 turns them on by itself, and then misses connections the server closed."""
    assert not notifies_of_maintenance(pool_of({"host": "h", "protocol": 3}))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("socket_timeout", 3),
        ("socket_connect_timeout", 7),
        ("health_check_interval", 30),
        ("socket_keepalive", False),
        ("protocol", 3),
        ("client_name", "me"),
        ("username", "u"),
        ("password", "p"),
        ("retry_on_timeout", True),
    ],
)
@pytest.mark.parametrize("base", [{"host": "h"}, {"address": "redis://h"}, SENTINELS], ids=str)
def test_what_the_user_sets_is_obeyed(base: dict[str, Any], keyword: str, value: Any) -> None:
    """The safe values never win over a keyword."""
    assert getattr(connection_of({**base, keyword: value}), keyword) == value


def test_the_users_retries_are_obeyed() -> None:
    """Who asks for retries gets them."""
    entry = {"host": "h", "retry": Retry(NoBackoff(), 4)}
    assert retries(connection_of(entry)) == 4
    assert retries(connection_of({"host": "h", "retry_on_timeout": True})) == 1


def test_a_limit_of_connections_starves_no_reader() -> None:
    """The layer keeps few connections, and needs each of them."""
    assert pool_of({"host": "h", "max_connections": 2}).max_connections >= 2**31


class OwnConnection(Connection):
    pass


class OwnConnectionWithKeyword(Connection):
    def __init__(self, *, zone: str, **options: Any) -> None:
        super().__init__(**options)
        self.zone = zone


class OwnCredentials(CredentialProvider):
    def get_credentials(self) -> tuple[str]:
        return (SECRET,)


@pytest.mark.parametrize("base", [{"host": "h"}, {"address": "redis://h"}])
def test_a_connection_class_of_the_users_is_taken_with_its_own_keywords(base: Any) -> None:
    """What such a class accepts is its own affair."""
    connection = connection_of({**base, "connection_class": OwnConnectionWithKeyword, "zone": "z"})
    assert isinstance(connection, OwnConnectionWithKeyword)
    assert (connection.host, connection.zone) == ("h", "z")


def test_credentials_of_the_users_reach_the_connection_as_the_same_object() -> None:
    """Providers hold tokens and locks: they are shared, never copied."""
    provider = OwnCredentials()
    entry = {"host": "h", "credential_provider": provider}
    assert connection_of(entry).credential_provider.source is provider


def test_sentinels_are_asked_with_their_own_keywords() -> None:
    """sentinel_kwargs go to the Sentinels, the rest to the primary; they must answer fast."""
    entry = {**SENTINELS, "password": "p", "sentinel_kwargs": {"password": "q"}}
    pool = pool_of(entry)
    assert isinstance(pool, SentinelConnectionPool)
    assert (pool.service_name, pool.connection_kwargs["password"]) == ("main", "p")
    sentinels = [client.connection_pool for client in pool.sentinel_manager.sentinels]
    kwargs = [sentinel.connection_kwargs for sentinel in sentinels]
    assert [(each["host"], each["port"]) for each in kwargs] == [("s1", 26379), ("s2", 26380)]
    for sentinel in sentinels:
        connection = sentinel.make_connection()
        assert connection.password == "q"
        assert (connection.socket_timeout, connection.socket_connect_timeout) == (1, 1)
        assert retries(connection) == 0
        assert connection.protocol == 2


def test_sentinels_can_have_tls_and_time_outs_of_their_own() -> None:
    """Any ``ssl_*`` keyword turns it on there as well, and what is set is obeyed."""
    options = {"ssl_cert_reqs": None, "socket_timeout": 4}
    pool: Any = pool_of({**SENTINELS, "sentinel_kwargs": options, "min_other_sentinels": 1})
    connection = pool.sentinel_manager.sentinels[0].connection_pool.make_connection()
    assert isinstance(connection, SSLConnection)
    assert connection.ssl_context.get().verify_mode is ssl.CERT_NONE
    assert connection.socket_timeout == 4
    assert pool.sentinel_manager.min_other_sentinels == 1
    assert options == {"ssl_cert_reqs": None, "socket_timeout": 4}


def test_pools_do_not_touch_the_dict_they_are_made_of() -> None:
    """One decoded entry makes a pool per event loop; redis-py appends to lists it is given."""
    host = decode_hosts([{"host": "h", "retry_on_timeout": True, "retry_on_error": [OSError]}])[0]
    pool: Any = create_pool(host)
    pool.make_connection()
    assert host == {"host": "h", "retry_on_timeout": True, "retry_on_error": [OSError]}


REFUSED = [
    ("localhost:6379", "redis://"),
    ("http://h", "valkey://"),
    ("redis:/h", "redis://"),
    ("redis://h:0", "port"),
    ("redis://h:65536", "port"),
    ("redis://h:port", "port"),
    (f"redis://:{SECRET}#@h", "percent-encode"),
    (f"redis://:{SECRET}/{SECRET}@h", "percent-encode"),
    ("redis://h/name", "db"),
    ("redis://[h", "port"),
    ("unix://", "unix:///"),
    ("redis://h?decode_responses=True", "decode_responses"),
    (f"redis://h?socket_timeout={SECRET}", "type"),
    (f"redis://h?pasword={SECRET}", "'password'"),
    (b"redis://h", "URL"),
    (6379, "URL"),
    (("h",), "pair"),
    (("h", 6379, 0), "pair"),
    (("h", 0), "port"),
    (("h", 65536), "port"),
    (("h", "x"), "port"),
    (("h", True), "port"),
    (("redis://h", 6379), "host"),
    ((f"u:{SECRET}@h", 6379), "host"),
    ({"host": "h", "port": 70000}, "port"),
    ({"host": "h", "db": "name"}, "db"),
    ({"host": "h", "db": -1}, "db"),
    ({5: "h"}, "keyword"),
    ({"adress": "redis://h"}, "'address'"),
    ({"url": "redis://h"}, "'address'"),
    ({"host": "h", "passwd": SECRET}, "'password'"),
    ({"host": "h", "database": 1}, "'db'"),
    ({"host": "h", "ssl_cert_req": None}, "'ssl_cert_reqs'"),
    ({"sentinel": [("h", 1)], "port": 1}, "'sentinels'"),
    ({"address": 6379}, "URL"),
    ({"address": ("h",)}, "pair"),
    ({"address": f"http://:{SECRET}@h"}, "redis://"),
    ({"address": "redis://h", "decode_responses": True}, "decode_responses"),
    ({"sentinels": [("h", 26379)]}, "master_name"),
    ({"sentinels": [("h", 26379)], "service_name": "m"}, "master_name"),
    ({"master_name": "m"}, "sentinels"),
    ({"sentinels": [], "master_name": "m"}, "sentinels"),
    ({"sentinels": ["h:26379"], "master_name": "m"}, r"sentinels\[0\]"),
    ({"sentinels": ("h", 26379), "master_name": "m"}, r"sentinels\[0\]"),
    ({"sentinels": [("h", 1), ("h", 0)], "master_name": "m"}, r"sentinels\[1\].*port"),
    ({**SENTINELS, "address": "redis://h"}, "address"),
    ({**SENTINELS, "sentinel_kwargs": [("password", SECRET)]}, "sentinel_kwargs"),
    ({**SENTINELS, "sentinel_kwargs": {"passwrd": SECRET}}, "sentinel_kwargs.*'password'"),
    ({"path": "/r.sock", "host": "h"}, "path"),
    ({"unix_socket_path": "/r.sock", "address": "redis://h"}, "path"),
    ({"path": 5}, "path"),
    ({"path": "/r.sock", "ssl": True}, "ssl"),
    ({"address": "redis://h", "ssl": True}, "rediss://"),
    ({"address": "valkey://h", "ssl_ca_certs": "/ca.pem"}, "valkeys://"),
    ({"address": "redis://h", "ssl_certfile": "/c", "ssl_keyfile": "/k"}, "rediss://"),
    ({"address": "unix:///r", "ssl": True}, "rediss://"),
    ({"host": "h", "ssl": "False"}, "ssl must be True or False"),
    ({"host": "h", "ssl_ca_certs": "/no/such/file"}, "ssl_ca_certs"),
    ({"host": "h", "ssl_cert_reqs": SECRET, "password": SECRET}, "ssl_cert_reqs"),
    ({"host": "h", "connection_class": "OwnConnection"}, "connection_class"),
    ({"host": "h", "connection_class": OwnConnection, "ssl": True}, "connection_class"),
    ({"address": "rediss://h", "connection_class": OwnConnection}, "connection_class"),
    ({**SENTINELS, "connection_class": OwnConnection}, "redis-py"),
    ({"host": "h", "password": SECRET, "credential_provider": OwnCredentials()}, "credential"),
    ({"host": "h", "max_connections": -1}, "max_connections"),
    ({"host": "h", "cluster": "yes"}, "cluster must be True or False"),
    ({"host": "h", "startup_nodes": [("h", 1)]}, 'startup_nodes needs "cluster": True'),
    ({"host": "h", "sharded_pubsub": True}, 'sharded_pubsub needs "cluster": True'),
    ({"cluster": True}, "startup_nodes"),
    ({"cluster": True, "address": "redis://h", "host": "h"}, "exactly one of address, host"),
    ({"cluster": True, "startup_nodes": []}, "startup_nodes must be a list of pairs"),
    ({"cluster": True, "startup_nodes": ["h:1"]}, r"startup_nodes\[0\]"),
    ({"cluster": True, "address": "redis://h/1"}, "only database 0"),
    ({"cluster": True, "host": "h", "db": 1}, "only database 0"),
    ({"cluster": True, "path": "/r.sock"}, "path cannot be used with cluster"),
    ({**SENTINELS, "cluster": True}, "sentinels cannot be used with cluster"),
    ({"cluster": True, "host": "h", "address_remap": {}}, "address_remap must be a function"),
    ({"cluster": True, "host": "h", "sharded_pubsub": "yes"}, "True, False or None"),
    ({"cluster": True, "host": "h", "passwd": SECRET}, "'password'"),
]


@pytest.mark.parametrize(("entry", "right"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_wrong_entry_is_refused_with_its_place_and_what_would_be_right(
    entry: Any, right: str
) -> None:
    """At construction, by number, and without a password in text or traceback."""
    with pytest.raises(ConfigurationError, match=rf"(?s)^hosts\[1\].*{right}") as caught:
        decode_hosts(["redis://h", entry])
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


MISSING = [
    (None, "address"),
    ("", "address"),
    (" ", "address"),
    ({"address": None}, "address"),
    ({"address": "", "password": SECRET}, "address"),
    ({"cluster": True, "address": None}, "address"),
    ((None, 6379), "host"),
    (("", 6379), "host"),
    (("h", None), "port"),
    (["h", ""], "port"),
    ({"host": None}, "host"),
    ({"address": ("h", "")}, "port"),
]


@pytest.mark.parametrize(("entry", "keyword"), MISSING, ids=str)
def test_an_entry_that_the_environment_left_empty_is_an_error_at_first_use(
    entry: Any, keyword: str
) -> None:
    """An image is built without the variables that it will run with."""
    decoded = decode_hosts(["redis://h", entry])
    assert describe_host(decoded[1]).endswith("<no address>")
    with pytest.raises(ConfigurationError, match=f"no value for '{keyword}'.*variable") as caught:
        create_pool(decoded[1])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "hosts",
    ["redis://h", b"x", "", {"host": "h"}, {}, 5, iter([])],
    ids=lambda hosts: type(hosts).__name__,
)
def test_hosts_that_are_no_list_are_refused_with_an_example(hosts: Any) -> None:
    """A ValueError as before, which shows the right form."""
    with pytest.raises(ValueError, match=r'hosts must be a list.*\["redis://localhost:6379"\]'):
        decode_hosts(hosts)


@pytest.mark.parametrize("entry", [{"decode_responses": False}, {"db": None}, {"path": None}])
def test_keywords_that_say_nothing_are_taken(entry: Mapping[str, Any]) -> None:
    """What spells out a default harms nobody."""
    assert type(connection_of(entry)) is Connection


@pytest.mark.parametrize(
    ("host", "text"),
    [
        (f"redis://u:{SECRET}@127.0.0.1:7", "127.0.0.1:7"),
        (f"valkeys://:{SECRET}@h/3", "h:6379/3"),
        (f"redis://h?db=2&password={SECRET}", "h:6379/2"),
        (f"unix://:{SECRET}@/run/r.sock", "unix:/run/r.sock"),
        ({"address": f"redis://:{SECRET}@h", "password": SECRET}, "h:6379"),
        ({"host": "h", "port": 7, "db": 1, "password": SECRET}, "h:7/1"),
        ({"path": "/r.sock", "password": SECRET}, "unix:/r.sock"),
        ({**SENTINELS, "sentinel_kwargs": {"password": SECRET}}, "sentinel main@s1:26379,s2:26380"),
        ({"cluster": True, "address": f"redis://:{SECRET}@h"}, "cluster h:6379"),
        ({"cluster": True, "startup_nodes": [("a", 1), ("b", 2)]}, "cluster a:1,b:2"),
        (("::1", 7), "[::1]:7"),
        ("redis://[::1]:7", "[::1]:7"),
        ((f"u:{SECRET}@h", 7), "h:7"),
        ({}, "localhost:6379"),
        (SECRET, "<unknown address>"),
        (f"{SECRET}://h", "<unknown address>"),
        (f"redis://h:{SECRET}", "<str>"),
        (("h", SECRET), "<tuple>"),
        ({"sentinels": SECRET}, "<dict>"),
        (None, "<NoneType>"),
    ],
    ids=str,
)
def test_a_host_prints_short_and_without_secrets(host: Any, text: str) -> None:
    """Whatever it is: printing neither fails nor tells a password."""
    assert describe_host(host) == text


def test_all_hosts_print_in_one_line() -> None:
    """For the repr of a layer, also where hosts are not what they should be."""
    assert redact_hosts([f"redis://:{SECRET}@a", ("b", 1), 5]) == "[a:6379, b:1, <int>]"
    assert redact_hosts(f"redis://:{SECRET}@a") == "a:6379"


# On real servers


@pytest.fixture
async def open_pools() -> AsyncIterator[list[ConnectionPool]]:
    """Pools that are closed after the test."""
    pools: list[ConnectionPool] = []
    yield pools
    for pool in pools:
        await close_pool(pool)


async def answers(pool: ConnectionPool) -> bool:
    word = secrets.token_bytes(8)
    client: Any = Redis(connection_pool=pool)
    return bool(await client.execute_command("ECHO", word) == word)


@pytest.mark.parametrize(
    "options",
    [
        {"address": "rediss://", "ssl_cert_reqs": None},
        {"address": "valkeys://", "ssl_cert_reqs": "none"},
        {"address": "rediss://", "ssl_ca_certs": "server's"},
    ],
    ids=str,
)
async def test_tls_servers_are_reached_self_signed_or_verified(
    options: dict[str, Any], tls_server: RedisServer, open_pools: list[ConnectionPool]
) -> None:
    """With and without verification, in every spelling."""
    assert tls_server.certificate is not None
    entry = {**options, "address": f"{options['address']}127.0.0.1:{tls_server.tls_port}"}
    if "ssl_ca_certs" in entry:
        entry["ssl_ca_certs"] = tls_server.certificate.path
    open_pools.append(pool_of(entry))
    assert await answers(open_pools[0])


async def test_an_unknown_authority_is_not_trusted(
    tls_server: RedisServer, open_pools: list[ConnectionPool]
) -> None:
    """Verification is on unless it is turned off."""
    open_pools.append(pool_of(tls_server.tls_url))
    with pytest.raises(redis.exceptions.ConnectionError, match=r"(?i)certificate"):
        await answers(open_pools[0])


@pytest.mark.parametrize("keyword", ["path", "unix_socket_path", "url"])
async def test_unix_sockets_are_reached(
    keyword: str, unix_server: RedisServer, open_pools: list[ConnectionPool]
) -> None:
    """By URL and by either keyword."""
    entry = unix_server.unix_url if keyword == "url" else {keyword: unix_server.unix_path}
    open_pools.append(pool_of(entry))
    assert await answers(open_pools[0])


async def test_sentinels_lead_to_the_primary_and_its_database(
    sentinel_set: SentinelSet, open_pools: list[ConnectionPool]
) -> None:
    """The database is the primary's; Sentinels have none."""
    open_pools.append(pool_of({**sentinel_set.host_entry(), "db": 3}))
    client: Any = Redis(connection_pool=open_pools[0])
    role = await client.execute_command("ROLE")
    info = await client.client_info()
    assert role[0] == b"master"
    assert info["db"] == 3


def named(name: str, server: RedisServer) -> int:
    """Count the connections to a server that bear a name."""
    listed: bytes = server.command("CLIENT", "LIST")
    return listed.decode().count(f" name={name} ")


async def test_closing_a_pool_closes_all_its_connections(private_server: RedisServer) -> None:
    """Those in use as well as the idle."""
    name = secrets.token_hex(8)
    pool = pool_of({"host": private_server.host, "port": private_server.port, "client_name": name})
    used, idle = [await pool.get_connection() for _ in range(2)]
    await pool.release(idle)
    assert named(name, private_server) == 2
    await close_pool(pool)
    await wait_for(lambda: named(name, private_server) == 0)
    assert not used.is_connected


async def test_closing_a_pool_closes_its_sentinel_clients(sentinel_set: SentinelSet) -> None:
    """redis-py leaves them open, one set per event loop."""
    name = secrets.token_hex(8)
    entry = {**sentinel_set.host_entry(), "client_name": name}
    pool: Any = pool_of({**entry, "sentinel_kwargs": {"client_name": name}})
    await answers(pool)
    clients = pool.sentinel_manager.sentinels
    asked = [one for client in clients for one in connected(client.connection_pool)]
    assert asked and connected(pool)
    assert named(name, sentinel_set.primary) == 1
    await close_pool(pool)
    assert not any(one.is_connected for one in asked)
    await wait_for(lambda: named(name, sentinel_set.primary) == 0)


def connected(pool: Any) -> list[Any]:
    return [one for one in pool._available_connections if one.is_connected]


async def test_close_redis_closes_a_client_and_its_pool(private_server: RedisServer) -> None:
    """Also of a client that shares a pool it would not close itself."""
    name = secrets.token_hex(8)
    host, port = private_server.address
    address: dict[str, Any] = {"host": host, "port": port, "client_name": name}
    clients: list[Any] = [Redis(**address), Redis(connection_pool=pool_of(address))]
    for client in clients:
        await client.execute_command("PING")
    assert named(name, private_server) == 2
    for client in clients:
        await _close_redis(client)
    await wait_for(lambda: named(name, private_server) == 0)


async def test_a_frozen_server_does_not_hold_up_closing() -> None:
    """The farewell of TLS is answered by nobody there."""
    with RedisServer(binary=find_server_or_skip(tls=True), tls=True) as server:
        pool = pool_of({"address": server.tls_url, "ssl_cert_reqs": None})
        await answers(pool)
        server.freeze()
        try:
            await asyncio.wait_for(close_pool(pool), 3)
        finally:
            server.thaw()


async def test_closing_twice_or_unused_is_no_error() -> None:
    """Nothing was opened, and nothing is."""
    for entry in ("redis://h", SENTINELS):
        pool = pool_of(entry)
        await close_pool(pool)
        await close_pool(pool)


def test_pools_are_made_and_dropped_without_an_event_loop() -> None:
    """Construction opens nothing, at import time or anywhere."""
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    for entry in ("redis://h", "rediss://h", "unix:///r.sock", SENTINELS):
        pool_of(entry)


def test_wrap_close_leaves_the_loop_as_it_is() -> None:
    """Old code may still call it: nothing is patched."""
    loop = asyncio.new_event_loop()
    close = loop.close
    _wrap_close(loop, object())
    assert loop.close == close
    loop.close()
