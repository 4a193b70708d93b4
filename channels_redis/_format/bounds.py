"""Bounds of what is received: nothing is decoded that takes far more memory than it is long.

Bytes from Redis may be anybody's.  A list without items is one byte in msgpack and 64 in memory:
so lists and dicts are counted, and may be :data:`PARTS` and one for each
:data:`BYTES_PER_PART` bytes.  Nesting and the sizes that msgpack announces are bounded by
the decoders, by their own limits and by the length of the bytes.
"""

from __future__ import annotations

import re
from typing import Any

import msgpack

from ..exceptions import SerializationError

#: So many lists and dicts may be in a message, however short it is.
PARTS = 100_000
#: In long messages there may be one more for each of so many bytes.
BYTES_PER_PART = 8

#: How msgpack begins a time stamp, which it makes an object of without asking a hook.
_MSGPACK_TIMES = (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
#: Room in a frame for what stands beside the message: addresses, or names that are excluded.
ADDRESSES_BYTES = 4 * 1024 * 1024
#: Channels that one frame is addressed to at most; names of 100 characters fit twice.
ADDRESSES = 20_000
#: Room for random bytes, a nonce, and what encryption adds to a short message.
_EXTRAS_BYTES = 1024


def longest_frame_bytes(max_message_bytes: int, *, plain: bool) -> int:
    """Return how long a frame on the wire may be; what is not ``plain`` is in base64, or in a
    form that only the user's serializer knows.
    """
    inside = max_message_bytes + ADDRESSES_BYTES
    return (inside if plain else inside * 4 // 3) + _EXTRAS_BYTES


class Unacceptable(SerializationError):
    """What was received is refused before it is read.

    ``reason`` is that of the :class:`~channels_redis.events.MessagesDropped` it is counted as.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def unpack_msgpack(data: bytes) -> Any:
    """Return what msgpack's bytes hold; raises what msgpack raises, and ``ValueError``."""
    limit = _parts_allowed(len(data))
    if len(data) <= limit:
        return msgpack.unpackb(data)
    # The first look costs next to nothing, and in text there is none.
    if data.count(b"\xff") > limit and sum(map(data.count, _MSGPACK_TIMES)) > limit:
        raise _too_many(limit)
    count = _Count(limit)
    return msgpack.unpackb(
        data, object_hook=count.one, list_hook=count.one, ext_hook=count.extension
    )


def check_json(text: str) -> None:
    """Raise ``ValueError`` for JSON with too many lists and dicts."""
    limit = _parts_allowed(len(text))
    if len(text) <= limit or text.count("[") + text.count("{") <= limit:
        return
    bare = _JSON_STRING.sub("", text)
    if bare.count("[") + bare.count("{") > limit:
        raise _too_many(limit)


def _parts_allowed(length_bytes: int) -> int:
    return PARTS + length_bytes // BYTES_PER_PART


def _too_many(limit: int) -> ValueError:
    return ValueError(f"more than {limit} lists and dicts")


class _Count:
    """Counts what msgpack unpacks, and stops it at a limit."""

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
