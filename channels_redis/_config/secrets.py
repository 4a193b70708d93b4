"""Removes passwords, tokens and keys from texts and errors.

This is the only module that does so.  It is used for errors of connections, for texts about servers
and for the output of the doctor.  Does not import redis-py.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote

#: The replacement of a secret.
REMOVED = "***"

#: Shorter secrets are parts of too many words, and are not removed.
_SHORTEST = 4
#: A server that quotes what it was sent may cut it off: so much of a secret is taken for all of it.
_TELLING = 12
#: Tokens remembered of one provider: the one in use, and those that are still being replaced.
_TOKENS = 8

_KEYS = "symmetric_encryption_keys"
_NESTED = ("hosts", "address", "sentinel_kwargs")

E = TypeVar("E", bound=BaseException)


class Secrets:
    """The secrets in entries of ``hosts``, in a ``CONFIG`` or in connection keywords."""

    def __init__(self, *settings: Any) -> None:
        self._settings = settings

    def text(self, text: str) -> str:
        """Return a text without the secrets, including a truncated one at its beginning."""
        for secret in self._known():
            text = _without(text, secret)
        return text

    def error(self, error: E) -> E:
        """Remove the secrets from an error and all its causes, in place; return the error."""
        for one in causes_of(error):
            one.args = tuple(self._argument(value) for value in one.args)
            # Since Python 3.11.
            notes: list[str] = getattr(one, "__notes__", [])
            notes[:] = [self.text(note) for note in notes]
            # Attributes that can't be changed, such as the object of a UnicodeError, are removed.
            if one.__cause__ is not None and self._holds(one.__cause__):
                one.__cause__ = None
            if one.__context__ is not None and self._holds(one.__context__):
                one.__context__ = None
        return error

    def _argument(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (bytes, BaseException)):
            return self.text(str(value))
        return value

    def _holds(self, error: BaseException) -> bool:
        said = f"{error} {error!r}" if isinstance(error, UnicodeError) else ""
        return self.text(said) != said

    def _known(self) -> set[str]:
        found = {form for one in self._settings for secret in _in(one) for form in _forms(secret)}
        return {secret for secret in found if len(secret) >= _SHORTEST}


NO_SECRETS = Secrets()


def _in(setting: Any) -> Iterator[str]:
    """Yield the secrets in a setting of any form, even an invalid one."""
    if isinstance(setting, str):
        yield from _in_address(setting)
    elif isinstance(setting, Mapping):
        for name, value in setting.items():
            if name == "credential_provider":
                yield from _tokens.get(id(getattr(value, "source", value)), ())
            elif name == _KEYS or "password" in str(name):
                yield from _texts(value)
            elif name in _NESTED:
                yield from _in(value)
    elif isinstance(setting, (list, tuple)):
        for value in setting:
            yield from _in(value)


def _in_address(address: str) -> Iterator[str]:
    before, at, _ = address.rpartition("@")
    if at:
        password = before.rpartition("://")[2].partition(":")[2]
        yield password
        yield unquote(password)
    for name, value in parse_qsl(address.partition("?")[2]):
        if "password" in name:
            yield value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _texts(item)


def _forms(secret: str) -> set[str]:
    """Return the forms of a secret in texts: unchanged, in a URL, with backslashes."""
    return {secret, quote(secret, safe="", errors="replace"), repr(secret)[1:-1]}


def _without(text: str, secret: str) -> str:
    start, secret = _lower(secret[:_TELLING]), _lower(secret)
    at = _lower(text).find(start)
    while at >= 0:
        pairs = zip(_lower(text)[at:], secret, strict=False)
        length = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        text = text[:at] + REMOVED + text[at + length :]
        at = _lower(text).find(start, at + len(REMOVED))
    return text


def _lower(text: str) -> str:
    """Return a text in lower case, unless this changes its length."""
    lower = text.lower()
    return lower if len(lower) == len(text) else text


# Credentials that providers have returned


# By identity, because a provider need not be hashable.
_tokens: dict[int, deque[str]] = {}


def remember(provider: Any, secret: Any) -> None:
    """Remember a password or token that a provider has returned."""
    key = id(provider)
    if key not in _tokens:
        _tokens[key] = deque(maxlen=_TOKENS)
        with contextlib.suppress(TypeError):  # of a class without weak references
            weakref.finalize(provider, _tokens.pop, key, None)
    for text in _texts(secret):
        if text not in _tokens[key]:
            _tokens[key].append(text)


# Causes of an error


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all its causes, the nearest first."""
    waiting = deque([error])
    seen: set[int] = set()
    while waiting:
        one = waiting.popleft()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += (one.__cause__, one.__context__)
