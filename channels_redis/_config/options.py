"""The options of both layers: checked once, at construction, with errors that name the option."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django.utils.module_loading import import_string

from .._format.encryption import BINDINGS
from .._format.plain import encode_default
from ..exceptions import ConfigurationError

Default = Callable[[Any], Any]

#: The default limit of a message in bytes: half of the 8 MB at which servers disconnect slow
#: Pub/Sub subscribers by default, so that one message never causes this.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024


class Unset(int):
    """A default value that differs in type from the same number set by the user."""


#: The capacity of a queue if none is set, as in Channels.
CAPACITY = Unset(100)
#: The memory in bytes of all unread messages of a process, if no capacity is set.
MAX_BUFFERED_BYTES = 64 * 1024 * 1024
#: The size in bytes of the queue of one process in Redis, if no capacity is set.
MAX_QUEUED_BYTES = 32 * 1024 * 1024


#: The longest duration of an option: longer than needed, but valid for all clocks.
_FOREVER_S = 100 * 366 * 86400


#: The maximum number of random bytes in front of a message; more have no benefit.
RANDOM_BYTES_MAX = 1024


def check_seconds(name: str, value: Any, *, longest_s: float = _FOREVER_S) -> float:
    """Return a positive, finite number of seconds (int or float)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{name} must be a number of seconds, not {_kind(value)}.")
    if not 0 < value <= longest_s:
        raise ConfigurationError(
            f"{name} must be a positive number of seconds, at most a hundred years."
        )
    # Convert subclasses such as numpy's numbers, because Redis gets the text of the number.
    return int(value) if isinstance(value, int) else float(value)


def check_count(name: str, value: Any) -> int:
    """Return a whole number of at least 1; accepts a float such as 1500.0."""
    count = _whole_number(name, value)
    if count < 1:
        raise ConfigurationError(f"{name} must be at least 1, not {count!r}.")
    return count


def _whole_number(name: str, value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigurationError(f"{name} must be a whole number, not {_kind(value)}.")
    return int(value)


def check_prefix(value: Any) -> str:
    """Return the prefix of all keys and topics."""
    if not isinstance(value, str):
        raise ConfigurationError(f"prefix must be a string, not {_kind(value)}.")
    if any("\ud800" <= sign <= "\udfff" for sign in value):
        raise ConfigurationError("prefix has a lone surrogate, not a character.")
    return value


def check_capacities(value: Any) -> dict[Any, int]:
    """Return the option ``channel_capacity``: glob or compiled pattern -> messages, in order."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            "channel_capacity must be a dict of glob or compiled pattern to a number of "
            f"messages, not {_kind(value)}."
        )
    for pattern in value:
        if not isinstance(pattern, str) and not hasattr(pattern, "match"):
            raise ConfigurationError(
                "channel_capacity: a key must be a glob or a compiled pattern, not "
                f"{_kind(pattern)}."
            )
    return {
        pattern: check_count(
            f"channel_capacity[{getattr(pattern, 'pattern', pattern)!r}]", capacity
        )
        for pattern, capacity in value.items()
    }


#: What is kept of a group if the option ``history`` does not say it.
HISTORY_SIZE, HISTORY_TTL_S = 100, 300.0
#: The most messages of a group that a process catches up with, or a channel resumes with.
MAX_CATCH_UP = 1000


def check_history(value: Any) -> dict[Any, tuple[int, float]]:
    """Return the option ``history``: glob or compiled pattern -> number of messages, and seconds
    that they are kept; in order.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            'history must be a dict of glob or compiled pattern to a dict with "size" and "ttl", '
            f"not {_kind(value)}."
        )
    checked = {}
    for pattern, kept in value.items():
        if not isinstance(pattern, str) and not hasattr(pattern, "match"):
            raise ConfigurationError(
                f"history: a key must be a glob or a compiled pattern, not {_kind(pattern)}."
            )
        name = f"history[{getattr(pattern, 'pattern', pattern)!r}]"
        if not isinstance(kept, Mapping) or not kept.keys() <= {"size", "ttl"}:
            raise ConfigurationError(
                f'{name} must be a dict with "size" (messages) and "ttl" (seconds), or without.'
            )
        size = check_count(f"{name}['size']", kept.get("size", HISTORY_SIZE))
        checked[pattern] = size, check_seconds(f"{name}['ttl']", kept.get("ttl", HISTORY_TTL_S))
    return checked


def check_event_type(name: str, value: Any) -> str | None:
    """Return the type of a message for consumers, such as ``"redis.disconnect"``."""
    if value is None or (isinstance(value, str) and value):
        return value
    raise ConfigurationError(f"{name} must be a message type such as 'redis.lost', or None.")


def check_random_prefix_length(value: Any) -> int:
    """Return the number of random bytes in front of a queued message; 0 or less for none."""
    count = _whole_number("random_prefix_length", value)
    if count > RANDOM_BYTES_MAX:
        raise ConfigurationError(f"random_prefix_length must be at most {RANDOM_BYTES_MAX}.")
    return count


def check_default(value: Any) -> Default | None:
    """Return the hook for values that a format does not support, or None."""
    if value is None or value is False:
        return None
    if value is True:
        return encode_default
    if isinstance(value, str):
        try:
            value = import_string(value)
        except (ImportError, TypeError, ValueError) as error:
            raise ConfigurationError(f"serializer_default: {error}.") from error
    if not callable(value):
        raise ConfigurationError(
            "serializer_default must be True, the dotted path of a function or a function that "
            f"takes a value and returns a replacement, not {_kind(value)}."
        )
    hook: Default = value
    return hook


def check_binding(value: Any) -> str:
    """Return the value of the option ``encryption_binding``."""
    if isinstance(value, str) and value in BINDINGS:
        return value
    raise ConfigurationError(
        f"encryption_binding must be one of {', '.join(map(repr, BINDINGS))}, not "
        f"{repr(value) if isinstance(value, str) else _kind(value)}."
    )


def given(**options: Any) -> dict[str, Any]:
    """Return the options that are not None, so that a callee need not accept unused ones."""
    return {name: value for name, value in options.items() if value is not None}


def refuse_unknown(unknown: Iterable[str], known: Iterable[str]) -> None:
    """Raise for options that do not exist; the error suggests the closest one."""
    known = sorted(known)
    for name in unknown:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are: {', '.join(known)}."
        raise ConfigurationError(f"There is no option {name!r} of the channel layer; {hint}")


def _kind(value: Any) -> str:
    return f"a value of type {type(value).__name__}"
