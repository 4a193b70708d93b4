"""Hosts and the ring: host entries -> redis-py connection pools, name -> shard.

``decode_hosts`` brings every form of the option ``hosts`` into a dict per shard and refuses what
can't work; ``create_pool`` makes a pool of such a dict.  What the user did not set gets a safe
value here, since redis-py's own defaults differ from version to version.  No text made here
holds a password.
"""

from __future__ import annotations

import asyncio
import binascii
import difflib
import functools
import inspect
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Redis
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

from .exceptions import ConfigurationError

Host = dict[str, Any]

DEFAULT_ADDRESS = "redis://localhost:6379"

_DEFAULT_PORT = 6379
_RING_POSITIONS = 4096
_UNLIMITED_CONNECTIONS = 2**31
_CLOSE_TIMEOUT_S = 1.0

# Valkey's schemes, by the ones that every redis-py knows.
_URL_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
}
_URL_FORMS = "redis://, rediss://, unix://, valkey:// or valkeys://"
_ENTRY_FORMS = (
    f"a URL ({_URL_FORMS}), a pair (host, port) or a dict of connection keywords, "
    'as in "hosts": ["redis://localhost:6379"] or "hosts": [("localhost", 6379)]'
)

# Names that others use for these keywords, where no likeness of letters leads to the right one.
_OTHER_NAMES = {
    "url": "address",
    "location": "address",
    "database": "db",
    "service_name": "master_name",
    "user": "username",
}


# The ring


def _consistent_hash(name: str | bytes, ring_size: int) -> int:
    """Return the shard, counted from 0, that serves ``name`` on a ring of ``ring_size``."""
    if isinstance(name, str):
        name = name.encode("utf-8")
    position = binascii.crc32(name) % _RING_POSITIONS
    return int(position / (_RING_POSITIONS / ring_size))


# From the option to a dict per shard


def decode_hosts(hosts: Any) -> list[Host]:
    """Bring the option ``hosts`` into a new dict per shard, or raise ConfigurationError."""
    if hosts is None:
        hosts = []
    if not isinstance(hosts, (list, tuple)):
        raise ConfigurationError(
            f"hosts must be a list, not a {type(hosts).__name__}; each entry {_ENTRY_FORMS}."
        )
    if not hosts:
        return [{"address": DEFAULT_ADDRESS}]
    return [_decode_entry(f"hosts[{index}]", entry) for index, entry in enumerate(hosts)]


def _decode_entry(where: str, entry: Any) -> Host:
    if isinstance(entry, str):
        host: Host = {"address": entry}
    elif isinstance(entry, (list, tuple)):
        _check_pair(where, entry)
        host = {"host": entry[0], "port": entry[1]}
    elif isinstance(entry, Mapping) and all(isinstance(key, str) for key in entry):
        host = {key: _copied(value) for key, value in entry.items()}
    else:
        raise ConfigurationError(f"{where} must be {_ENTRY_FORMS}; not {type(entry).__name__}.")
    _check_host(where, host)
    return host


def _copied(value: Any) -> Any:
    """Copy the containers, so that neither side sees the other's changes; share the rest."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_copied(item) for item in value)
    return value


def _check_host(where: str, host: Host) -> None:
    if host.get("decode_responses"):
        raise ConfigurationError(f"{where}: decode_responses must go, the layer needs bytes.")
    if "sentinels" in host or "master_name" in host:
        _check_sentinels(where, host)
    if "address" in host:
        _check_address(f'{where}["address"]' if len(host) > 1 else where, host["address"])
    if "host" in host:
        _check_hostname(where, host["host"])
    if "port" in host:
        _check_port(where, host["port"])
    if not str(host.get("db", 0)).isdecimal():
        raise ConfigurationError(f"{where}: db must be the number of a database.")
    _check_path(where, host)
    options = _connection_options(host)
    _check_keywords(where, options)
    _check_files(where, options)
    _check_by_trial(where, host, options)


def _check_pair(where: str, pair: Any) -> None:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise ConfigurationError(
            f'{where} must be a pair (host, port), such as ("localhost", 6379).'
        )
    _check_hostname(where, pair[0])
    _check_port(where, pair[1])


def _check_hostname(where: str, name: Any) -> None:
    if not isinstance(name, str) or not name or "://" in name:
        raise ConfigurationError(f"{where}: host must be a name or address, such as localhost.")


def _check_port(where: str, port: Any) -> None:
    number = int(port) if isinstance(port, str) and port.isdecimal() else port
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 65536:
        raise ConfigurationError(f"{where}: port must be a number from 1 to 65535.")


def _check_sentinels(where: str, host: Host) -> None:
    name, sentinels = host.get("master_name"), host.get("sentinels")
    if not isinstance(name, str) or not name:
        raise ConfigurationError(
            f"{where}: sentinels need master_name, the name under which they know the primary."
        )
    if not isinstance(sentinels, (list, tuple)) or not sentinels:
        raise ConfigurationError(
            f'{where}: sentinels must be a list of pairs, such as [("localhost", 26379)].'
        )
    for index, pair in enumerate(sentinels):
        _check_pair(f"{where}: sentinels[{index}]", pair)
    sentinel_kwargs = host.get("sentinel_kwargs")
    if sentinel_kwargs is not None and not isinstance(sentinel_kwargs, Mapping):
        raise ConfigurationError(f"{where}: sentinel_kwargs must be a dict of keywords.")


def _check_address(where: str, address: Any) -> None:
    if not isinstance(address, str):
        raise ConfigurationError(f"{where} must be a URL ({_URL_FORMS}).")
    scheme, separator, _ = address.partition("://")
    if not separator or scheme.lower() not in _URL_SCHEMES:
        raise ConfigurationError(f"{where} must be a URL that starts with {_URL_FORMS}.")
    if scheme.lower() == "unix":
        if not urlsplit(address).path.strip("/"):
            raise ConfigurationError(f"{where} must name a path, such as unix:///run/redis.sock.")
    elif not _is_network_location(address):
        raise ConfigurationError(
            f"{where} must have the form {scheme}://user:password@host:port/db with a port from "
            "1 to 65535 and a number for db; percent-encode special characters of a password."
        )
    if "decode_responses" in parse_qs(urlsplit(address).query, keep_blank_values=True):
        raise ConfigurationError(f"{where}: decode_responses must go, the layer needs bytes.")
    if _parsed_address(address) is None:
        raise ConfigurationError(f"{where}: a value after the question mark has the wrong type.")


def _is_network_location(address: str) -> bool:
    try:
        parts = urlsplit(address)
        database = parts.path.replace("/", "")
        return parts.port != 0 and not parts.fragment and (database or "0").isdecimal()
    except ValueError:  # a port that is no number, or out of range
        return False


def _parsed_address(address: str) -> dict[str, Any] | None:
    scheme, separator, rest = address.partition("://")
    try:
        return dict(parse_url(_URL_SCHEMES[scheme.lower()] + separator + rest))
    except ValueError:
        return None


def _check_path(where: str, host: Host) -> None:
    path = host.get("path") or host.get("unix_socket_path")
    if path is None:
        return
    others = [key for key in ("address", "host", "port", "sentinels") if key in host]
    if others or not isinstance(path, (str, os.PathLike)):
        raise ConfigurationError(
            f"{where}: the path of a Unix socket must be a str, and alone: "
            "without address, host, port or sentinels."
        )
    if host.get("ssl"):
        raise ConfigurationError(f"{where}: a Unix socket has no TLS, so ssl must go.")


def _check_keywords(where: str, options: Mapping[str, Any]) -> None:
    connection_class = options["connection_class"]
    if getattr(connection_class, "__module__", "").startswith("redis."):
        known = _keywords(ConnectionPool, connection_class)
        if "sentinels" in options:
            known |= _SENTINEL_KEYWORDS | _keywords(Sentinel) | {"check_connection"}
        _refuse_unknown(where, options, known)
    # Which keywords a class of the user's takes shows only when it is tried.
    sentinel_kwargs = options.get("sentinel_kwargs") or {}
    _refuse_unknown(f'{where}["sentinel_kwargs"]', sentinel_kwargs, _keywords(Redis))


_SENTINEL_KEYWORDS = frozenset({"sentinels", "master_name", "sentinel_kwargs"})


def _refuse_unknown(where: str, options: Iterable[str], known: frozenset[str]) -> None:
    for name in options:
        if name in known:
            continue
        every = known | _SENTINEL_KEYWORDS | {"address", "ssl", "unix_socket_path"}
        close = difflib.get_close_matches(name, every, n=1)
        nearest = _OTHER_NAMES.get(name) or (close[0] if close else None)
        hint = f" Did you mean {nearest!r}?" if nearest else ""
        raise ConfigurationError(f"{where} has the unknown keyword {name[:40]!r}.{hint}")


@functools.cache
def _keywords(*classes: type) -> frozenset[str]:
    """Return the names of the keywords that the constructors of ``classes`` take."""
    bases = {base for cls in classes for base in cls.__mro__ if "__init__" in vars(base)} - {object}
    parameters = [inspect.signature(vars(base)["__init__"]).parameters for base in bases]
    return frozenset(
        name
        for signature in parameters
        for name, parameter in signature.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    )


def _check_files(where: str, options: Mapping[str, Any]) -> None:
    """Refuse what would look like a network failure, again and again, once connecting."""
    for keyword in ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"):
        path = options.get(keyword)
        if isinstance(path, (str, os.PathLike)) and not os.access(path, os.R_OK):
            raise ConfigurationError(f"{where}: the file of {keyword} can't be read.")


def _check_by_trial(where: str, host: Host, options: Mapping[str, Any]) -> None:
    """Construct one connection, which opens nothing: redis-py knows best what it takes."""
    try:
        make_connection: Callable[[], Any] = create_pool(host).make_connection
        make_connection()
        return
    except Exception as error:  # noqa: BLE001  # a class of the user's may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    # Raised outside of the except block: what redis-py says may quote a value.
    secrets = [str(value) for key, value in options.items() if "password" in key and value]
    if any(secret in reason for secret in secrets):
        reason = "a wrong value"
    raise ConfigurationError(f"{where} doesn't suit redis-py ({reason}).")


# From a dict to a pool


def create_pool(host: Mapping[str, Any]) -> ConnectionPool:
    """Make the pool of one shard, of a dict as ``decode_hosts`` makes them; opens nothing."""
    options = _connection_options(host)
    if "sentinels" not in options:
        return ConnectionPool(**options)
    sentinels = [(name, int(port)) for name, port in options.pop("sentinels")]
    manager_keywords = (_keywords(Sentinel) - {"sentinels"}) & options.keys()
    manager_options = {name: options.pop(name) for name in manager_keywords}
    manager_options["sentinel_kwargs"] = _sentinel_options(manager_options.get("sentinel_kwargs"))
    # redis-py has no annotations on these two.
    manager = Sentinel(sentinels, **manager_options)  # type: ignore[no-untyped-call]  # as above
    pool: ConnectionPool = SentinelConnectionPool(  # type: ignore[no-untyped-call]  # as above
        options.pop("master_name"), manager, **options
    )
    return pool


def _connection_options(host: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of the pool, with TLS, Unix sockets and safe values worked out."""
    options = {key: _copied(value) for key, value in host.items()}
    address = options.pop("address", None)
    if address is not None:
        # As in redis-py, the URL wins; but a class of the user's can't stand in a URL.
        options = {**options, **(_parsed_address(address) or {}), **_own_class(options)}
    path = options.pop("unix_socket_path", None)
    if path is not None:
        options["path"] = path
    tls = options.pop("ssl", None)
    if tls is None:
        tls = any(key.startswith("ssl_") for key in options)
    chosen = options.setdefault("connection_class", _connection_class(options, bool(tls)))
    if _is_subclass(chosen, SSLConnection):
        _settle_verification(options)
    elif not tls:
        options = {key: value for key, value in options.items() if not key.startswith("ssl_")}
    for key, value in _safe_values(options).items():
        options.setdefault(key, value)
    return options


def _own_class(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in ("connection_class",) if key in options}


def _connection_class(options: Mapping[str, Any], tls: bool) -> type:
    if "sentinels" in options:
        return SentinelManagedSSLConnection if tls else SentinelManagedConnection
    if "path" in options:
        return UnixDomainSocketConnection
    return SSLConnection if tls else Connection


def _is_subclass(cls: Any, parent: type) -> bool:
    return isinstance(cls, type) and issubclass(cls, parent)


def _settle_verification(options: dict[str, Any]) -> None:
    """Say what no verification means in the words that every redis-py understands."""
    requirement = options.get("ssl_cert_reqs", "required")
    if isinstance(requirement, ssl.VerifyMode):
        requirement = requirement.name.removeprefix("CERT_").lower()
    if requirement is None:
        requirement = "none"
    options["ssl_cert_reqs"] = requirement
    if requirement == "none":
        options["ssl_check_hostname"] = False


def _safe_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for what the user did not set, as redis-py's own differ by version."""
    values: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": None,
        "socket_connect_timeout": 5,
        "max_connections": _UNLIMITED_CONNECTIONS,
        "health_check_interval": 0,
        "decode_responses": False,
    }
    if not {"retry_on_timeout", "retry_on_error"} & options.keys():
        # Retries silently run a command again whose reply was lost.
        values["retry"] = Retry(NoBackoff(), 0)
    if _is_subclass(options.get("connection_class", Connection), Connection):
        values["socket_keepalive"] = True
    if "maint_notifications_config" in _keywords(ConnectionPool):
        values["maint_notifications_config"] = _maintenance_notifications_off()
    return values


def _maintenance_notifications_off() -> Any:
    from redis.maint_notifications import MaintNotificationsConfig  # only where redis-py has it

    return MaintNotificationsConfig(enabled=False)


def _sentinel_options(sentinel_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the keywords of the clients of Sentinels, which answer fast or are passed over."""
    options = dict(sentinel_kwargs or {})
    if options.setdefault("ssl", any(key.startswith("ssl_") for key in options)):
        _settle_verification(options)
    values = {**_safe_values(options), "socket_timeout": 1, "socket_connect_timeout": 1}
    return {**values, **options}


# Closing


async def close_pool(pool: ConnectionPool) -> None:
    """Close all connections of a pool, and the clients of the Sentinels behind it."""
    manager = getattr(pool, "sentinel_manager", None)
    pools = [pool, *(client.connection_pool for client in getattr(manager, "sentinels", ()))]
    await asyncio.gather(*map(_close_connections, pools), return_exceptions=True)


async def _close_connections(pool: ConnectionPool) -> None:
    # A TLS peer that is frozen would hold up the farewell.
    await asyncio.wait_for(pool.aclose(), _CLOSE_TIMEOUT_S)


async def _close_redis(client: Redis) -> None:
    """Close a client and its pool, on every redis-py in range."""
    await client.aclose(close_connection_pool=False)
    await close_pool(client.connection_pool)


def _wrap_close(loop: Any, target: Any) -> None:
    """Do nothing: earlier releases patched ``loop.close`` here.  Kept for those who import it."""


# Printing


def describe_host(host: Any) -> str:
    """Return a short form of an entry of ``hosts``, decoded or not, without any secret."""
    try:
        if isinstance(host, str):
            return _describe_address(host)
        if isinstance(host, Mapping):
            return _describe_mapping(host)
        name, port = host
        return _describe_location(name, port)
    except Exception:  # noqa: BLE001  # whatever it is, printing it must not fail
        return f"<{type(host).__name__}>"


def redact_hosts(hosts: Any) -> str:
    """Return the short forms of all entries of ``hosts``, for the repr of a layer."""
    if not isinstance(hosts, (list, tuple)):
        return describe_host(hosts)
    return "[" + ", ".join(describe_host(host) for host in hosts) + "]"


def _describe_mapping(host: Mapping[str, Any]) -> str:
    if "sentinels" in host:
        sentinels = ",".join(describe_host(tuple(pair)) for pair in host["sentinels"])
        return f"sentinel {host.get('master_name')}@{sentinels}"
    if host.get("address") is not None:
        return _describe_address(host["address"])
    path = host.get("path") or host.get("unix_socket_path")
    if path:
        return f"unix:{path}"
    return _describe_location(
        host.get("host", "localhost"), host.get("port", _DEFAULT_PORT), host.get("db")
    )


def _describe_address(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in _URL_SCHEMES:
        return "<unknown address>"
    if parts.scheme == "unix":
        return f"unix:{unquote(parts.path)}"
    database = parse_qs(parts.query).get("db", [parts.path.strip("/")])[0]
    return _describe_location(parts.hostname or "localhost", parts.port or _DEFAULT_PORT, database)


def _describe_location(name: Any, port: Any, database: Any = None) -> str:
    location = f"[{name}]:{int(port)}" if ":" in name else f"{name}:{int(port)}"
    return f"{location}/{int(database)}" if int(database or 0) else location
