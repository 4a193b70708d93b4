"""Limits for received messages, so that decoding takes no more memory than their length allows.

Bytes from Redis may come from anyone.  A list without items is one byte in msgpack and 64 in
memory.  So lists and dicts are counted: there may be :data:`PARTS`, and one more for each
:data:`BYTES_PER_PART` bytes.  The decoders themselves limit nesting and the sizes that msgpack
announces.
"""

from __future__ import annotations

import re
from typing import Any

import msgpack

from ..exceptions import SerializationError

#: The number of lists and dicts allowed in a message of any length.
PARTS = 100_000
#: Longer messages may have one more for each of this number of bytes.
BYTES_PER_PART = 8

#: The first bytes of a msgpack time stamp, for which msgpack creates an object without a hook.
_MSGPACK_TIMES = (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
#: The size limit of the addresses, or of excluded names, in a frame.
ADDRESSES_BYTES = 4 * 1024 * 1024
#: The maximum number of channels addressed by one frame; names of 100 characters fit twice.
ADDRESSES = 20_000
#: Additional bytes for the random prefix, a nonce, and the overhead of encryption.
_EXTRAS_BYTES = 1024


def longest_frame_bytes(max_message_bytes: int, *, plain: bool) -> int:
    """Return the maximum length of a frame in bytes.  A frame that is not ``plain`` is encoded in
    base64 or by a custom serializer.
    """
    inside = max_message_bytes + ADDRESSES_BYTES
    return (inside if plain else inside * 4 // 3) + _EXTRAS_BYTES


class Unacceptable(SerializationError):
    """A received message is refused before it is decoded.

    ``reason`` is the reason in :class:`~channels_redis.events.MessagesDropped`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def unpack_msgpack(data: bytes) -> Any:
    """Unpack msgpack bytes; raises msgpack's exceptions, and ``ValueError`` for too many parts."""
    if len(data) <= PARTS:
        return msgpack.unpackb(data)
    limit = _parts_allowed(len(data))
    # The first check is very cheap, and text contains no such byte.
    if data.count(b"\xff") > limit and sum(map(data.count, _MSGPACK_TIMES)) > limit:
        raise _too_many(limit)
    count = _Count(limit)
    return msgpack.unpackb(
        data, object_hook=count.one, list_hook=count.one, ext_hook=count.extension
    )


def check_json(text: str) -> None:
    """Raise ``ValueError`` for JSON with too many lists and dicts."""
    if len(text) <= PARTS:
        return
    limit = _parts_allowed(len(text))
    if text.count("[") + text.count("{") <= limit:
        return
    bare = _JSON_STRING.sub("", text)
    if bare.count("[") + bare.count("{") > limit:
        raise _too_many(limit)


def _parts_allowed(length_bytes: int) -> int:
    return PARTS + length_bytes // BYTES_PER_PART


def _too_many(limit: int) -> ValueError:
    return ValueError(f"more than {limit} lists and dicts")


class _Count:
    """Counts the parts that msgpack unpacks, and stops it at a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit

    def one(self, value: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _too_many(self._limit)
        return value

    def extension(self, code: int, data: bytes) -> Any:
        return self.one(msgpack.ExtType(code, data))
