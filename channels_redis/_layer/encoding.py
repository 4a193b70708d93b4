"""How a layer checks names and messages, and makes bytes of them: bounded, encrypted and, where
that is asked for, bound to the place they are sent to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from channels.layers import BaseChannelLayer

from .._format.bounds import ADDRESSES_BYTES, Unacceptable, longest_frame_bytes
from .._format.encryption import OFF, Binding, Place, is_ours
from .._format.keyspace import is_plain
from .._receiving.messages import (
    Item,
    Original,
    Packed,
    PackedOnce,
    has_separable_steps,
    runs_no_user_code,
)
from ..exceptions import ConfigurationError, InvalidName, MessageTooLarge


class EncodingLayer(BaseChannelLayer):  # type: ignore[misc]  # Channels has no annotations
    """What a channel layer does without a server; the options are set by the whole one."""

    max_message_bytes: int
    encryption_binding: str

    _serializer: Any

    def _prepare_encoding(self, keys: Any) -> None:
        """See what the serializer leaves to the layer."""
        #: Whether encoding, encryption and random bytes of a message are separate steps.
        self._separable = (
            has_separable_steps(self._serializer)
            and type(self).serialize is EncodingLayer.serialize
            and type(self).deserialize is EncodingLayer.deserialize
        )
        self._binding = self._make_binding(keys)
        self._longest_frame_bytes = longest_frame_bytes(
            self.max_message_bytes, plain=self._separable and self._binding is None
        )
        #: As what a message for many lies in a mailbox.
        self._packed = PackedOnce if runs_no_user_code(self._serializer) else Packed

    def _make_binding(self, keys: Any) -> Binding | None:
        """Return what encrypts for a place; None where the layer itself does not encrypt."""
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
        """Undo :meth:`serialize`."""
        return self._serializer.deserialize(message)

    def _encode(self, message: Any, place: Place) -> bytes:
        """Return a message as the bytes that are sent to a place."""
        if self._binding is None:
            return self.serialize(message)
        data: bytes = self._serializer._wrapped(message, self._binding.at(place))
        return data

    def _decode(self, data: bytes, place: Place) -> Any:
        """Undo :meth:`_encode`; raises :class:`Unacceptable` for what must not be read."""
        self._check_frame(data)
        if self._binding is None:
            return self.deserialize(data)
        return self._serializer._unwrapped(data, self._binding.at(place))

    def _check_frame(self, data: bytes) -> None:
        """Raise :class:`Unacceptable` for what is longer than anything that is sent."""
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
        if not is_plain(name):
            raise InvalidName(self.invalid_name_error.format(kind))

    def _check_exclude(self, exclude: Any) -> frozenset[str]:
        """Return the names of channels that a group message is not for."""
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
        """Raise :class:`MessageTooLarge` for a message that is ``wire_bytes`` long with all that
        comes around it.
        """
        if wire_bytes > self.max_message_bytes:
            self._body(message)
        if wire_bytes > self._longest_frame_bytes:
            raise MessageTooLarge(
                f"The names in a frame of {wire_bytes} bytes take more than the "
                f"{ADDRESSES_BYTES} bytes there is room for."
            )

    def _body(self, message: Any) -> bytes:
        """Return the user's message as bytes, without addresses and, where that can be done
        apart, without encryption; raise :class:`MessageTooLarge` by its size.
        """
        body = self._serializer.as_bytes(message) if self._separable else self.serialize(message)
        if len(body) > self.max_message_bytes:
            raise MessageTooLarge(
                f"A message of {len(body)} bytes is over the limit of {self.max_message_bytes}; "
                "send a reference to the data, or raise the option max_message_bytes."
            )
        return body

    def _for_many(self, message: Any, wire_bytes: int) -> Item:
        """Return an item that each of many receivers can open."""
        if self._separable:
            return self._packed(self._serializer.as_bytes(message), self._serializer.from_bytes)
        return Original(message, wire_bytes)
