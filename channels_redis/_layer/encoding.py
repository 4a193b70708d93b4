"""Checks names and messages, and converts messages to bytes: limited in size, encrypted, and bound
to their destination if that is configured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from channels.layers import BaseChannelLayer

from .._format import frames
from .._format.bounds import ADDRESSES_BYTES, Unacceptable, longest_frame_bytes
from .._format.encryption import OFF, Binding, Crypter, Place, is_ours
from .._format.keyspace import ADDRESS_KEY, NONCE_KEY
from .._format.plain import is_flat
from .._receiving.messages import SMALL_BYTES, Item, Original, Packed, PackedOnce, Whole
from ..exceptions import ConfigurationError, InvalidName, MessageTooLarge, SerializationError
from ..serializers import BaseMessageSerializer, JSONSerializer, MsgPackSerializer

#: The formats of which everything is known, as none of a subclass's code runs.
_FORMATS: dict[type, frames.Format] = {
    MsgPackSerializer: frames.MSGPACK,
    JSONSerializer: frames.JSON,
}


class EncodingLayer(BaseChannelLayer):  # type: ignore[misc]  # Channels has no annotations
    """The part of a channel layer that works without a server; the whole layer sets the options."""

    max_message_bytes: int
    encryption_binding: str

    _serializer: Any

    def _prepare_encoding(self, keys: Any) -> None:
        """See what the serializer leaves to the layer."""
        #: Whether encoding, encryption and random bytes of a message are separate steps.
        self._separable = (
            isinstance(self._serializer, BaseMessageSerializer)
            and type(self._serializer).serialize is BaseMessageSerializer.serialize
            and type(self._serializer).deserialize is BaseMessageSerializer.deserialize
            and type(self).serialize is EncodingLayer.serialize
            and type(self).deserialize is EncodingLayer.deserialize
        )
        self._binding = self._make_binding(keys)
        self._longest_frame_bytes = longest_frame_bytes(
            self.max_message_bytes, plain=self._separable and self._binding is None
        )
        #: How to edit encoded messages; None where a user's serializer has to encode them.
        self._format = _FORMATS.get(type(self._serializer)) if self._separable else None
        #: As what a message for many lies in a mailbox.
        self._packed = PackedOnce if self._format is not None else Packed

    def _make_binding(self, keys: Any) -> Binding | None:
        """Return the object that encrypts for a place; None if the layer itself does not."""
        crypter = self._serializer.crypter if self._separable else None
        if self.encryption_binding != OFF and not is_ours(crypter):
            raise ConfigurationError(
                "encryption_binding needs symmetric_encryption_keys, a layer that overrides "
                "neither serialize() nor deserialize(), and a serializer that leaves both, and "
                "crypter, to BaseMessageSerializer."
            )
        return Binding(crypter, keys, self.encryption_binding) if crypter is not None else None

    def serialize(self, message: Any) -> bytes:
        """Return a message as the bytes that go on the wire."""
        data: bytes = self._serializer.serialize(message)
        return data

    def deserialize(self, message: bytes) -> Any:
        """Decode the bytes of :meth:`serialize`."""
        return self._serializer.deserialize(message)

    def _encode(self, message: Any, place: Place) -> bytes:
        """Return a message as the bytes to send to a place."""
        if self._binding is None:
            return self.serialize(message)
        return self._sealed(self._serializer.as_bytes(message), place)

    def _encode_more(self, body: bytes, own: dict[str, Any], place: Place) -> bytes:
        """The same for an already encoded message, with additional keys after its own."""
        assert self._format is not None
        return self._sealed(self._format.extended(body, own), place)

    def _sealed(self, body: bytes, place: Place) -> bytes:
        data: bytes = self._serializer._sealed(body, self._crypter_at(place))
        return data

    def _unsealed(self, data: bytes, place: Place) -> bytes:
        body: bytes = self._serializer._unsealed(data, self._crypter_at(place))
        return body

    def _crypter_at(self, place: Place) -> Crypter | None:
        return None if self._binding is None else self._binding.at(place)

    def _decode(self, data: bytes, place: Place) -> Any:
        """Decode the bytes of :meth:`_encode`; raises :class:`Unacceptable` for bytes that must not
        be read.
        """
        self._check_frame(data)
        if self._binding is None:
            return self.deserialize(data)
        return self._serializer._decoded(self._unsealed(data, place))

    def _check_frame(self, data: bytes) -> None:
        """Raise :class:`Unacceptable` for frames longer than the limit."""
        if len(data) > self._longest_frame_bytes:
            raise Unacceptable("too_large", f"A frame of {len(data)} bytes was received.")

    def _check_channel(self, name: Any) -> None:
        self._check_name("Channel", name, self.require_valid_channel_name)

    def _check_group(self, name: Any) -> None:
        self._check_name("Group", name, self.require_valid_group_name)

    def _check_name(self, kind: str, name: Any, require_valid: Callable[[Any], object]) -> None:
        try:
            require_valid(name)
        except TypeError as error:
            raise InvalidName(str(error)) from None
        # Channels' patterns let digits and letters of all scripts pass, and a last line feed.
        if not name.isascii() or name.endswith("\n"):
            raise InvalidName(self.invalid_name_error.format(kind))

    def _check_exclude(self, exclude: Any) -> frozenset[str]:
        """Return the names of the excluded channels of a group message."""
        if isinstance(exclude, (str, bytes)) or not isinstance(exclude, Iterable):
            raise InvalidName(
                "group_send(): exclude must be a list of channel names, such as "
                f"[self.channel_name], not {type(exclude).__name__}."
            )
        names = tuple(exclude)
        for name in names:
            self._check_channel(name)
        return frozenset(names)

    def _check_size(self, message: Any, wire_bytes: int) -> None:
        """Raise :class:`MessageTooLarge` for a message of ``wire_bytes``, including everything
        around it.
        """
        if wire_bytes > self.max_message_bytes:
            self._body(message)
        if wire_bytes > self._longest_frame_bytes:
            raise MessageTooLarge(
                f"The names in a frame of {wire_bytes} bytes take more than "
                f"{ADDRESSES_BYTES} bytes."
            )

    def _body(self, message: Any) -> bytes:
        """Return the user's message as bytes, without addresses and, if possible, without
        encryption; raise :class:`MessageTooLarge` if it is too large.
        """
        body = self._serializer.as_bytes(message) if self._separable else self.serialize(message)
        if len(body) > self.max_message_bytes:
            raise MessageTooLarge(
                f"A message of {len(body)} bytes is over the limit of {self.max_message_bytes}; "
                "send a reference to the data, or raise the option max_message_bytes."
            )
        return body

    def _read_frame(self, data: bytes, place: Place) -> tuple[Any, Item]:
        """Return the addresses in a frame, and the message as it is stored in their mailboxes;
        raises the exceptions of decoding.
        """
        self._check_frame(data)
        # A short frame takes longer to divide than to decode, and perhaps encode, as a whole.
        parts = self._divided(data, place) if len(data) > SMALL_BYTES else None
        if parts is not None:
            addresses, message, body = parts
        else:
            message, body = self._decode(data, place), None
            addresses = message.pop(ADDRESS_KEY)
            message.pop(NONCE_KEY, None)
        has_one_receiver = isinstance(addresses, str) or len(addresses) == 1
        # What is not flat takes far more memory than its bytes, and may lie here for long.
        if has_one_receiver and (len(data) <= SMALL_BYTES or is_flat(message)):
            return addresses, Whole(message, len(data))
        return addresses, self._for_many(message, len(data), body)

    def _divided(self, data: bytes, place: Place) -> tuple[Any, Any, bytes] | None:
        """Return the addresses in a frame, the message, and its bytes, which need not be encoded
        again; None with a custom serializer, or if the addresses are not at the end.
        """
        if self._format is None:
            return None
        parts = self._format.divided(self._unsealed(data, place))
        if parts is None:
            return None
        try:
            message, addresses = map(self._serializer.from_bytes, parts)
        except SerializationError:
            return None
        if ADDRESS_KEY in message or NONCE_KEY in message:
            return None
        return addresses, message, parts[0]

    def _for_many(self, message: Any, wire_bytes: int, body: bytes | None = None) -> Item:
        """Return an item that each of many receivers can open; ``body`` is the encoded message, if
        known.
        """
        if not self._separable:
            return Original(message, wire_bytes)
        serializer = self._serializer
        if self._format is None:
            return Packed(serializer.as_bytes(message), serializer.from_bytes)
        return PackedOnce(body or serializer.as_bytes(message), serializer.from_bytes, message)
