"""The bytes of a message with the layer's own keys in it, made and read without the message.

A message for a group is encoded once.  Each queue gets the same bytes with the addresses of its
channels behind them, and who reads a queue cuts the addresses off again.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from .keyspace import ADDRESS_KEY

_MSGPACK_ADDRESS = msgpack.packb(ADDRESS_KEY)
_JSON_ADDRESS = json.dumps(ADDRESS_KEY).encode() + b": "


class Format(NamedTuple):
    """How to add keys to an encoded dict and how to take the addresses out of it."""

    #: Returns a dict's bytes with more keys at the end: the same as if all were encoded at once.
    extended: Callable[[bytes, dict[str, Any]], bytes]
    #: Returns the bytes of a dict without its last key, and those of the addresses, which are that
    #: key's value; None where there are no addresses.  Nothing is checked: the cut is right if
    #: both parts can be decoded, and wrong where the name of the key stood somewhere else.
    divided: Callable[[bytes], tuple[bytes, bytes] | None]


def _extended_msgpack(body: bytes, extra: dict[str, Any]) -> bytes:
    count, start = _map_header(body)
    more = msgpack.packb(extra)[1:]  # Its header is one byte, as there are few keys.
    return b"".join((_packed_header(count + len(extra)), body[start:], more))


def _divided_msgpack(frame: bytes) -> tuple[bytes, bytes] | None:
    mark = frame.rfind(_MSGPACK_ADDRESS)
    count, start = _map_header(frame)
    if mark < start or not count:
        return None
    value = frame[mark + len(_MSGPACK_ADDRESS) :]
    return _packed_header(count - 1) + frame[start:mark], value


def _map_header(data: bytes) -> tuple[int, int]:
    """Return how many keys a packed dict has, and where the first is; zeros for no dict."""
    first = data[0] if data else 0
    if first & 0xF0 == 0x80:
        return first & 0x0F, 1
    if first == 0xDE and len(data) >= 3:
        return struct.unpack_from(">H", data, 1)[0], 3
    if first == 0xDF and len(data) >= 5:
        return struct.unpack_from(">I", data, 1)[0], 5
    return 0, 0


def _packed_header(count: int) -> bytes:
    if count <= 0x0F:
        return bytes((0x80 | count,))
    if count <= 0xFFFF:
        return struct.pack(">BH", 0xDE, count)
    return struct.pack(">BI", 0xDF, count)


def _extended_json(body: bytes, extra: dict[str, Any]) -> bytes:
    between = b"" if body == b"{}" else b", "
    return b"".join((body[:-1], between, json.dumps(extra).encode()[1:]))


def _divided_json(frame: bytes) -> tuple[bytes, bytes] | None:
    mark = frame.rfind(_JSON_ADDRESS)
    if mark < 0 or frame[-1:] != b"}":
        return None
    return frame[:mark].removesuffix(b", ") + b"}", frame[mark + len(_JSON_ADDRESS) : -1]


MSGPACK = Format(_extended_msgpack, _divided_msgpack)
JSON = Format(_extended_json, _divided_json)
