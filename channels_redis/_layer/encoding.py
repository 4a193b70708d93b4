"""Converts messages to bytes: limited in size, encrypted, and bound to their destination if that is
configured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._format import frames
from .._format.bounds import ADDRESSES_BYTES, Unacceptable, longest_frame_bytes
from .._format.encryption import OFF, Binding, CrypterAt, Place, is_ours
from .._format.keyspace import ADDRESS_KEY, EXCLUDE_KEY, NONCE_KEY
from .._format.plain import is_flat
from .._receiving.messages import SMALL_BYTES, Item, Original, Packed, PackedOnce, Whole
from ..exceptions import (
    ConfigurationError,
    InvalidMessage,
    MessageTooLarge,
    SerializationError,
)
from ..serializers import BaseMessageSerializer, JSONSerializer, MsgPackSerializer

PlaceOf = Callable[[str], Place]
"""Returns the place of a queue's or a topic's name, which only encryption asks for."""

#: The formats of which everything is known, as none of a subclass's code runs.
_FORMATS: dict[type, frames.Format] = {
    MsgPackSerializer: frames.MSGPACK,
    JSONSerializer: frames.JSON,
}


def check_message(message: Any) -> None:
    """Raise :class:`InvalidMessage` if a message is not a dict, or uses a reserved key."""
    if not isinstance(message, dict):
        raise InvalidMessage(f"A message must be a dict, not {type(message).__name__}.")
    for key in (ADDRESS_KEY, NONCE_KEY, EXCLUDE_KEY):
        if key in message:
            raise InvalidMessage(f"The key {key!r} of a message is reserved for the channel layer.")


def is_separable(serializer: Any) -> bool:
    """Return whether encoding, encryption and random bytes of a message are separate steps."""
    return (
        isinstance(serializer, BaseMessageSerializer)
        and type(serializer).serialize is BaseMessageSerializer.serialize
        and type(serializer).deserialize is BaseMessageSerializer.deserialize
    )


def make_binding(crypter: Any, keys: Any, option: str) -> Binding | None:
    """Return what encrypts for a place; None where the layer itself does not encrypt."""
    if option != OFF and not is_ours(crypter):
        raise ConfigurationError(
            "encryption_binding needs symmetric_encryption_keys, a layer that overrides "
            "neither serialize() nor deserialize(), and a serializer that leaves both, and "
            "crypter, to BaseMessageSerializer."
        )
    return Binding(crypter, keys, option) if crypter is not None else None


class Encoding:
    """Encodes and decodes the messages of a layer.

    ``overrides`` are the methods ``serialize()`` and ``deserialize()`` of a layer that has its own.
    """

    def __init__(
        self,
        serializer: Any,
        binding: Binding | None,
        max_message_bytes: int,
        overrides: tuple[Callable[[Any], bytes], Callable[[bytes], Any]] | None,
    ) -> None:
        self._serializer = serializer
        self._binding = binding
        self._max_message_bytes = max_message_bytes
        own = (serializer.serialize, serializer.deserialize)
        self._serialize: Callable[[Any], bytes] = (overrides or own)[0]
        self._deserialize: Callable[[bytes], Any] = (overrides or own)[1]
        self.separable = overrides is None and is_separable(serializer)
        self._longest_frame_bytes = longest_frame_bytes(
            max_message_bytes, plain=self.separable and binding is None
        )
        #: How to edit encoded messages; None where a user's serializer has to encode them.
        self.format = _FORMATS.get(type(serializer)) if self.separable else None

    def encode(self, message: Any, own: dict[str, Any], name: str, place_of: PlaceOf) -> bytes:
        """Return a message, with the layer's ``own`` keys after its own, as the bytes to send to
        the place of a name; raise :class:`MessageTooLarge` if it is too large.
        """
        frame = {**message, **own} if own else message
        if self._binding is None:
            data = self._serialize(frame)
        else:
            data = self._sealed(self._serializer.as_bytes(frame), name, place_of)
        if len(data) > self._max_message_bytes:
            self._check_size(message, len(data))
        return data

    def encode_more(self, body: bytes, own: dict[str, Any], name: str, place_of: PlaceOf) -> bytes:
        """The same for an already encoded message, whose size was checked."""
        assert self.format is not None
        return self._sealed(self.format.extended(body, own), name, place_of)

    def _sealed(self, body: bytes, name: str, place_of: PlaceOf) -> bytes:
        crypter = None if self._binding is None else CrypterAt(self._binding, place_of(name))
        data: bytes = self._serializer._sealed(body, crypter)
        return data

    def _unsealed(self, data: bytes, name: str, place_of: PlaceOf) -> bytes:
        crypter = None if self._binding is None else CrypterAt(self._binding, place_of(name))
        body: bytes = self._serializer._unsealed(data, crypter)
        return body

    def decode(self, data: bytes, name: str, place_of: PlaceOf) -> Any:
        """Decode the bytes of :meth:`encode`; raises :class:`Unacceptable` for bytes that must not
        be read.
        """
        self._check_frame(data)
        if self._binding is None:
            return self._deserialize(data)
        return self._serializer._decoded(self._unsealed(data, name, place_of))

    def _check_frame(self, data: bytes) -> None:
        """Raise :class:`Unacceptable` for frames longer than the limit."""
        if len(data) > self._longest_frame_bytes:
            raise Unacceptable("too_large", f"A frame of {len(data)} bytes was received.")

    def _check_size(self, message: Any, wire_bytes: int) -> None:
        """Raise :class:`MessageTooLarge` if the message itself is too large, or the names in its
        frame of ``wire_bytes`` are.
        """
        self.body(message)
        if wire_bytes > self._longest_frame_bytes:
            raise MessageTooLarge(
                f"The names in a frame of {wire_bytes} bytes take more than "
                f"{ADDRESSES_BYTES} bytes."
            )

    def body(self, message: Any) -> bytes:
        """Return the user's message as bytes, without addresses and, if possible, without
        encryption; raise :class:`MessageTooLarge` if it is too large.
        """
        body = self._serializer.as_bytes(message) if self.separable else self._serialize(message)
        if len(body) > self._max_message_bytes:
            raise MessageTooLarge(
                f"A message of {len(body)} bytes is over the limit of {self._max_message_bytes}; "
                "send a reference to the data, or raise the option max_message_bytes."
            )
        return body

    def read_frame(self, data: bytes, name: str, place_of: PlaceOf) -> tuple[Any, Item]:
        """Return the addresses in a frame, and the message as it is stored in their mailboxes;
        raises the exceptions of decoding.
        """
        # A short frame takes longer to divide than to decode, and perhaps encode, as a whole.
        parts = self._divided(data, name, place_of) if len(data) > SMALL_BYTES else None
        if parts is not None:
            addresses, message, body = parts
        else:
            message, body = self.decode(data, name, place_of), None
            addresses = message.pop(ADDRESS_KEY)
            message.pop(NONCE_KEY, None)
        has_one_receiver = isinstance(addresses, str) or len(addresses) == 1
        # What is not flat takes far more memory than its bytes, and may lie here for long.
        if has_one_receiver and (len(data) <= SMALL_BYTES or is_flat(message)):
            return addresses, Whole(message, len(data))
        return addresses, self.for_many(message, len(data), body)

    def _divided(self, data: bytes, name: str, place_of: PlaceOf) -> tuple[Any, Any, bytes] | None:
        """Return the addresses in a frame, the message, and its bytes, which need not be encoded
        again; None with a custom serializer, or if the addresses are not at the end.
        """
        self._check_frame(data)
        if self.format is None:
            return None
        parts = self.format.divided(self._unsealed(data, name, place_of))
        if parts is None:
            return None
        try:
            message, addresses = map(self._serializer.from_bytes, parts)
        except SerializationError:
            return None
        if ADDRESS_KEY in message or NONCE_KEY in message:
            return None
        return addresses, message, parts[0]

    def for_many(self, message: Any, wire_bytes: int, body: bytes | None = None) -> Item:
        """Return an item that each of many receivers can open; ``body`` is the encoded message, if
        known.
        """
        if not self.separable:
            return Original(message, wire_bytes)
        serializer = self._serializer
        if self.format is None:
            return Packed(serializer.as_bytes(message), serializer.from_bytes)
        return PackedOnce(body or serializer.as_bytes(message), serializer.from_bytes, message)

    def published(self, payload: bytes, topic: str, place_of: PlaceOf) -> Item:
        """Return what was published as an item for many: decrypted once, unpacked by each."""
        self._check_frame(payload)
        if not self.separable:
            return Packed(payload, self._deserialize)
        if self._binding is not None:
            payload = self._binding.decrypt(payload, place_of(topic))
        packed = Packed if self.format is None else PackedOnce
        return packed(payload, self._serializer.from_bytes)
