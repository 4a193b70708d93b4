"""Where projects hook in: overridden methods, registered serializers, encryption keys."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from channels_redis.serializers import (
    BaseMessageSerializer,
    JSONSerializer,
    MsgPackSerializer,
    SerializerDoesNotExist,
    registry,
)
from tests.helpers import receive

SAY = {"type": "x"}


@pytest.fixture
def restored_registry() -> Iterator[None]:
    """The default format is itself again after the test."""
    yield
    registry.register_serializer("msgpack", MsgPackSerializer)


async def exchange(layer: Any, message: Any = SAY) -> list[Any]:
    """The message as it came by way of a consumer, a group and a general channel."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, message)
    got = [await receive(layer, channel)]
    await layer.group_send("room", message)
    got.append(await receive(layer, channel))
    await layer.send("tasks", message)
    return [*got, await receive(layer, "tasks")]


@pytest.fixture
def pickling_class(layer_class: Any) -> Any:
    """A layer class with a wire format of its own, in the way projects write it."""

    class Pickling(layer_class):  # type: ignore[misc]  # the base is a fixture's value
        def serialize(self, message: Any) -> bytes:
            return b"pickle:" + pickle.dumps(message)

        def deserialize(self, message: bytes) -> Any:
            assert message.startswith(b"pickle:")
            return pickle.loads(message[len(b"pickle:") :])

    return Pickling


async def test_overridden_serialize_and_deserialize_take_effect(
    pickling_class: Any, hosts: list[Any], prefix: str
) -> None:
    """A subclass decides what travels: sets and dates pass where pickle carries them."""
    layer = pickling_class(hosts=hosts, prefix=prefix)
    message = {"type": "x", "set": {1, 2}}
    assert await exchange(layer, message) == [message] * 3
    await layer.close()


async def test_equal_messages_stay_two_under_an_overridden_serialize(
    pickling_class: Any, hosts: list[Any], prefix: str
) -> None:
    """No random bytes in front, and yet none is merged with its twin."""
    layer = pickling_class(hosts=hosts, prefix=prefix)
    channel = await layer.new_channel()
    for name in (channel, "tasks"):
        for _ in range(3):
            await layer.send(name, SAY)
        assert [await receive(layer, name) for _ in range(3)] == [SAY] * 3
    await layer.close()


async def test_consumers_share_no_object_under_an_overridden_deserialize(
    layer_class: Any, hosts: list[Any], prefix: str
) -> None:
    """Each consumer may change what it got, whatever made it."""

    class Overriding(layer_class):  # type: ignore[misc]  # the base is a fixture's value
        def deserialize(self, message: bytes) -> Any:
            return super().deserialize(message)

    layer = Overriding(hosts=hosts, prefix=prefix)
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "x", "list": []})
    for channel in channels:
        message = await receive(layer, channel)
        assert message == {"type": "x", "list": []}
        message["list"].append(channel)
    await layer.close()


async def test_an_overriding_class_may_call_the_original(
    layer_class: Any, hosts: list[Any], prefix: str
) -> None:
    """``super().serialize`` and ``super().deserialize`` do the layer's work."""
    seen: list[str] = []

    class Watching(layer_class):  # type: ignore[misc]  # the base is a fixture's value
        def serialize(self, message: Any) -> bytes:
            seen.append("out")
            data: bytes = super().serialize(message)
            return data

        def deserialize(self, message: bytes) -> Any:
            seen.append("in")
            return super().deserialize(message)

    layer = Watching(hosts=hosts, prefix=prefix)
    assert await exchange(layer) == [SAY] * 3
    assert {"out", "in"} <= set(seen)
    await layer.close()


@pytest.mark.usefixtures("restored_registry")
async def test_a_class_registered_as_msgpack_takes_effect(build: Any) -> None:
    """Replacing the default format before construction changes what a layer sends."""

    class Tagged(JSONSerializer):
        def as_bytes(self, message: Any) -> bytes:
            return b"tagged:" + super().as_bytes(message)

        def from_bytes(self, message: bytes) -> Any:
            return super().from_bytes(message.removeprefix(b"tagged:"))

    registry.register_serializer("msgpack", Tagged)
    layer = build()
    assert layer.serialize(SAY).endswith(b'tagged:{"type": "x"}')
    assert await exchange(layer) == [SAY] * 3


async def test_a_serializer_on_the_base_class_needs_two_methods(build: Any) -> None:
    """``as_bytes`` and ``from_bytes``; random bytes and encryption come from the base."""

    class Pickled(BaseMessageSerializer):
        def as_bytes(self, message: Any) -> bytes:
            return pickle.dumps(message)

        def from_bytes(self, message: bytes) -> Any:
            return pickle.loads(message)

    registry.register_serializer("pickled", Pickled)
    for keys in (None, ["key"]):
        layer = build(serializer_format="pickled", symmetric_encryption_keys=keys)
        assert await exchange(layer, {"type": "x", "set": {1}}) == [{"type": "x", "set": {1}}] * 3


async def test_a_serializer_may_encrypt_by_itself(build: Any) -> None:
    """A class that overrides ``serialize`` finds ``self.crypter``, made from the keys."""

    class Own(JSONSerializer):
        def serialize(self, message: Any) -> bytes:
            assert self.crypter is not None
            return b"own:" + self.crypter.encrypt(self.as_bytes(message))

        def deserialize(self, message: bytes) -> Any:
            assert self.crypter is not None
            return self.from_bytes(self.crypter.decrypt(message.removeprefix(b"own:")))

    registry.register_serializer("own", Own)
    layer = build(serializer_format="own", symmetric_encryption_keys=["key"])
    assert layer.serialize(SAY).startswith(b"own:gAAAA")
    assert await exchange(layer) == [SAY] * 3


async def test_a_serializer_of_no_family_needs_two_methods(build: Any, kind: str) -> None:
    """Any class with ``serialize`` and ``deserialize`` that accepts keywords will do."""
    keywords: dict[str, Any] = {}

    class Plain:
        def __init__(self, **options: Any) -> None:
            keywords.update(options)

        def serialize(self, message: Any) -> bytes:
            return b"plain " + json.dumps(message).encode()

        def deserialize(self, message: bytes) -> Any:
            return json.loads(message[len(b"plain ") :])

    registry.register_serializer("plain", Plain)
    layer = build(serializer_format="plain", symmetric_encryption_keys=["key"], expiry=30)
    assert keywords["symmetric_encryption_keys"] == ["key"]
    if kind == "core":
        assert (keywords["random_prefix_length"], keywords["expiry"]) == (12, 30)
    assert layer.serialize(SAY) == b'plain {"type": "x"}'
    assert await exchange(layer) == [SAY] * 3
    for _ in range(2):
        await layer.send("tasks", SAY)
    assert [await receive(layer, "tasks") for _ in range(2)] == [SAY] * 2


@pytest.mark.parametrize("impostor", [object, 5, "json", type("Half", (), {"serialize": None})])
def test_registering_anything_else_is_an_assertion_error(impostor: Any) -> None:
    """What can't serialise and deserialise is refused when it is registered."""
    with pytest.raises(AssertionError, match="deserialize"):
        registry.register_serializer("impostor", impostor)


def test_an_unknown_format_is_refused_at_construction(layer_class: Any) -> None:
    """``SerializerDoesNotExist`` names the formats there are."""
    with pytest.raises(SerializerDoesNotExist, match="msgpack"):
        layer_class(serializer_format="no-such-format")
    with pytest.raises(KeyError):
        registry.get_serializer("no-such-format")


@pytest.mark.parametrize("serializer", [JSONSerializer, MsgPackSerializer])
def test_serializers_work_alone(serializer: Any) -> None:
    """Projects use them without a layer, with and without random bytes and keys."""
    for options in (
        {},
        {"random_prefix_length": 12},
        {"random_prefix_length": 12, "expiry": 60, "symmetric_encryption_keys": ["key"]},
    ):
        one = serializer(**options)
        data = one.serialize(SAY)
        assert isinstance(data, bytes)
        assert one.deserialize(data) == SAY
        length = one.random_prefix_length
        assert one.serialize(SAY)[:length] != data[:length] or not length


@pytest.mark.parametrize("serializer_format", ["msgpack", "json"])
async def test_keys_rotate_without_downtime(build: Any, serializer_format: str) -> None:
    """The first key encrypts, all decrypt: old and new processes understand each other."""
    old = build(symmetric_encryption_keys=["old"], serializer_format=serializer_format)
    both = build(symmetric_encryption_keys=["old", "new"], serializer_format=serializer_format)
    new = build(symmetric_encryption_keys=["new", "old"], serializer_format=serializer_format)
    for sender, receiver in ((old, both), (both, old), (new, both), (both, new), (old, new)):
        channel = await receiver.new_channel()
        await sender.send(channel, SAY)
        assert await receive(receiver, channel) == SAY


async def test_encrypted_messages_show_nothing_of_themselves(build: Any) -> None:
    """No word of the message is readable in what travels."""
    layer = build(symmetric_encryption_keys=["key"])
    data = layer.serialize({"type": "chat", "text": "confidential"})
    assert b"confidential" not in data
    assert layer.deserialize(data) == {"type": "chat", "text": "confidential"}
    assert await exchange(layer) == [SAY] * 3


@pytest.mark.parametrize("no_keys", [None, [], ()])
async def test_without_keys_nothing_is_encrypted(build: Any, no_keys: Any) -> None:
    """No key and an empty list are the same: plain messages, as everywhere without the option."""
    plain, layer = build(), build(symmetric_encryption_keys=no_keys)
    channel = await plain.new_channel()
    await layer.send(channel, SAY)
    assert await receive(plain, channel) == SAY


async def test_keys_may_be_strings_or_bytes(build: Any) -> None:
    """``SECRET_KEY`` may be either."""
    text = build(symmetric_encryption_keys=["key"])
    raw = build(symmetric_encryption_keys=(b"key",))
    channel = await raw.new_channel()
    await text.send(channel, SAY)
    assert await receive(raw, channel) == SAY


async def test_json_turns_integer_keys_into_strings(build: Any) -> None:
    """As JSON always did; msgpack, which could not read them back, refuses them."""
    layer = build(serializer_format="json")
    assert (
        await exchange(layer, {"type": "x", "by_id": {1: "a"}})
        == [{"type": "x", "by_id": {"1": "a"}}] * 3
    )
