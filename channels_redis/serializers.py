"""Message <-> bytes: the formats, their registry, encryption.

Independent of Redis.  The bytes are those of channels_redis 4.3.0, so old and new processes can
share one server.  Serializers keep no state between calls, so several threads can use one.
"""

from __future__ import annotations

import abc
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgpack

from ._format.bounds import check_json, unpack_msgpack
from ._format.encryption import Crypter, make_crypter
from ._format.plain import encode_default, is_flat
from .exceptions import ConfigurationError, SerializationError

__all__ = [
    "BaseMessageSerializer",
    "InvalidSerializer",
    "JSONSerializer",
    "MissingSerializer",
    "MsgPackSerializer",
    "SerializerDoesNotExist",
    "SerializersRegistry",
    "encode_default",
    "registry",
]

#: A hook for values that a format does not support: returns a replacement, or raises ``TypeError``
#: for a value that it does not support either.  Like ``json.dumps(default=...)``.
Default = Callable[[Any], Any]

#: For larger messages it is faster to check whether they are flat than to unpack them again.
_LARGE_BYTES = 10_000

_PATH_STEPS = 20
_HINT = ", unless the option serializer_default is True"
_KEY_CHARACTERS_SHOWN = 40


class SerializerDoesNotExist(ConfigurationError, KeyError):
    """No serializer is registered under the name of a format."""

    __str__ = Exception.__str__  # KeyError's own would put the whole sentence in quotes


class InvalidSerializer(ConfigurationError, AssertionError):
    """An object that was registered is not a valid serializer class."""


class BaseMessageSerializer(abc.ABC):
    """A format, defined by ``as_bytes`` and ``from_bytes``, with encryption and random prefix.

    The random prefix makes the members of a queue unique.  ``expiry`` is kept for subclasses;
    only the score in Redis decides on the age of a message, because the time stamp of a Fernet
    token comes from the sender's clock.  ``default`` is the hook of the option
    ``serializer_default``, which ``as_bytes`` has to call for values that the format does not
    support.
    """

    def __init__(
        self,
        symmetric_encryption_keys: list[str | bytes] | tuple[str | bytes, ...] | None = None,
        random_prefix_length: int = 0,
        expiry: float | None = None,
        default: Default | None = None,
    ) -> None:
        if not isinstance(random_prefix_length, int):
            raise ConfigurationError("random_prefix_length must be a whole number of bytes.")
        self.random_prefix_length = random_prefix_length
        self.expiry = expiry
        self.default = default
        self.crypter: Crypter | None = make_crypter(symmetric_encryption_keys)

    @abc.abstractmethod
    def as_bytes(self, message: Any) -> bytes:
        """Encode a message in the format, without encryption and random prefix."""

    @abc.abstractmethod
    def from_bytes(self, message: bytes) -> Any:
        """Decode the bytes of ``as_bytes``."""

    def serialize(self, message: Any) -> bytes:
        """Return the bytes that go on the wire."""
        return self._sealed(self.as_bytes(message), self.crypter)

    def deserialize(self, message: bytes) -> Any:
        """Decode the bytes of ``serialize``; raises SerializationError for other bytes."""
        return self._decoded(self._unsealed(message, self.crypter))

    def _sealed(self, data: bytes, crypter: Crypter | None) -> bytes:
        if crypter is not None:
            data = crypter.encrypt(data)
        if self.random_prefix_length > 0:
            data = os.urandom(self.random_prefix_length) + data
        return data

    def _unsealed(self, message: bytes, crypter: Crypter | None) -> bytes:
        if self.random_prefix_length > 0:
            message = message[self.random_prefix_length :]
        return message if crypter is None else self._decrypt(crypter, message)

    def _decoded(self, data: bytes) -> Any:
        try:
            return self.from_bytes(data)
        except SerializationError:
            raise
        except Exception as error:
            raise SerializationError(f"{type(self).__name__} can't decode the message.") from error

    @staticmethod
    def _decrypt(crypter: Crypter, token: bytes) -> bytes:
        try:
            return crypter.decrypt(token)
        except SerializationError:
            raise
        except Exception as error:
            raise SerializationError(
                "The message can't be decrypted with any key of symmetric_encryption_keys."
            ) from error


class MissingSerializer(BaseMessageSerializer):
    """A placeholder for a format whose library is not installed.

    A subclass sets ``exception`` to the ImportError, which is raised when the format is used.
    """

    exception: Exception | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise self.exception or ImportError(f"{type(self).__name__} needs a library not installed.")

    def as_bytes(self, message: Any) -> bytes:
        """Never reached."""
        raise NotImplementedError

    def from_bytes(self, message: bytes) -> Any:
        """Never reached."""
        raise NotImplementedError


class JSONSerializer(BaseMessageSerializer):
    """JSON text.  Keys that are numbers, booleans or None arrive as strings."""

    # Subclasses of ValueError (UnicodeError, circular structures) are covered.
    _refusals = (TypeError, ValueError, RecursionError)

    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
        """Encode as JSON; raises SerializationError with the path to an unsupported value.

        Subclasses may pass options of ``json.dumps()``.
        """
        options = {"default": self.default, **kwargs}
        try:
            text = json.dumps(message, *args, **options)
            check_json(text)
            return text.encode("utf-8")
        except self._refusals:
            pass  # raised below, outside of this block: the cause may quote the message
        raise _refusal("JSON", message, partial(self._encodes, options), options["default"])

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
        """Decode JSON; subclasses may pass options of ``json.loads()``."""
        try:
            text = message.decode("utf-8")
            check_json(text)
            return json.loads(text, *args, **kwargs)
        except self._refusals:
            pass  # as above
        raise SerializationError("The message is not valid JSON.")

    def _encodes(self, options: dict[str, Any], value: Any) -> bool:
        try:
            check_json(json.dumps(value, **options))
        except self._refusals:
            return False
        return True


class MsgPackSerializer(BaseMessageSerializer):
    """MessagePack.  Keys must be str or bytes: receivers refuse maps with other keys, unless a
    subclass has its own ``from_bytes``.
    """

    _refusals = (TypeError, ValueError, OverflowError, RecursionError)

    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
        """Pack; raises SerializationError with the path to a value that receivers could not unpack.

        Subclasses may pass options of ``msgpack.packb()``.
        """
        options = {"default": self.default, **kwargs}
        try:
            return self._pack(options, message, *args)
        except self._refusals:
            pass  # raised below, outside of this block: the cause may quote the message
        raise _refusal("msgpack", message, partial(self._encodes, options), options["default"])

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
        """Unpack; subclasses may pass options of ``msgpack.unpackb()``."""
        try:
            if args or kwargs:
                return msgpack.unpackb(message, *args, **kwargs)
            return unpack_msgpack(message)
        except (*self._refusals, msgpack.UnpackException):
            pass  # as above
        raise SerializationError("The message is not valid msgpack.")

    def _pack(self, options: dict[str, Any], value: Any, *args: Any) -> bytes:
        data: bytes = msgpack.packb(value, *args, **options)
        # Unpack to check that receivers can: checking all keys in Python takes as long and finds
        # less.  A subclass with its own from_bytes() may unpack other values.
        plainly = len(data) > _LARGE_BYTES and not args and len(options) == 1 and is_flat(value)
        if not plainly and type(self).from_bytes is MsgPackSerializer.from_bytes:
            unpack_msgpack(data)
        return data

    def _encodes(self, options: dict[str, Any], value: Any) -> bool:
        try:
            self._pack(options, value)
        except self._refusals:
            return False
        return True


class SerializersRegistry:
    """Serializer classes by the name of their format."""

    def __init__(self) -> None:
        self._classes: dict[str, Callable[..., Any]] = {}

    def register_serializer(self, format: str, serializer_class: type) -> None:
        """Register ``serializer_class`` for ``format``, replacing an earlier class."""
        if not isinstance(serializer_class, type) or not all(
            callable(getattr(serializer_class, method, None))
            for method in ("serialize", "deserialize")
        ):
            raise InvalidSerializer(
                f"The serializer for {format!r} must be a class with the methods serialize and "
                "deserialize, such as a subclass of BaseMessageSerializer."
            )
        self._classes[format] = serializer_class

    def get_serializer(self, format: str, *args: Any, **kwargs: Any) -> Any:
        """Create a serializer for ``format``; the other arguments are passed to its class."""
        try:
            serializer_class = self._classes[format]
        except (KeyError, TypeError):  # the latter for what can't be a key
            known = ", ".join(sorted(self._classes)) or "none"
            shown = repr(format) if isinstance(format, str) else _article_and_type(format)
            raise SerializerDoesNotExist(
                f"No serializer is registered for the format {shown}. Known formats: {known}."
            ) from None
        return serializer_class(*args, **kwargs)


# Finding the value that can't be encoded.  Done only after encoding has failed, with a limited
# number of steps, because a client may have sent a very deep message.


def _refusal(
    format: str, message: Any, encodes: Callable[[Any], bool], default: Default | None
) -> SerializationError:
    """Return an error with the path to the first value or key that can't be encoded."""
    path, value, seen = "message", message, {id(message)}
    for _ in range(_PATH_STEPS):
        found = next(_unencodable_children(_replaced(value, default), encodes), None)
        if found is None:
            hint = _HINT if default is None and _is_encoded_by_default(value) else ""
            return SerializationError(f"{path} {_trouble(format, value, encodes)}{hint}.")
        step, value, is_key = found
        if is_key:
            return SerializationError(
                f"{path} has the key {step}, {_article_and_type(value)}: {format} "
                "doesn't support such keys."
            )
        path += f"[{step}]"
        if id(value) in seen:
            return SerializationError(f"{path} contains itself.")
        seen.add(id(value))
    return SerializationError(
        f"{path} is nested too deeply for {format}, or contains unsupported values."
    )


def _unencodable_children(
    value: Any, encodes: Callable[[Any], bool]
) -> Iterator[tuple[str, Any, bool]]:
    """Yield (step of the path, offender, whether it is the key) of a dict's or list's parts."""
    if isinstance(value, dict):
        for key, child in value.items():
            if not encodes({key: None}):
                yield _printable_key(key), key, True
            if not encodes(child):
                yield _printable_key(key), child, False
    elif isinstance(value, (list, tuple)):
        for position, child in enumerate(value):
            if not encodes(child):
                yield str(position), child, False


def _replaced(value: Any, default: Default | None) -> Any:
    """Return the hook's replacement of a value, such as a list for a set, or else the value."""
    if default is None or isinstance(value, (dict, list, tuple, str, bytes, int, float)):
        return value
    try:
        return default(value)
    except (TypeError, ValueError, RecursionError):
        return value


def _is_encoded_by_default(value: Any) -> bool:
    try:
        encode_default(value)
    except Exception:  # noqa: BLE001 (a subclass of a type that it takes may raise anything)
        return False
    return True


def _trouble(format: str, value: Any, encodes: Callable[[Any], bool]) -> str:
    if isinstance(value, (dict, list, tuple)) and encodes(type(value)()):
        return f"is nested too deeply for {format}, or contains too many lists and dicts"
    if isinstance(value, str):
        return "is a str with lone surrogates, which UTF-8 can't encode"
    if isinstance(value, int):
        return f"is an int too large for {format}"
    return f"is {_article_and_type(value)}, a type that {format} doesn't support"


def _printable_key(key: Any) -> str:
    if isinstance(key, str):
        return json.dumps(str.__str__(key)[:_KEY_CHARACTERS_SHOWN])
    if type(key) in (bytes, int, float, bool, type(None)):
        return repr(key)[:_KEY_CHARACTERS_SHOWN]
    return f"<{_type_name(key)}>"


def _type_name(value: Any) -> str:
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _article_and_type(value: Any) -> str:
    name = _type_name(value)
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


registry = SerializersRegistry()
registry.register_serializer("json", JSONSerializer)
registry.register_serializer("msgpack", MsgPackSerializer)
