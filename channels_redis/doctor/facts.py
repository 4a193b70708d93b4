"""Facts about a server.  :mod:`.judge` turns them into findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .endpoints import Endpoint


@dataclass(frozen=True)
class ServerFacts:
    """The facts about one server, or the error that prevented reading them."""

    #: The error of the connection; None if it worked.
    trouble: BaseException | None = None
    #: Whether the server uses TLS although none is configured, or the other way round.
    speaks_otherwise: bool = False
    latency_s: float = 0.0
    #: Seconds by which its clock is ahead of this machine's; None if TIME is refused.
    clock_ahead_s: float | None = None
    #: The fields of INFO; empty if it is refused.
    info: Mapping[str, str] = field(default_factory=dict)
    #: ``client-output-buffer-limit`` as set on the server; None if CONFIG is refused.
    output_limits: str | None = None
    #: Reply to each command that was tested, by its name in :mod:`.rights`.
    replies: Mapping[str, Any] = field(default_factory=dict)
    #: The ACL user of the connection, from the server or else from the settings.
    user: str = "default"


@dataclass(frozen=True)
class SentinelFacts:
    """The facts from one Sentinel."""

    endpoint: Endpoint
    trouble: BaseException | None = None
    #: Its address of the primary; None if it does not know the name.
    primary: tuple[str, int] | None = None
    #: The names that it knows.
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShardFacts:
    """One entry of ``hosts``: its Sentinels, if it has any, and its server."""

    where: str
    endpoint: Endpoint
    asks_for_cluster: bool
    master_name: str
    sentinels: tuple[SentinelFacts, ...]
    server: ServerFacts
