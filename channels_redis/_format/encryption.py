"""The encryption of messages: keys, tokens, and the place to which a token is bound.

A token is a Fernet token: encrypted and authenticated, but valid for any queue and topic of all
layers with its key.  A *bound* token also contains the hash of its place, and is encrypted with
another key derived from the same secret, so that an unbound token can't be mistaken for a bound
one, whatever the format of the message.
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

#: The values of the option ``encryption_binding``, in the order in which a site should set them.
BINDINGS = (OFF, WRITE, REQUIRE) = ("off", "write", "require")

_DIGEST_BYTES = hashlib.sha256().digest_size


class Crypter(Protocol):
    """The interface of ``BaseMessageSerializer.crypter``, which is that of Fernet."""

    def encrypt(self, data: bytes, /) -> bytes:
        """Return a token with ``data``."""
        ...

    def decrypt(self, token: bytes, /) -> bytes:
        """Decrypt a token; raise if no key fits."""
        ...


class Place(NamedTuple):
    """The destination of a message; ``kind`` is ``queue`` or ``topic``."""

    kind: str
    prefix: str
    name: str

    def digest(self) -> bytes:
        """Return a hash that identifies the place."""
        return hashlib.sha256(json.dumps(self).encode()).digest()


class Binding:
    """Encrypts messages for a place, and decrypts messages that were encrypted for it.

    ``step`` is one of :data:`BINDINGS`.  Both kinds of tokens are accepted, except with
    ``REQUIRE``.
    """

    def __init__(self, crypter: Crypter, keys: Any, step: str) -> None:
        self._unbound = crypter
        self._bound = make_crypter(keys, bound=True)
        self._step = step

    def encrypt(self, data: bytes, place: Place) -> bytes:
        """Return a token with ``data`` for a place."""
        if self._step == OFF or self._bound is None:
            return self._unbound.encrypt(data)
        return self._bound.encrypt(place.digest() + data)

    def decrypt(self, token: bytes, place: Place) -> bytes:
        """Decrypt a token.  Raises :class:`Unacceptable` if it is for another place, or not bound
        although this is required, and the crypter's exception if no key fits.
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


class CrypterAt(NamedTuple):
    """A binding at one place, with the interface of :class:`Crypter`."""

    binding: Binding
    place: Place

    def encrypt(self, data: bytes, /) -> bytes:
        """Return a token with ``data`` for the place."""
        return self.binding.encrypt(data, self.place)

    def decrypt(self, token: bytes, /) -> bytes:
        """Decrypt a token; raises what :meth:`Binding.decrypt` raises."""
        return self.binding.decrypt(token, self.place)


def _content(data: bytes, place: Place) -> bytes:
    if data[:_DIGEST_BYTES] != place.digest():
        raise Unacceptable("misplaced", "The message was encrypted for another queue or topic.")
    return data[_DIGEST_BYTES:]


def person_secret(keys: Any) -> bytes:
    """Return the key of the hashes that identify users in Redis; empty without encryption."""
    first = next(iter(keys or ()), b"")
    secret = first.encode() if isinstance(first, str) else bytes(first)
    return hashlib.sha256(b"channels_redis presence" + secret).digest() if secret else b""


def make_crypter(keys: Any, *, bound: bool = False) -> Crypter | None:
    """Return the MultiFernet for the option ``symmetric_encryption_keys``, None without keys."""
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
        # Encoding it would raise an error that contains the key.
        if isinstance(key, str) and any("\ud800" <= sign <= "\udfff" for sign in key):
            raise ConfigurationError(
                f"symmetric_encryption_keys[{position}] has a lone surrogate, not a character."
            )
    if not keys:
        return None
    try:
        # An optional dependency.
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        raise ConfigurationError(
            "symmetric_encryption_keys needs the package cryptography: "
            "pip install 'channels-redis[cryptography]'"
        ) from error
    return MultiFernet([Fernet(_fernet_key(key, bound)) for key in keys])


def is_ours(crypter: Crypter | None) -> bool:
    """Return whether a crypter was created by :func:`make_crypter`, and not by a subclass."""
    kind = type(crypter)
    return (kind.__module__, kind.__qualname__) == ("cryptography.fernet", "MultiFernet")


def _fernet_key(key: str | bytes, bound: bool) -> bytes:
    secret = key.encode("utf-8") if isinstance(key, str) else key
    hashed = hashlib.sha256(secret).digest()
    if bound:
        hashed = hmac.digest(hashed, b"channels_redis: bound to a place", "sha256")
    return base64.urlsafe_b64encode(hashed)
