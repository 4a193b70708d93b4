"""The addresses of an entry of ``hosts``, as redis-py parsed them.  Opens no connection."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio.connection import SSLConnection

from .._config.hosts import describe_host
from .._config.tls import is_verified

_PASSWORDS = ("password", "credential_provider")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server or a Sentinel of an entry.  If ``port`` is 0, ``host`` is the path of a Unix socket.
    If only Sentinels know the address, ``host`` is that of the first Sentinel.
    """

    name: str
    host: str
    port: int
    database: int
    tls: bool
    verified: bool
    has_password: bool
    username: str
    is_sentinel: bool = False
    #: Whether only Sentinels know the address.
    by_sentinels: bool = False

    @property
    def local(self) -> bool:
        """Whether the server is on this machine."""
        if not self.port or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return self.name


def endpoints_of(pool: Any) -> list[Endpoint]:
    """Return the endpoints of a pool: the server first, then Sentinels."""
    manager = getattr(pool, "sentinel_manager", None)
    if manager is None:
        return [_endpoint(pool)]
    sentinels = list(sentinels_of(pool))
    name = f"the primary {pool.service_name}"
    primary = replace(_endpoint(pool), name=name, host=sentinels[0].host, by_sentinels=True)
    return [primary, *sentinels]


def sentinels_of(pool: Any) -> Iterator[Endpoint]:
    """Yield the Sentinels of a pool, if there are any."""
    manager = getattr(pool, "sentinel_manager", None)
    for client in manager.sentinels if manager is not None else ():
        yield _endpoint(client.connection_pool, is_sentinel=True)


def _endpoint(pool: Any, *, is_sentinel: bool = False) -> Endpoint:
    keywords = pool.connection_kwargs
    path = keywords.get("path")
    host = str(path or keywords.get("host", "localhost"))
    port = 0 if path else int(keywords.get("port", 6379))
    return Endpoint(
        name=describe_host({"path": host} if path else (host, port)),
        host=host,
        port=port,
        database=int(keywords.get("db") or 0),
        tls=issubclass(pool.connection_class, SSLConnection),
        verified=is_verified(keywords),
        has_password=any(keywords.get(name) for name in _PASSWORDS),
        username=str(keywords.get("username") or "default"),
        is_sentinel=is_sentinel,
    )
