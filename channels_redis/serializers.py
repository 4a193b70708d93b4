"""Message <-> bytes: the formats, their registry, encryption.

Knows no Redis.  The bytes are those of channels_redis 4.3.0, so old and new processes can share
one server.  Nothing here keeps state between calls: one serializer serves many threads at once.
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

#: A hook for values that a format does not carry: returns what to send instead, or raises
#: ``TypeError`` for a value that it does not know either.  As ``json.dumps(default=...)``.
Default = Callable[[Any], Any]

#: From here on it is quicker to look whether a message is flat than to unpack it again.
_LARGE_BYTES = 10_000

_PATH_STEPS = 20
_HINT = ", unless the option serializer_default is True"
_KEY_CHARACTERS_SHOWN = 40


class SerializerDoesNotExist(ConfigurationError, KeyError):
    """No serializer is registered under the name of a format."""

    __str__ = Exception.__str__  # KeyError's own would put the whole sentence in quotes


class InvalidSerializer(ConfigurationError, AssertionError):
    """What was given to the registry can't serve as a serializer."""


class BaseMessageSerializer(abc.ABC):
    """A format, given by ``as_bytes`` and ``from_bytes``, with encryption and random prefix.

    The random bytes in front make the members of a queue unique.  ``expiry`` is kept for
    subclasses; the age of a message is judged by its score in Redis alone, since the time
    stamp of a Fernet token comes from the sender's clock.  ``default`` is the hook of the option
    ``serializer_default``, which ``as_bytes`` has to call for what the format does not carry.
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
        """Put a message into the format, without encryption and random prefix."""

    @abc.abstractmethod
    def from_bytes(self, message: bytes) -> Any:
        """Undo ``as_bytes``."""

    def serialize(self, message: Any) -> bytes:
        """Return the bytes that go on the wire."""
        return self._sealed(self.as_bytes(message), self.crypter)

    def deserialize(self, message: bytes) -> Any:
        """Undo ``serialize``; SerializationError where the bytes aren't of its making."""
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
            raise SerializationError(
                f"{type(self).__name__} can't decode what was received."
            ) from error

    @staticmethod
    def _decrypt(crypter: Crypter, token: bytes) -> bytes:
        try:
            return crypter.decrypt(token)
        except SerializationError:
            raise
        except Exception as error:
            raise SerializationError(
                "What was received can't be decrypted with any key of symmetric_encryption_keys."
            ) from error


class MissingSerializer(BaseMessageSerializer):
    """Holds the place of a format whose library isn't installed.

    A subclass sets ``exception`` to the ImportError; whoever asks for the format gets it.
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
        """Write JSON; SerializationError with the path to what JSON can't carry.

        Subclasses may hand on options of ``json.dumps()``.
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
        """Read JSON; subclasses may hand on options of ``json.loads()``."""
        try:
            text = message.decode("utf-8")
            check_json(text)
            return json.loads(text, *args, **kwargs)
        except self._refusals:
            pass  # as above
        raise SerializationError("What was received is not valid JSON.")

    def _encodes(self, options: dict[str, Any], value: Any) -> bool:
        try:
            check_json(json.dumps(value, **options))
        except self._refusals:
            return False
        return True


class MsgPackSerializer(BaseMessageSerializer):
    """MessagePack.  Keys must be str or bytes: receivers refuse maps with any other, unless a
    subclass has its own ``from_bytes``.
    """

    _refusals = (TypeError, ValueError, OverflowError, RecursionError)

    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
        """Pack; SerializationError with the path to what receivers could not unpack.

        Subclasses may hand on options of ``msgpack.packb()``.
        """
        options = {"default": self.default, **kwargs}
        try:
            return self._pack(options, message, *args)
        except self._refusals:
            pass  # raised below, outside of this block: the cause may quote the message
        raise _refusal("msgpack", message, partial(self._encodes, options), options["default"])

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
        """Unpack; subclasses may hand on options of ``msgpack.unpackb()``."""
        try:
            if args or kwargs:
                return msgpack.unpackb(message, *args, **kwargs)
            return unpack_msgpack(message)
        except (*self._refusals, msgpack.UnpackException):
            pass  # as above
        raise SerializationError("What was received is not valid msgpack.")

    def _pack(self, options: dict[str, Any], value: Any, *args: Any) -> bytes:
        data: bytes = msgpack.packb(value, *args, **options)
        # Unpacking, as receivers will, is the cheapest proof that they can: a check of all keys
        # in Python takes as long and says less.  What a subclass unpacks, it alone knows.
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
        """Let ``serializer_class`` serve ``format``, in place of what did before."""
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
        """Make a serializer for ``format``; the other arguments go to its class."""
        try:
            serializer_class = self._classes[format]
        except (KeyError, TypeError):  # the latter for what can't be a key
            known = ", ".join(sorted(self._classes)) or "none"
            shown = repr(format) if isinstance(format, str) else _article_and_type(format)
            raise SerializerDoesNotExist(
                f"No serializer is registered for the format {shown}. Known formats: {known}."
            ) from None
        return serializer_class(*args, **kwargs)


# Where in a message the trouble is.  Looked for only after encoding failed, and not for ever:
# whoever sends what a client sent him must not be held up by how deep it is.


def _refusal(
    format: str, message: Any, encodes: Callable[[Any], bool], default: Default | None
) -> SerializationError:
    """Make the error that leads to the first value or key which can't be encoded."""
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
                "doesn't carry such keys."
            )
        path += f"[{step}]"
        if id(value) in seen:
            return SerializationError(f"{path} contains itself.")
        seen.add(id(value))
    return SerializationError(
        f"{path} is nested too deep for {format}, or holds what {format} doesn't carry."
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
    """Return what a hook makes of a value, such as a list of a set; the value if it can't."""
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
        return f"is nested too deep for {format}, or holds too many lists and dicts"
    if isinstance(value, str):
        return "is a str with lone surrogates, which UTF-8 can't encode"
    if isinstance(value, int):
        return f"is an int too large for {format}"
    return f"is {_article_and_type(value)}, a type that {format} doesn't carry"


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
