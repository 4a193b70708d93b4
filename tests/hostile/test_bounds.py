"""Frames that are long, or take far more memory than they are long: dropped and counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from channels_redis._format.bounds import ADDRESSES, PARTS
from channels_redis.exceptions import MessageTooLarge, SerializationError
from channels_redis.serializers import JSONSerializer, MsgPackSerializer
from tests.helpers import (
    member_of_bytes,
    numbered,
    put_frame,
    receive,
    receive_until_marker,
    run_script,
    server_time_s,
)

MIB = 1024 * 1024
KEYS = {"symmetric_encryption_keys": ["a key that nobody guesses"]}


def empty_lists(size_bytes: int) -> bytes:
    """A message with a list of nothing but empty lists."""
    length = size_bytes - 16
    return b"\x81\xa1x\xdd" + length.to_bytes(4, "big") + b"\x90" * length


@pytest.mark.parametrize("options", [{}, KEYS], ids=["plain", "encrypted"])
@pytest.mark.parametrize("name", ["specific", "jobs"])
async def test_what_is_longer_than_anything_sent_is_not_decoded(
    make_layer: Callable[..., Any],
    server: Any,
    prefix: str,
    kind: str,
    name: str,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bound follows max_message_bytes, with room for addresses and encryption."""
    layer = make_layer(kind, max_message_bytes=1000, **options)
    channel = await layer.new_channel() if name == "specific" else name
    opened: list[int] = []
    from_bytes = layer._serializer.from_bytes

    def watched(data: bytes) -> Any:
        opened.append(len(data))
        return from_bytes(data)

    monkeypatch.setattr(layer._serializer, "from_bytes", watched)
    put_frame(kind, server, prefix, channel, member_of_bytes(empty_lists(6 * MIB)))
    assert await receive_until_marker(layer, channel) == []
    assert layer.stats().dropped == {"too_large": 1}
    assert max(opened) < 1000


MEMORY_SCRIPT = """
import resource, sys
from channels_redis.exceptions import SerializationError
from channels_redis.serializers import JSONSerializer, MsgPackSerializer

def announced(count):
    return bytes([0xdd]) + count.to_bytes(4, "big")

length = 4 * 1024 * 1024
FRAMES = [
    (MsgPackSerializer, announced(length) + bytes([0x90]) * length),
    (MsgPackSerializer, announced(length) + bytes([0x80]) * length),
    (MsgPackSerializer, announced(length) * (length // 5)),
    (MsgPackSerializer, announced(length // 3) + bytes([0xd4, 5, 0]) * (length // 3)),
    (MsgPackSerializer, announced(length // 6) + bytes([0xd6, 255, 0, 0, 0, 0]) * (length // 6)),
    (MsgPackSerializer, bytes([0xc9]) + b"\\xff" * length),
    (MsgPackSerializer, bytes([0x91]) * length),
    (JSONSerializer, b"[" + b"[]," * (length // 3) + b"[]]"),
    (JSONSerializer, b"[" + b"{}," * (length // 3) + b"{}]"),
    (JSONSerializer, b"[" * length),
    (JSONSerializer, b"[" * 90000),
    (JSONSerializer, b"9" * length),
]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for kind, frame in FRAMES:
    try:
        kind().from_bytes(frame)
    except SerializationError:
        continue
    raise SystemExit(f"{frame[:10]} was decoded")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


async def test_no_frame_takes_far_more_memory_than_it_is_long() -> None:
    """Each of these would take hundreds of megabytes, or end the process."""
    grown_kib = int(await run_script(MEMORY_SCRIPT))
    assert grown_kib < 30 * 4 * 1024


@pytest.mark.parametrize("serializer", [MsgPackSerializer(), JSONSerializer()])
def test_what_can_be_sent_can_be_received(serializer: Any) -> None:
    """The sender is told of a message with more lists than its receivers take."""
    lists: list[Any] = [[] for _ in range(PARTS - 10)]
    assert serializer.deserialize(serializer.serialize({"x": lists})) == {"x": lists}
    with pytest.raises(SerializationError, match="too many lists and dicts"):
        serializer.serialize({"x": [[[]] for _ in range(PARTS)]})


def test_what_only_looks_like_lists_is_none() -> None:
    """Text and bytes may hold anything."""
    brackets = {"text": "[{" * PARTS + '"\\' * PARTS}
    assert JSONSerializer().from_bytes(JSONSerializer().as_bytes(brackets)) == brackets
    binary = {"data": b"\xd6\xff\x90\x80" * PARTS, "nested": [{}]}
    assert MsgPackSerializer().from_bytes(MsgPackSerializer().as_bytes(binary)) == binary
    moments = {"at": [msgpack.Timestamp(5)] * 10, "x": "x" * PARTS, "y": msgpack.ExtType(5, b"y")}
    assert MsgPackSerializer().from_bytes(MsgPackSerializer().as_bytes(moments)) == moments


async def test_a_group_with_more_members_than_fit_in_a_frame_gets_several_frames(
    make_layer: Callable[..., Any], server: Any, prefix: str
) -> None:
    """No frame of our own is longer than receivers take."""
    layer = make_layer("core")
    first = await layer.new_channel()
    strangers = [f"specific.{'0' * 60}!{number}" for number in range(ADDRESSES + 1)]
    now_s = server_time_s(server)
    joined = [word for name in strangers for word in (now_s, name)]
    server.command("ZADD", f"{prefix}:group:many", *joined)
    await layer.group_add("many", first)
    await layer.group_send("many", numbered(1))
    assert await receive(layer, first) == numbered(1)
    frames = server.command("ZRANGE", f"{prefix}specific.{'0' * 60}!", 0, -1)
    found = [msgpack.unpackb(frame[12:])["__asgi_channel__"] for frame in frames]
    assert sorted(map(len, found)) == [1, ADDRESSES]
    assert {name for names in found for name in names} == set(strangers)


async def test_too_many_excluded_names_are_refused_where_they_are_sent(
    make_layer: Callable[..., Any],
) -> None:
    """Receivers would drop the frame."""
    layer = make_layer("pubsub", max_message_bytes=1000)
    names = [f"{'x' * 90}.{number}" for number in range(60_000)]
    with pytest.raises(MessageTooLarge, match="names"):
        await layer.group_send("room", numbered(1), exclude=names)
