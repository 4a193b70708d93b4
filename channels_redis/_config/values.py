"""Checks the values of connection keywords, which would otherwise fail at the first connection.

The texts of errors contain no values.  Does not import redis-py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..exceptions import ConfigurationError

_TEXTS = ("username", "password", "client_name", "lib_name", "lib_version", "host")


def check_values(where: str, options: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigurationError` for the first keyword with an invalid value."""
    for keyword, (is_right, what) in _EXPECTED.items():
        value = options.get(keyword)
        if value is not None and not is_right(value):
            raise ConfigurationError(f"{where}: {keyword} must be {what}.")
    encoding = options.get("encoding") or "utf-8", options.get("encoding_errors") or "strict"
    if not _is_encodable("\xe9", "ascii", encoding[1]) and encoding[1] != "strict":
        raise ConfigurationError(f"{where}: encoding_errors must name an error handler of Python.")
    if not _is_encodable("", *encoding):
        raise ConfigurationError(f"{where}: encoding must name an encoding of Python.")
    for keyword in _TEXTS:
        value = options.get(keyword)
        if isinstance(value, str) and not _is_encodable(value, *encoding):
            raise ConfigurationError(f"{where}: {keyword} has a character that can't be encoded.")


def _is_encodable(text: str, encoding: Any, errors: Any) -> bool:
    try:
        return isinstance(text.encode(encoding, errors), bytes)
    except (LookupError, TypeError, ValueError):  # of these, UnicodeError is one
        return False


def _is_duration(value: Any) -> bool:
    try:
        return not isinstance(value, (bool, str, bytes)) and math.isfinite(value) and value >= 0
    except (TypeError, OverflowError):
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, bytes, int, float))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _gives_credentials(value: Any) -> bool:
    asked = ("get_credentials", "get_credentials_async")
    return not isinstance(value, type) and all(callable(getattr(value, one, None)) for one in asked)


def _retries(value: Any) -> bool:
    return callable(getattr(value, "call_with_retry", None)) and not isinstance(value, type)


def _are_errors(value: Any) -> bool:
    return isinstance(value, (list, tuple, set, frozenset)) and all(
        isinstance(one, type) and issubclass(one, BaseException) for one in value
    )


def _is_protocol(value: Any) -> bool:
    return isinstance(value, (int, str)) and value in (2, 3, "2", "3")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


_Expected = tuple[Callable[[Any], bool], str]
_SECONDS: _Expected = (_is_duration, "a number of seconds")
_TEXT: _Expected = (_is_text, "a str")
_NAME: _Expected = (_is_name, "a name")
_FUNCTION: _Expected = (callable, "a function or a class")

_EXPECTED: dict[str, _Expected] = {
    "socket_timeout": _SECONDS,
    "socket_connect_timeout": _SECONDS,
    "health_check_interval": _SECONDS,
    "timeout": _SECONDS,
    "socket_read_size": (_is_count, "a whole number of bytes"),
    "host": (_is_name, "a name or address"),
    "username": _TEXT,
    "password": _TEXT,
    "client_name": _TEXT,
    "encoding": _NAME,
    "encoding_errors": _NAME,
    "credential_provider": (_gives_credentials, "an object such as redis.CredentialProvider"),
    "protocol": (_is_protocol, "2 or 3"),
    "retry": (_retries, "an object such as redis.asyncio.retry.Retry"),
    "retry_on_error": (_are_errors, "a list of classes of errors"),
    "socket_keepalive_options": (
        lambda value: isinstance(value, Mapping),
        "a dict of the socket module's options",
    ),
    "redis_connect_func": _FUNCTION,
    "parser_class": _FUNCTION,
    "encoder_class": _FUNCTION,
}
