"""What a message may be, what happens to one that nobody can read, and whose dict it is."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import redis.exceptions

from channels_redis.exceptions import MessageTooLarge
from channels_redis.serializers import registry
from tests.helpers import (
    member,
    member_of_bytes,
    numbered,
    queue_key,
    receive,
    receive_numbers,
    receive_until_marker,
    server_time_s,
    waiting,
)

MEGABYTE = 1024 * 1024

GARBAGE = {
    "no format at all": member_of_bytes(b"\xc1\xff"),
    "cut off": member(numbered(1), channel="x!y")[:-3],
    "not a dict": member_of_bytes(msgpack.packb([1, 2])),
    "keys that msgpack will not unpack": member_of_bytes(msgpack.packb({1: 2})),
    "shorter than its random prefix": b"short",
    "address of a wrong type": member_of_bytes(msgpack.packb({"__asgi_channel__": 7})),
    "no address": member_of_bytes(msgpack.packb({"type": "x"})),
}


@pytest.mark.parametrize("frame", GARBAGE.values(), ids=GARBAGE.keys())
async def test_an_undecodable_message_hurts_no_consumer(
    make_layer: Callable[..., Any],
    server: Any,
    prefix: str,
    frame: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is dropped and logged, and the consumer gets the next one (217, 287)."""
    layer = make_layer("core")
    channel = await layer.new_channel()
    wait = waiting(layer, channel)
    server.command("ZADD", queue_key(prefix, channel), server_time_s(server), frame)
    await layer.send(channel, numbered(1))
    with caplog.at_level(logging.INFO, "channels_redis"):
        assert await wait == numbered(1)
        assert await receive_until_marker(layer, channel) == []
    assert {record.levelname for record in caplog.records} == {"WARNING"}


@pytest.mark.parametrize("keys", [None, ["a key"]], ids=["plain", "encrypted"])
async def test_an_undecodable_publication_hurts_no_consumer(
    make_layer: Callable[..., Any], server: Any, prefix: str, keys: list[str] | None
) -> None:
    """A consumer of the Pub/Sub layer gets what comes after a foreign or broken publication."""
    layer = make_layer("pubsub", symmetric_encryption_keys=keys)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    wait = waiting(layer, channel)
    for target in (channel, f"{prefix}__group__room"):
        for frame in (b"", b"\xc1", b"not a token", msgpack.packb([1])):
            server.command("PUBLISH", target, frame)
    await layer.send(channel, numbered(1))
    assert await wait == numbered(1)
    assert await receive_until_marker(layer, channel) == []


async def test_an_undecodable_message_hurts_no_worker(
    make_layer: Callable[..., Any], kind: str, server: Any, prefix: str
) -> None:
    """A worker on a general channel goes on after a broken message."""
    layer = make_layer(kind)
    wait = waiting(layer, "work")
    now = server_time_s(server)
    server.command("ZADD", queue_key(prefix, "work"), now, member_of_bytes(b"\xc1"))
    await layer.send("work", numbered(1))
    assert await wait == numbered(1)


@pytest.mark.parametrize("value", [{1: "x"}, {"deep": object()}], ids=["int key", "object"])
async def test_what_can_not_be_packed_or_unpacked_is_refused_at_send_with_its_path(
    make_layer: Callable[..., Any], kind: str, value: dict[Any, Any]
) -> None:
    """The sender, not the consumer, is told, and where in the message the fault is (287)."""
    layer = make_layer(kind)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    message = {"type": "x", "outer": {"list": [0, value]}}
    for call in (layer.send, layer.group_send):
        with pytest.raises((TypeError, ValueError)) as refusal:
            await call("room" if call == layer.group_send else channel, message)
        last = str(next(iter(value)))
        assert all(step in str(refusal.value) for step in ("outer", "list", "1", last))
    assert await receive_until_marker(layer, channel) == []


async def test_json_goes_on_turning_integer_keys_into_strings(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """JSON has no other keys; this is how it always was."""
    layer = make_layer(kind, serializer_format="json")
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "x", "d": {1: {2: 3}}})
    assert await receive(layer, channel) == {"type": "x", "d": {"1": {"2": 3}}}


@pytest.mark.parametrize("format", ["msgpack", "json"])
@pytest.mark.parametrize("body", [{"n": 1, "text": "x", "on": True}, {"deep": {"list": [1]}}])
async def test_every_consumer_of_a_group_has_a_dict_of_its_own(
    make_layer: Callable[..., Any], kind: str, body: dict[str, Any], format: str
) -> None:
    """What one consumer does to its message is not seen by another, at any depth."""
    layer = make_layer(kind, serializer_format=format)
    channels = [await layer.new_channel() for _ in range(5)]
    for channel in channels:
        await layer.group_add("room", channel)
    sent = {"type": "x", **body}
    await layer.group_send("room", copy.deepcopy(sent))
    for channel in channels:
        message = await receive(layer, channel)
        assert message == sent
        message.get("deep", {"list": []})["list"].append(2)
        message["mine"] = message.pop("type")


@pytest.fixture
def plain_format(monkeypatch: pytest.MonkeyPatch) -> str:
    """A registered serializer of a user, who knows nothing of random prefixes."""

    class Plain:
        def __init__(self, **options: Any) -> None:
            pass

        def serialize(self, message: dict[str, Any]) -> bytes:
            return json.dumps(message, sort_keys=True).encode()

        def deserialize(self, message: bytes) -> dict[str, Any]:
            loaded: dict[str, Any] = json.loads(message)
            return loaded

    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    registry.register_serializer("without-prefix", Plain)
    return "without-prefix"


@pytest.mark.parametrize("options", [{"random_prefix_length": 0}, {"serializer_format": None}])
async def test_equal_messages_stay_two_messages(
    make_layer: Callable[..., Any], options: dict[str, Any], plain_format: str
) -> None:
    """Whether two messages are one is not up to the serializer."""
    if "serializer_format" in options:
        options = {"serializer_format": plain_format}
    layer = make_layer("core", **options)
    channel = await layer.new_channel()
    for target in (channel, "work"):
        for _ in range(3):
            await layer.send(target, numbered(7))
        assert await receive_until_marker(layer, target) == [numbered(7)] * 3
    await layer.group_add("room", channel)
    for _ in range(2):
        await layer.group_send("room", numbered(8))
    assert await receive_until_marker(layer, channel) == [numbered(8)] * 2


async def test_an_empty_message_is_delivered(make_layer: Callable[..., Any], kind: str) -> None:
    """An empty dict is a message, direct, on a general channel and through a group."""
    layer = make_layer(kind)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, {})
    await layer.group_send("room", {})
    await layer.send("work", {})
    assert await receive_until_marker(layer, channel) == [{}, {}]
    assert await receive_until_marker(layer, "work") == [{}]


@pytest.mark.parametrize("keys", [None, ["a key"]], ids=["plain", "encrypted"])
async def test_a_message_of_a_megabyte_passes(
    make_layer: Callable[..., Any], kind: str, keys: list[str] | None
) -> None:
    """The limit is on the user's message: neither addresses nor encryption count."""
    layer = make_layer(kind, symmetric_encryption_keys=keys, max_message_bytes=MEGABYTE)
    channel = await layer.new_channel()
    message = {"type": "x", "data": b"x" * (MEGABYTE - 100)}
    await layer.group_add("room", channel)
    for call, target in ((layer.send, channel), (layer.group_send, "room"), (layer.send, "work")):
        await call(target, message)
        assert await receive(layer, "work" if target == "work" else channel) == message


@pytest.mark.parametrize("options", [{}, {"max_message_bytes": MEGABYTE}], ids=["default", "set"])
async def test_a_message_that_would_kill_subscribers_is_refused_at_send(
    make_layer: Callable[..., Any], kind: str, options: dict[str, Any]
) -> None:
    """Above the limit the sender gets ``MessageTooLarge``, and nobody else is harmed."""
    layer = make_layer(kind, **options)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    size = 2 * MEGABYTE if options else 33 * MEGABYTE
    message = {"type": "x", "data": b"x" * size}
    for call, target in ((layer.send, channel), (layer.group_send, "room"), (layer.send, "work")):
        with pytest.raises(MessageTooLarge) as refusal:
            await call(target, message)
        assert isinstance(refusal.value, layer.MessageTooLarge)
        assert not isinstance(refusal.value, redis.exceptions.RedisError)
    await layer.send(channel, numbered(1))
    assert await receive_numbers(layer, channel, 1) == [1]
    assert await receive_until_marker(layer, "work") == []
