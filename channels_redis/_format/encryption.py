"""The encryption of messages: keys, tokens, and the place that a token belongs to.

A token is Fernet's: encrypted and authenticated, and by itself good for any queue and topic of
all layers with its key.  A *bound* token also holds the hash of its place, and is made with a key
of its own, derived from the same secret: so what is not bound can't be taken for what is,
whatever the format of the message inside.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Protocol

from ..exceptions import ConfigurationError
from .bounds import Unacceptable

#: The steps of the option ``encryption_binding``, in the order in which a fleet takes them.
BINDINGS = (OFF, WRITE, REQUIRE) = ("off", "write", "require")

_DIGEST_BYTES = hashlib.sha256().digest_size


class Crypter(Protocol):
    """What ``BaseMessageSerializer.crypter`` offers: Fernet's interface."""

    def encrypt(self, data: bytes, /) -> bytes:
        """Return the token that carries ``data``."""
        ...

    def decrypt(self, token: bytes, /) -> bytes:
        """Undo ``encrypt``; raise where no key fits."""
        ...


class Place(NamedTuple):
    """Where a message is sent: ``kind`` is ``queue`` or ``topic``."""

    kind: str
    prefix: str
    name: str

    def digest(self) -> bytes:
        """Return a hash that no other place has."""
        return hashlib.sha256(json.dumps(self).encode()).digest()


class Binding:
    """Encrypts for a place, and decrypts what was encrypted for it.

    ``step`` is one of :data:`BINDINGS`.  Both kinds of tokens are read until ``REQUIRE``.
    """

    def __init__(self, crypter: Crypter, keys: Any, step: str) -> None:
        self._unbound = crypter
        self._bound = make_crypter(keys, bound=True)
        self._step = step

    def at(self, place: Place) -> Crypter:
        """Return the crypter of a place."""
        return _BoundCrypter(self, place)

    def encrypt(self, data: bytes, place: Place) -> bytes:
        """Return the token that carries ``data`` to a place."""
        if self._step == OFF or self._bound is None:
            return self._unbound.encrypt(data)
        return self._bound.encrypt(place.digest() + data)

    def decrypt(self, token: bytes, place: Place) -> bytes:
        """Undo :meth:`encrypt`; raises :class:`Unacceptable` for what is for another place, or
        bound to none where that is required, and whatever the crypter does where no key fits.
        """
        if self._bound is None:
            return self._unbound.decrypt(token)
        first, second = self._bound, self._unbound
        if self._step == OFF:
            first, second = second, first
        used = first
        try:
            data = first.decrypt(token)
        except Exception:  # noqa: BLE001 (whatever a crypter raises)
            used, data = second, second.decrypt(token)
        if used is self._bound:
            return _content(data, place)
        if self._step == REQUIRE:
            raise Unacceptable("unbound", "The message is not bound to a queue or topic.")
        return data


class _BoundCrypter:
    """A binding at one place."""

    __slots__ = ("_binding", "_place")

    def __init__(self, binding: Binding, place: Place) -> None:
        self._binding = binding
        self._place = place

    def encrypt(self, data: bytes, /) -> bytes:
        return self._binding.encrypt(data, self._place)

    def decrypt(self, token: bytes, /) -> bytes:
        return self._binding.decrypt(token, self._place)


def _content(data: bytes, place: Place) -> bytes:
    if data[:_DIGEST_BYTES] != place.digest():
        raise Unacceptable("misplaced", "The message was encrypted for another queue or topic.")
    return data[_DIGEST_BYTES:]


def make_crypter(keys: Any, *, bound: bool = False) -> Crypter | None:
    """Make the MultiFernet of the option ``symmetric_encryption_keys``, None without keys."""
    if keys is None:
        return None
    if isinstance(keys, (str, bytes, Mapping)) or not isinstance(keys, Collection):
        raise ConfigurationError(
            "symmetric_encryption_keys must be a list of keys, such as [SECRET_KEY], "
            f"not a value of type {type(keys).__name__}."
        )
    for position, key in enumerate(keys):
        if not isinstance(key, (str, bytes)) or not key:
            raise ConfigurationError(
                f"symmetric_encryption_keys[{position}] must be a str or bytes that isn't empty."
            )
        # Encoding it would raise an error that holds the key.
        if isinstance(key, str) and any("\ud800" <= sign <= "\udfff" for sign in key):
            raise ConfigurationError(
                f"symmetric_encryption_keys[{position}] has a lone surrogate, not a character."
            )
    if not keys:
        return None
    try:
        # An extra, which not everybody has installed.
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        raise ConfigurationError(
            "symmetric_encryption_keys needs the package cryptography: "
            "pip install 'channels-redis[cryptography]'"
        ) from error
    return MultiFernet([Fernet(_fernet_key(key, bound)) for key in keys])


def is_ours(crypter: Crypter | None) -> bool:
    """Tell whether a crypter is what :func:`make_crypter` makes, and not a subclass's own."""
    kind = type(crypter)
    return (kind.__module__, kind.__qualname__) == ("cryptography.fernet", "MultiFernet")


def _fernet_key(key: str | bytes, bound: bool) -> bytes:
    secret = key.encode("utf-8") if isinstance(key, str) else key
    hashed = hashlib.sha256(secret).digest()
    if bound:
        hashed = hmac.digest(hashed, b"channels_redis: bound to a place", "sha256")
    return base64.urlsafe_b64encode(hashed)
