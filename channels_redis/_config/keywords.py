"""The keywords that redis-py's connections accept, and the errors for others.

The texts of errors contain no passwords.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection
from redis.asyncio.sentinel import Sentinel

from ..exceptions import ConfigurationError
from .hosts import CLUSTER_KEYWORDS, DEFAULT_ADDRESS, Host, decode_entries, describe_host

# Accepted in addition to the keywords of the Sentinel client and of the connections.
SENTINEL_KEYWORDS = frozenset({"master_name", "check_connection"})
# Handled by this package, and not passed to redis-py.
_OWN_KEYWORDS = CLUSTER_KEYWORDS | {
    "address",
    "ssl",
    "unix_socket_path",
    "sentinels",
    "master_name",
}

# Names of these keywords in other libraries that are not similar enough to be suggested otherwise.
_OTHER_NAMES = {
    "url": "address",
    "location": "address",
    "database": "db",
    "service_name": "master_name",
    "user": "username",
}

# The keywords of an entry that an error may show.
_SHOWN = frozenset(
    {"cluster", "startup_nodes", "host", "port", "db", "path", "sentinels", "master_name"}
)
_PLACES = frozenset({"address", "host", "path", "unix_socket_path", "sentinels", "startup_nodes"})


@functools.cache
def keywords(*classes: type) -> frozenset[str]:
    """Return the names of the keywords that the constructors of ``classes`` accept."""
    bases = {base for cls in classes for base in cls.__mro__ if "__init__" in vars(base)} - {object}
    parameters = [inspect.signature(vars(base)["__init__"]).parameters for base in bases]
    return frozenset(
        name
        for signature in parameters
        for name, parameter in signature.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    )


def is_constructed_by_redis(connection_class: Any) -> bool:
    """Return whether the keywords of a class are passed to redis-py's own constructors only."""
    return isinstance(connection_class, type) and all(
        base.__module__.startswith("redis.")
        for base in connection_class.__mro__[:-1]
        if "__init__" in vars(base)
    )


def refuse_unknown(where: str, options: Iterable[str], known: frozenset[str]) -> None:
    """Raise for unknown keywords; the error suggests the closest known one."""
    for name in options:
        if not isinstance(name, str):
            raise ConfigurationError(f"{where} has a keyword that is not a str.")
        if name in known:
            continue
        close = difflib.get_close_matches(name, known | _OWN_KEYWORDS, n=1)
        nearest = _OTHER_NAMES.get(name) or (close[0] if close else None)
        hint = f" Did you mean {nearest!r}?" if nearest else ""
        # A key that is not a word may be an address with a password.
        shown = f" {name[:40]!r}" if name.isidentifier() else ""
        raise ConfigurationError(f"{where} has the unknown keyword{shown}.{hint}")


def refuse_host_keywords(unknown: Mapping[str, Any], hosts: Any) -> None:
    """Raise for options that are connection keywords, which belong in an entry of hosts."""
    known = keywords(ConnectionPool, Connection, SSLConnection, Sentinel)
    for name, value in unknown.items():
        name = _OTHER_NAMES.get(name, name)
        if name in known | _OWN_KEYWORDS:
            raise _beside_hosts(name, value, hosts)


def _beside_hosts(name: str, value: Any, hosts: Any) -> ConfigurationError:
    """Return the error for a connection keyword that is given beside ``hosts``."""
    is_plain = value is None or isinstance(value, (bool, int, float))
    shown = value if is_plain and "password" not in name else "..."
    entry = {**_shown_entry(name, hosts), name: shown}
    return ConfigurationError(
        f"{name!r} is not an option of the channel layer but a connection keyword: it belongs "
        f'in an entry of hosts, such as "hosts": [{entry!r}].'
    )


def _shown_entry(name: str, hosts: Any) -> Host:
    """Return the parts of the first entry of ``hosts`` that can be shown, as a dict."""
    if name in _PLACES:
        return {}
    try:
        host = decode_entries(hosts)[0]
    except ConfigurationError:
        host = {"address": DEFAULT_ADDRESS}
    kept = {key: value for key, value in host.items() if key in _SHOWN}
    if host.get("address"):
        place = describe_host(host["address"]).removeprefix("unix:")
        kept["address"] = f"{urlsplit(host['address']).scheme}://{place}"
    return kept
