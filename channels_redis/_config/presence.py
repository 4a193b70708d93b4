"""The option ``presence``: for which groups the layer knows who is there."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..exceptions import ConfigurationError
from .options import check_count, check_seconds

#: The default of ``grace_s``: longer than a browser takes to load a page again.
GRACE_S = 15
#: The default of ``max_bytes``.
MAX_BYTES = 1024

_KEYS = ("key", "grace_s", "events", "max_bytes")


@dataclass(frozen=True)
class PresenceOptions:
    """What the option says about the groups of one pattern."""

    #: The key of the info that identifies a user; None if each channel stands for itself.
    key: str | None = None
    #: Seconds until a user without channels has left.
    grace_s: float = GRACE_S
    #: Whether the group gets messages about joins and leaves.
    events: bool = False
    #: The limit of the encoded info of one member in bytes.
    max_bytes: int = MAX_BYTES


Patterns = list[tuple["re.Pattern[str]", PresenceOptions]]


def check_presence(value: Any) -> Patterns:
    """Return the patterns of the option ``presence``, in their order."""
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            "presence must be a dict of glob or compiled pattern to a dict, such as "
            f'{{"room.*": {{"key": "user"}}}}, not a value of type {type(value).__name__}.'
        )
    return [(_pattern(pattern), _options(pattern, given)) for pattern, given in value.items()]


def _pattern(pattern: Any) -> re.Pattern[str]:
    if isinstance(pattern, str):
        return re.compile(fnmatch.translate(pattern))
    if isinstance(pattern, re.Pattern):
        return pattern
    raise ConfigurationError(
        "presence: a key must be a glob or a compiled pattern, not a value of type "
        f"{type(pattern).__name__}."
    )


def _options(pattern: Any, given: Any) -> PresenceOptions:
    where = f"presence[{getattr(pattern, 'pattern', pattern)!r}]"
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{where} must be a dict with any of {', '.join(_KEYS)}.")
    for name in given:
        if name not in _KEYS:
            raise ConfigurationError(f"{where} has no option {name!r}, only {', '.join(_KEYS)}.")
    key, events = given.get("key"), given.get("events", False)
    if not (key is None or (isinstance(key, str) and key)):
        raise ConfigurationError(f"{where}: key must be the name of a key of the info, or None.")
    if not isinstance(events, bool):
        raise ConfigurationError(f"{where}: events must be True or False.")
    if events and key is None:
        raise ConfigurationError(f"{where}: events needs key, which identifies a user.")
    return PresenceOptions(
        key,
        check_seconds(f"{where}: grace_s", given.get("grace_s", GRACE_S)),
        events,
        check_count(f"{where}: max_bytes", given.get("max_bytes", MAX_BYTES)),
    )
