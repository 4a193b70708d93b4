"""What was seen of a server.  Only facts; :mod:`.judge` says what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .endpoints import Endpoint


@dataclass(frozen=True)
class ServerFacts:
    """What one server told, or why it told nothing."""

    #: Why there was no conversation; None where there was one.
    trouble: BaseException | None = None
    #: Whether it speaks TLS where none is configured, or the other way round.
    speaks_otherwise: bool = False
    latency_s: float = 0.0
    #: Seconds that its clock is ahead of this machine's; None where TIME is refused.
    clock_ahead_s: float | None = None
    #: The fields of INFO; empty where it is refused.
    info: Mapping[str, str] = field(default_factory=dict)
    #: ``client-output-buffer-limit`` as the server gives it; None where CONFIG is refused.
    output_limits: str | None = None
    #: Reply to each command that was tried, by its name in :mod:`.rights`.
    replies: Mapping[str, Any] = field(default_factory=dict)
    #: The ACL user of the connection: as the server knows it, or as the settings say.
    user: str = "default"


@dataclass(frozen=True)
class SentinelFacts:
    """What one Sentinel told."""

    endpoint: Endpoint
    trouble: BaseException | None = None
    #: The address under which it knows the primary; None where it does not know the name.
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
