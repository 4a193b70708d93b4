"""Makes redis-py's pools and clients from the entries of ``hosts``, and closes them.

``decode_hosts`` converts every form of the option ``hosts`` to a dict per shard and refuses invalid
entries; ``create_pool`` creates a pool from such a dict. Keywords that the user did not set get
safe values here, because redis-py's defaults differ between versions. The texts of errors contain
no passwords.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import (
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider, StreamingCredentialProvider

from .._format.slots import Address
from ..exceptions import ConfigurationError
from .hosts import (
    CLUSTER_KEYWORDS,
    URL_SCHEMES,
    Host,
    copied,
    decode_entries,
    is_plain_address,
    missing_value,
    no_value,
)
from .keywords import SENTINEL_KEYWORDS, is_constructed_by_redis, keywords, refuse_unknown
from .secrets import Secrets, remember
from .tls import (
    VERIFICATION_KEYWORDS,
    check_tls,
    refuse_plain_address,
    settle_verification,
)
from .values import check_values

Credentials = tuple[str] | tuple[str, str]
"""What follows AUTH: the password alone, or user name and password."""

_UNLIMITED_CONNECTIONS = 2**31

# TCP keepalive, as far as the system has these options: seconds of silence before the first probe
# (macOS has another name for it), seconds between two probes, unanswered probes that end the
# connection.  Networks forget flows that are idle for some minutes, the first of them after four.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPALIVE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_CLOSE_TIMEOUT_S = 0.5


# From the option to a dict per shard


def decode_hosts(hosts: Any) -> list[Host]:
    """Convert the option ``hosts`` to a new dict per shard, or raise ConfigurationError."""
    decoded = decode_entries(hosts)
    for index, host in enumerate(decoded):
        if missing_value(host) is None:
            _check_host(f"hosts[{index}]", host)
    return decoded


def _check_host(where: str, host: Host) -> None:
    parsed = _parsed_address(host.get("address"))
    if parsed is None:
        raise ConfigurationError(f"{where}: a value in the query of the URL has the wrong type.")
    if not uses_tls(host.get("connection_class")):
        refuse_plain_address(where, host)
    check_values(where, {**host, **parsed})
    options = _connection_options(host)
    connection_class = options["connection_class"]
    if not callable(connection_class):
        raise ConfigurationError(f"{where}: connection_class must be a class.")
    asks_for_tls = host.get("ssl") or parsed.get("connection_class") is SSLConnection
    if asks_for_tls and not uses_tls(connection_class):
        raise ConfigurationError(
            f"{where}: connection_class lacks the TLS that other keywords request."
        )
    if uses_tls(connection_class):
        check_tls(where, options)
    sentinel_kwargs = options.get("sentinel_kwargs") or {}
    refuse_unknown(f'{where}["sentinel_kwargs"]', sentinel_kwargs, keywords(Redis))
    check_values(f'{where}["sentinel_kwargs"]', sentinel_kwargs)
    sentinel_options = _sentinel_options(sentinel_kwargs)
    if sentinel_options["ssl"]:
        check_tls(f'{where}["sentinel_kwargs"]', sentinel_options)
    # What other classes take, and when they may be made, they alone know.
    if is_constructed_by_redis(connection_class):
        known = keywords(ConnectionPool, connection_class)
        if "sentinels" in options:
            known |= SENTINEL_KEYWORDS | keywords(Sentinel)
        refuse_unknown(where, options, known)
        _check_by_trial(where, host, options)


def _check_by_trial(where: str, host: Host, options: Mapping[str, Any]) -> None:
    """Construct one connection without opening it, so that redis-py checks the keywords."""
    try:
        make_connection: Callable[[], Any] = create_pool(host).make_connection
        make_connection()
        return
    except Exception as error:  # noqa: BLE001  # redis-py raises of many kinds here
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    # Raised outside of the except block: what redis-py says may quote a value.
    reason = Secrets(options).text(reason)
    raise ConfigurationError(f"{where} is rejected by redis-py ({reason}).")


# From a dict to a pool


def create_pool(host: Mapping[str, Any]) -> ConnectionPool:
    """Create the pool of one shard from a dict of ``decode_hosts``; opens no connection.

    Raises :class:`ConfigurationError` if the entry has no address.
    """
    _require_location(host)
    options = _connection_options(host)
    if "sentinels" not in options:
        return ConnectionPool(**options)
    sentinels = [(name, int(port)) for name, port in options.pop("sentinels")]
    manager_keywords = (keywords(Sentinel) - {"sentinels"}) & options.keys()
    manager_options = {name: options.pop(name) for name in manager_keywords}
    manager_options["sentinel_kwargs"] = _sentinel_options(manager_options.get("sentinel_kwargs"))
    # redis-py has no annotations on these two.
    manager = Sentinel(sentinels, **manager_options)  # type: ignore[no-untyped-call]  # as above
    pool: ConnectionPool = SentinelConnectionPool(  # type: ignore[no-untyped-call]  # as above
        options.pop("master_name"), manager, **options
    )
    return pool


def _require_location(host: Mapping[str, Any]) -> None:
    missing = missing_value(host)
    if missing is not None:
        raise no_value("An entry of hosts", missing)


def create_cluster_client(host: Mapping[str, Any]) -> RedisCluster:
    """Create a redis-py client of a whole cluster; opens no connection."""
    _require_location(host)
    options = _connection_options(host)
    tls = uses_tls(options["connection_class"])
    known = keywords(RedisCluster) - {"host", "port", "startup_nodes"}
    options = {key: value for key, value in options.items() if key in known}
    if host.get("address_remap") is not None:
        options["address_remap"] = host["address_remap"]
    nodes = [ClusterNode(name, port) for name, port in startup_nodes(host)]
    return RedisCluster(startup_nodes=nodes, ssl=tls, **options)


def startup_nodes(host: Mapping[str, Any]) -> list[Address]:
    """Return the addresses to query first about a cluster, from a dict of ``decode_hosts``."""
    if host.get("startup_nodes"):
        return [(name, int(port)) for name, port in host["startup_nodes"]]
    options = _connection_options(host)
    return [(options.get("host", "localhost"), int(options.get("port", 6379)))]


def aim_pool(pool: ConnectionPool, address: Address) -> ConnectionPool:
    """Make a pool connect to one server of its cluster."""
    pool.connection_kwargs["host"], pool.connection_kwargs["port"] = address
    return pool


def create_client(pool: ConnectionPool) -> Redis:
    """Create a client with a pool; opens no connection."""
    return Redis(connection_pool=pool)


def _connection_options(host: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of the pool, including TLS, Unix sockets and safe values."""
    options = {key: copied(value) for key, value in host.items()}
    for keyword in CLUSTER_KEYWORDS & options.keys():
        value = options.pop(keyword)
        if keyword == "startup_nodes" and value:
            options["host"], options["port"] = value[0][0], int(value[0][1])
    # As in redis-py, the URL takes precedence, except for a class, which a URL can't contain.
    own_class = {key: options[key] for key in ("connection_class",) if key in options}
    options.update(_parsed_address(options.pop("address", None)) or {}, **own_class)
    paths = (options.pop("path", None), options.pop("unix_socket_path", None))
    path = next(filter(None, paths), None)
    if path is not None:
        options["path"] = path
    if is_plain_address(host):
        # The same keywords can be used with rediss:// in production and redis:// in development.
        options = {key: value for key, value in options.items() if key not in VERIFICATION_KEYWORDS}
    tls = options.pop("ssl", None)
    if tls is None:
        tls = any(key.startswith("ssl_") for key in options)
    chosen = options.setdefault("connection_class", _connection_class(options, bool(tls)))
    if uses_tls(chosen):
        settle_verification(options)
    elif not tls:
        options = {key: value for key, value in options.items() if not key.startswith("ssl_")}
    # A layer keeps few connections, and needs each of them: a limit would starve its readers.
    options["max_connections"] = _UNLIMITED_CONNECTIONS
    for key, value in _safe_values(options).items():
        options.setdefault(key, value)
    return _with_noted_provider(options)


def _parsed_address(address: str | None) -> dict[str, Any] | None:
    """Return the keywords of a URL: an empty dict without a URL, None for an invalid one."""
    if address is None:
        return {}
    scheme, separator, rest = address.partition("://")
    try:
        return dict(parse_url(URL_SCHEMES[scheme.lower()] + separator + rest))
    except ValueError:
        return None


def _connection_class(options: Mapping[str, Any], tls: bool) -> type:
    if "sentinels" in options:
        return SentinelManagedSSLConnection if tls else SentinelManagedConnection
    if "path" in options:
        return UnixDomainSocketConnection
    return SSLConnection if tls else Connection


def uses_tls(connection_class: Any) -> bool:
    """Return whether connections of a class use TLS."""
    return isinstance(connection_class, type) and issubclass(connection_class, SSLConnection)


def _safe_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for keywords that the user did not set, because redis-py's defaults differ."""
    provider = options.get("credential_provider")
    values: dict[str, Any] = {
        # Only in the third is AUTH allowed beside subscriptions.
        "protocol": 3 if isinstance(provider, StreamingCredentialProvider) else 2,
        "socket_timeout": None,
        "socket_connect_timeout": 5,
        "health_check_interval": 0,
        "decode_responses": False,
    }
    if not {"retry_on_timeout", "retry_on_error"} & options.keys():
        # Retries would silently repeat a command whose reply was lost.
        values["retry"] = Retry(NoBackoff(), 0)
    chosen = options.get("connection_class", Connection)
    if isinstance(chosen, type) and issubclass(chosen, Connection):
        values["socket_keepalive"] = True
        if options.get("socket_keepalive", True):
            values["socket_keepalive_options"] = {
                getattr(socket, one): value
                for one, value in _KEEPALIVE.items()
                if hasattr(socket, one)
            }
    if "maint_notifications_config" in keywords(ConnectionPool):
        values["maint_notifications_config"] = _maintenance_notifications_off()
    return values


class Noted(CredentialProvider):
    """Wraps a provider for redis-py and remembers its credentials, which are removed from all
    texts.

    It is not a streaming provider, because redis-py would replace the callback of ``source``.
    """

    def __init__(self, source: CredentialProvider) -> None:
        self.source = source

    def get_credentials(self) -> Credentials:
        """Return the arguments of AUTH."""
        return self._noted(self.source.get_credentials())

    async def get_credentials_async(self) -> Credentials:
        """Return the arguments of AUTH."""
        return self._noted(await self.source.get_credentials_async())

    def _noted(self, credentials: Credentials) -> Credentials:
        remember(self.source, credentials[-1:])
        return credentials


def _with_noted_provider(options: dict[str, Any]) -> dict[str, Any]:
    provider = options.get("credential_provider")
    if isinstance(provider, CredentialProvider):
        options["credential_provider"] = Noted(provider)
    return options


def _maintenance_notifications_off() -> Any:
    from redis.maint_notifications import MaintNotificationsConfig  # only where redis-py has it

    return MaintNotificationsConfig(enabled=False)


def _sentinel_options(sentinel_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the keywords of the clients of Sentinels; slow Sentinels are skipped."""
    options = dict(sentinel_kwargs or {})
    if options.setdefault("ssl", any(key.startswith("ssl_") for key in options)):
        settle_verification(options)
    values = {**_safe_values(options), "socket_timeout": 1, "socket_connect_timeout": 1}
    return _with_noted_provider({**values, **options})


# Closing


async def close_pool(pool: ConnectionPool) -> None:
    """Close all connections of a pool and of its Sentinels' clients."""
    manager = getattr(pool, "sentinel_manager", None)
    pools = [pool, *(client.connection_pool for client in getattr(manager, "sentinels", ()))]
    await asyncio.gather(*map(_close_connections, pools), return_exceptions=True)


async def _close_connections(pool: ConnectionPool) -> None:
    # A frozen TLS peer would delay closing.
    await asyncio.wait_for(pool.aclose(), _CLOSE_TIMEOUT_S)


def nodes_of(client: RedisCluster) -> list[ClusterNode]:
    """Return the servers to which redis-py's cluster client may have connections.

    After it has reloaded the slots, it sends to other node objects than those that it lists and
    closes.
    """
    manager = client.nodes_manager
    used = [node for nodes in manager.slots_cache.values() for node in nodes]
    known = [*manager.nodes_cache.values(), *manager.startup_nodes.values(), *used]
    return list({id(node): node for node in known}.values())


async def close_client(client: Redis | RedisCluster) -> None:
    """Close a client and its pool, with every supported redis-py."""
    if isinstance(client, RedisCluster):
        nodes = nodes_of(client)
        await client.aclose()
        await asyncio.gather(*[node.disconnect() for node in nodes], return_exceptions=True)
        return
    await client.aclose(close_connection_pool=False)
    await close_pool(client.connection_pool)
