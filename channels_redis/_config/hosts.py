"""Decodes and prints the entries of the option ``hosts``.

Does not import redis-py: ``pools`` checks which keywords redis-py accepts.  The texts contain no
passwords.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ..exceptions import ConfigurationError

Host = dict[str, Any]

DEFAULT_ADDRESS = "redis://localhost:6379"

# The schemes of URLs, and the equivalent schemes that every redis-py supports.
URL_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
}

#: Keywords that only an entry for a cluster has.
CLUSTER_KEYWORDS = frozenset({"cluster", "startup_nodes", "address_remap", "sharded_pubsub"})

# Values that may come from the environment, and are trimmed.
_TRIMMED = frozenset({"address", "host", "port", "db", "path", "unix_socket_path", "master_name"})

_DEFAULT_PORT = 6379
_URL_FORMS = "redis://, rediss://, unix://, valkey:// or valkeys://"
_ENTRY_FORMS = (
    f"a URL ({_URL_FORMS}), a pair (host, port) or a dict of connection keywords, "
    'as in "hosts": ["redis://localhost:6379"] or "hosts": [("localhost", 6379)]'
)


# From the option to a dict per shard


def decode_entries(hosts: Any) -> list[Host]:
    """Convert the option ``hosts`` to a new dict per shard, or raise ConfigurationError."""
    if hosts is None:
        hosts = []
    if not isinstance(hosts, (list, tuple)):
        raise ConfigurationError(
            f"hosts must be a list, not {type(hosts).__name__}; each entry is {_ENTRY_FORMS}."
        )
    if not hosts:
        return [{"address": DEFAULT_ADDRESS}]
    try:
        hosts = copied(hosts)
    except RecursionError:
        raise ConfigurationError("hosts contains itself, or is nested too deeply.") from None
    return [_decode_entry(f"hosts[{index}]", entry) for index, entry in enumerate(hosts)]


def _decode_entry(where: str, entry: Any) -> Host:
    if entry is None or isinstance(entry, str):
        host: Host = {"address": entry}
    elif isinstance(entry, (list, tuple)):
        host = _decode_pair(where, entry)
    elif isinstance(entry, Mapping):
        host = {key: copied(value) for key, value in entry.items()}
        if isinstance(host.get("address"), (list, tuple)):
            host.update(_decode_pair(f'{where}["address"]', host.pop("address")))
    else:
        raise ConfigurationError(f"{where} must be {_ENTRY_FORMS}; not {type(entry).__name__}.")
    for keyword in _TRIMMED & host.keys():
        host[keyword] = _trimmed(host[keyword])
    if missing_value(host) is None:
        _check_host(where, host)
    return host


def _decode_pair(where: str, pair: Any) -> Host:
    pair = [_trimmed(value) for value in pair]
    host: Host = dict(zip(("host", "port"), pair, strict=False))
    if len(pair) != 2 or missing_value(host) is None:
        _check_pair(where, pair)
    return host


def _trimmed(value: Any) -> Any:
    """Return a text without white space and quotation marks at its ends, which may be left by
    splitting a list, by a shell or by a ``.env`` file.
    """
    if not isinstance(value, str):
        return value
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1].strip()
    return value


def missing_value(host: Mapping[str, Any]) -> str | None:
    """Return the keyword of a decoded entry that has no value, for example because an environment
    variable is not set.  Such a layer can be constructed, but fails at its first use.
    """
    return next(
        (key for key in ("address", "host", "port") if host.get(key, 1) in (None, "")), None
    )


def no_value(where: str, keyword: str) -> ConfigurationError:
    """Return the error for such an entry."""
    return ConfigurationError(
        f"{where} has no value for {keyword!r}: set the environment variable that it is read from. "
        f"An entry is {_ENTRY_FORMS}."
    )


def _check_host(where: str, host: Host) -> None:
    if not all(isinstance(keyword, str) for keyword in host):
        raise ConfigurationError(f"{where} has a keyword that is not a str.")
    if host.get("decode_responses"):
        raise ConfigurationError(
            f"{where}: remove decode_responses, because the layer needs bytes."
        )
    if host.keys() & CLUSTER_KEYWORDS:
        _check_cluster(where, host)
    if "sentinels" in host or "master_name" in host:
        _check_sentinels(where, host)
    if "address" in host:
        _check_address(f'{where}["address"]' if len(host) > 1 else where, host["address"])
    if "host" in host:
        _check_hostname(where, host["host"])
    if "port" in host:
        _check_port(where, host["port"])
    if not _is_database(host.get("db") or 0):
        raise ConfigurationError(f"{where}: db must be the number of a database.")
    limit = host.get("max_connections", 1)
    if not isinstance(limit, int) or limit < 1:
        raise ConfigurationError(f"{where}: max_connections must be a whole number of at least 1.")
    _check_path(where, host)


def _is_database(value: Any) -> bool:
    if isinstance(value, str):
        return value.isdecimal() and len(value) < 10
    return isinstance(value, int) and 0 <= value < 10**9


def _check_pair(where: str, pair: Any) -> None:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise ConfigurationError(
            f'{where} must be a pair (host, port), such as ("localhost", 6379).'
        )
    _check_hostname(where, pair[0])
    _check_port(where, pair[1])


def _check_hostname(where: str, name: Any) -> None:
    if not isinstance(name, str) or not name or "://" in name or "@" in name:
        raise ConfigurationError(f"{where}: host must be a name or address, such as localhost.")


def _check_port(where: str, port: Any) -> None:
    number = int(port) if isinstance(port, str) and port.isdecimal() and len(port) < 10 else port
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 65536:
        raise ConfigurationError(f"{where}: port must be a number from 1 to 65535.")


def _check_sentinels(where: str, host: Host) -> None:
    name, sentinels = host.get("master_name"), host.get("sentinels")
    if not isinstance(name, str) or not name:
        raise ConfigurationError(
            f"{where}: sentinels require master_name, the name of the primary at the Sentinels."
        )
    _check_pairs(f"{where}: sentinels", sentinels, 26379)
    if host.keys() & {"address", "host", "port"}:
        raise ConfigurationError(
            f"{where}: remove address, host and port, as Sentinels provide the address."
        )
    sentinel_kwargs = host.get("sentinel_kwargs")
    if sentinel_kwargs is not None and not isinstance(sentinel_kwargs, Mapping):
        raise ConfigurationError(f"{where}: sentinel_kwargs must be a dict of keywords.")


def _check_cluster(where: str, host: Host) -> None:
    if not isinstance(host.get("cluster", True), bool):
        raise ConfigurationError(f"{where}: cluster must be True or False.")
    if not is_cluster(host):
        others = sorted(host.keys() & (CLUSTER_KEYWORDS - {"cluster"}))
        if others:
            raise ConfigurationError(f'{where}: {others[0]} needs "cluster": True.')
        return
    for keyword in ("sentinels", "master_name", "path", "unix_socket_path"):
        if host.get(keyword) is not None:
            raise ConfigurationError(f"{where}: {keyword} cannot be used with cluster; remove one.")
    starts = [key for key in ("address", "host", "startup_nodes") if host.get(key) is not None]
    if len(starts) != 1:
        raise ConfigurationError(
            f"{where}: a cluster requires exactly one of address, host and "
            'startup_nodes, such as "startup_nodes": [("localhost", 6379)].'
        )
    if "startup_nodes" in starts:
        _check_pairs(f"{where}: startup_nodes", host["startup_nodes"], 6379)
    _check_cluster_options(where, host)


def _check_cluster_options(where: str, host: Host) -> None:
    if host.get("db") or _database_in(host.get("address")):
        raise ConfigurationError(f"{where}: a cluster has only database 0, so remove db.")
    if not callable(host.get("address_remap", print)):
        raise ConfigurationError(
            f"{where}: address_remap must be a function of a pair (host, port) that returns one."
        )
    if host.get("sharded_pubsub") not in (None, True, False):
        raise ConfigurationError(f"{where}: sharded_pubsub must be True, False or None.")


def _check_pairs(where: str, pairs: Any, usual_port: int) -> None:
    if not isinstance(pairs, (list, tuple)) or not pairs:
        raise ConfigurationError(
            f'{where} must be a list of pairs, such as [("localhost", {usual_port})].'
        )
    for index, pair in enumerate(pairs):
        _check_pair(f"{where}[{index}]", pair)


def _database_in(address: Any) -> bool:
    """Return whether a URL selects a database other than 0."""
    if not isinstance(address, str):
        return False
    try:
        parts = urlsplit(address)
    except ValueError:  # refused as an address
        return False
    database = parse_qs(parts.query).get("db", [parts.path.strip("/")])[0]
    return database not in ("", "0")


def is_cluster(host: Mapping[str, Any]) -> bool:
    """Return whether an entry is for a cluster."""
    return host.get("cluster") is True


def is_plain_address(host: Mapping[str, Any]) -> bool:
    """Return whether the address of a decoded entry is a URL without TLS."""
    scheme = str(host.get("address") or "").partition("://")[0].lower()
    return URL_SCHEMES.get(scheme, "rediss") != "rediss"


def _check_address(where: str, address: Any) -> None:
    if not isinstance(address, str):
        raise ConfigurationError(f"{where} must be a URL ({_URL_FORMS}).")
    scheme, separator, _ = address.partition("://")
    if not separator or scheme.lower() not in URL_SCHEMES:
        raise ConfigurationError(
            f"{where} must be a URL that starts with {_URL_FORMS}, such as redis://localhost:6379, "
            'or a pair such as ("localhost", 6379).'
        )
    is_unix = scheme.lower() == "unix"
    if is_unix and not _is_unix_location(address):
        raise ConfigurationError(f"{where} must name a path, such as unix:///run/redis.sock.")
    if not is_unix and not _is_network_location(address):
        raise ConfigurationError(
            f"{where} must have the form {scheme}://user:password@host:port/db with a port from "
            "1 to 65535 and a number for db; percent-encode special characters of a password."
        )
    if "decode_responses" in parse_qs(urlsplit(address).query, keep_blank_values=True):
        raise ConfigurationError(
            f"{where}: remove decode_responses, because the layer needs bytes."
        )


def _is_unix_location(address: str) -> bool:
    try:
        return bool(urlsplit(address).path.strip("/"))
    except ValueError:  # brackets without an IPv6 address
        return False


def _is_network_location(address: str) -> bool:
    try:
        parts = urlsplit(address)
        database = parts.path.replace("/", "")
        # A password that is not percent-encoded may contain the start of a query or path.
        is_cut = "@" in parts.query + parts.path
        return parts.port != 0 and not parts.fragment and not is_cut and _is_database(database or 0)
    except ValueError:  # as above, or an invalid port
        return False


def _check_path(where: str, host: Host) -> None:
    path = host.get("path") or host.get("unix_socket_path")
    if path is None:
        return
    others = host.keys() & {"address", "host", "port", "sentinels"}
    if others or not isinstance(path, (str, os.PathLike)):
        raise ConfigurationError(
            f"{where}: the path of a Unix socket must be a str, "
            "without address, host, port or sentinels."
        )
    if host.get("ssl"):
        raise ConfigurationError(f"{where}: remove ssl, because a Unix socket does not use TLS.")


def copied(value: Any) -> Any:
    """Copy the containers, so that changes on one side do not affect the other; share the rest."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(copied(item) for item in value)
    return value


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


def doctor_command(host: Host) -> str:
    """Return the command line that runs the doctor for a decoded entry, without any secret."""
    command = "python -m channels_redis doctor"
    if is_cluster(host) or missing_value(host):
        return "manage.py channel_layer doctor"
    if "sentinels" in host:
        places = " ".join(f"--sentinel {_describe_location(*pair)}" for pair in host["sentinels"])
        return f"{command} {places} --master-name {shlex.quote(host['master_name'])}"
    place = describe_host(host)
    if place.startswith("unix:"):
        return f"{command} --url {shlex.quote(place.replace(':', '://', 1))}"
    tls = host.get("ssl") or any(key.startswith("ssl_") for key in host)
    scheme = str(host.get("address", "rediss" if tls else "redis")).partition("://")[0]
    return f"{command} --url {scheme}://{place}"


def redact_hosts(hosts: Any) -> str:
    """Return the short forms of all entries of ``hosts``, for the repr of a layer."""
    if not isinstance(hosts, (list, tuple)):
        return describe_host(hosts)
    return "[" + ", ".join(describe_host(host) for host in hosts) + "]"


def _describe_mapping(host: Mapping[str, Any]) -> str:
    if is_cluster(host):
        nodes = host.get("startup_nodes") or ()
        places = ",".join(_describe_location(*pair) for pair in nodes)
        return "cluster " + (places or _describe_mapping({**host, "cluster": False}))
    if "sentinels" in host:
        sentinels = ",".join(_describe_location(*pair) for pair in host["sentinels"])
        return f"sentinel {host.get('master_name')}@{sentinels}"
    if missing_value(host) is not None:
        return "<no address>"
    if "address" in host:
        return _describe_address(host["address"])
    if path := host.get("path") or host.get("unix_socket_path"):
        return f"unix:{path}"
    return _describe_location(
        host.get("host", "localhost"), host.get("port", _DEFAULT_PORT), host.get("db")
    )


def _describe_address(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in URL_SCHEMES:
        return "<unknown address>"
    if parts.scheme == "unix":
        return f"unix:{unquote(parts.path)}"
    database = parse_qs(parts.query).get("db", [parts.path.strip("/")])[0]
    return _describe_location(parts.hostname or "localhost", parts.port or _DEFAULT_PORT, database)


def _describe_location(name: Any, port: Any, database: Any = None) -> str:
    name = name.rpartition("@")[2]  # where a user put a password in front of it
    location = f"[{name}]:{int(port)}" if ":" in name else f"{name}:{int(port)}"
    return f"{location}/{int(database)}" if int(database or 0) else location
