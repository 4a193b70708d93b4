"""What somebody who reads and writes Redis, and has no key, can do with messages of others.

He republishes their tokens where he listens: on a topic or queue of his own.
"""

from __future__ import annotations

import ast
import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import pytest
import redis

from channels_redis.exceptions import ConfigurationError
from channels_redis.serializers import BaseMessageSerializer, JSONSerializer, registry
from tests.helpers import queue_key, receive, receive_until_marker, server_time_s

KEYS: dict[str, Any] = {"symmetric_encryption_keys": ["the right key, which is long enough"]}
BOUND = {**KEYS, "encryption_binding": "require"}
ROLLING = {**KEYS, "encryption_binding": "write"}
SECRET = {"type": "secret", "text": "for the board only"}


class Eavesdropper:
    """Reads what is sent and sends it elsewhere, past all layers."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def move_in_queues(self, source: str, target: str) -> None:
        """Move the only message of a queue into another one."""
        (frame,) = self._server.command("ZRANGE", source, 0, -1)
        self._server.command("DEL", source)
        # Random bytes stand in front of what is authenticated: anybody may replace them.
        self._server.command(
            "ZADD", target, server_time_s(self._server), secrets.token_bytes(12) + frame[12:]
        )

    def publish(self, topic: str, token: bytes) -> None:
        """Publish a token that was read elsewhere."""
        self._server.command("PUBLISH", topic, token)


async def overheard(layer: Any, group: str, message: dict[str, Any], server: Any) -> bytes:
    """Return what the layer publishes for a group, as a subscriber of Redis reads it."""
    with redis.Redis.from_url(server.url) as client:
        listener = client.pubsub()
        listener.subscribe(f"{layer.prefix}__group__{group}")
        listener.get_message(timeout=10)
        await layer.group_send(group, message)
        while True:
            found = listener.get_message(timeout=10)
            assert found is not None
            if found["type"] == "message":
                listener.close()
                return bytes(found["data"])


async def test_a_token_of_another_group_is_refused_on_pubsub(
    make_layer: Callable[..., Any], server: Any
) -> None:
    """Republished on the topic of the attacker's own channel, or of a group that he is in."""
    layer = make_layer("pubsub", **BOUND)
    channel = await layer.new_channel()
    await layer.group_add("public", channel)
    token = await overheard(layer, "board", SECRET, server)
    attacker = Eavesdropper(server)
    attacker.publish(channel, token)
    attacker.publish(f"{layer.prefix}__group__public", token)
    assert await receive_until_marker(layer, channel) == []
    assert layer.stats().dropped == {"misplaced": 2}
    assert layer.stats().decode_failures == 2


async def test_a_token_of_another_prefix_is_refused(
    make_layer: Callable[..., Any], server: Any, prefix: str, kind: str
) -> None:
    """Two sites that share a server and, against all advice, the keys."""
    other, mine = make_layer(kind, prefix=prefix + "other", **BOUND), make_layer(kind, **BOUND)
    await other.send("jobs", SECRET)
    Eavesdropper(server).move_in_queues(
        queue_key(prefix + "other", "jobs"), queue_key(prefix, "jobs")
    )
    assert await receive_until_marker(mine, "jobs") == []
    assert mine.stats().dropped == {"misplaced": 1}


async def test_a_token_of_another_general_queue_is_refused(
    make_layer: Callable[..., Any], server: Any, prefix: str, kind: str
) -> None:
    """A worker for public jobs is not handed a secret one."""
    layer = make_layer(kind, **BOUND)
    await layer.send("secret-jobs", SECRET)
    Eavesdropper(server).move_in_queues(
        queue_key(prefix, "secret-jobs"), queue_key(prefix, "public-jobs")
    )
    assert await receive_until_marker(layer, "public-jobs") == []
    assert layer.stats().dropped == {"misplaced": 1}


async def test_a_token_from_a_queue_is_refused_as_a_publication(
    make_layer: Callable[..., Any], server: Any, prefix: str
) -> None:
    """A queue and a topic of one name are two places."""
    layer = make_layer("pubsub", **BOUND)
    channel = await layer.new_channel()
    # The name of the queue is the name of the topic.
    await layer.send(channel.removeprefix(prefix), SECRET)
    (frame,) = server.command("ZRANGE", channel, 0, -1)
    Eavesdropper(server).publish(channel, frame[12:])
    assert await receive_until_marker(layer, channel) == []
    assert layer.stats().dropped == {"misplaced": 1}


async def test_what_is_not_bound_is_refused_once_that_is_required(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """Or an old token could be played anywhere for as long as the keys are in use."""
    old, new = make_layer(kind, **KEYS), make_layer(kind, **BOUND)
    channel = await new.new_channel()
    await old.send(channel, SECRET)
    assert await receive_until_marker(new, channel) == []
    assert new.stats().dropped == {"unbound": 1}


@pytest.mark.parametrize("name", ["specific", "jobs"])
async def test_every_step_of_the_change_reads_the_step_before_and_after(
    make_layer: Callable[..., Any], kind: str, name: str
) -> None:
    """off, write, require: neighbours understand each other, in both directions."""
    steps = [KEYS, ROLLING, BOUND]
    for one, other in [(0, 1), (1, 0), (1, 2), (2, 1), (0, 0), (1, 1), (2, 2)]:
        sender, receiver = make_layer(kind, **steps[one]), make_layer(kind, **steps[other])
        channel = await receiver.new_channel() if name == "specific" else f"jobs-{one}-{other}"
        await sender.send(channel, SECRET)
        assert await receive(receiver, channel) == SECRET
        assert receiver.stats().dropped == {}


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_groups_receive_bound_messages(
    make_layer: Callable[..., Any], kind: str, format: str
) -> None:
    """Members in two processes, one of them excluded, and with keys that are being changed."""
    new: dict[str, Any] = {
        **BOUND,
        "symmetric_encryption_keys": [
            "a newer key, as long as that",
            *KEYS["symmetric_encryption_keys"],
        ],
    }
    one = make_layer(kind, serializer_format=format, **BOUND)
    two = make_layer(kind, serializer_format=format, **new)
    first, second, left_out = [await layer.new_channel() for layer in (one, two, two)]
    for layer, channel in [(one, first), (two, second), (two, left_out)]:
        await layer.group_add("room", channel)
    await one.group_send("room", SECRET, exclude=[left_out])
    assert await receive(one, first) == SECRET
    assert await receive(two, second) == SECRET
    assert await receive_until_marker(two, left_out) == []


async def test_the_blocking_face_binds_too(make_layer: Callable[..., Any], kind: str) -> None:
    """One way to the wire."""
    layer = make_layer(kind, **BOUND)
    channel = await layer.new_channel()
    await asyncio.to_thread(layer.sync.send, channel, SECRET)
    assert await receive(layer, channel) == SECRET


@pytest.mark.parametrize("binding", ["write", "require"])
def test_binding_without_keys_is_refused(layer_class: Any, binding: str) -> None:
    """It would protect nothing, and look as if it did."""
    with pytest.raises(ConfigurationError, match="encryption_binding.*symmetric_encryption_keys"):
        layer_class(encryption_binding=binding)


@pytest.mark.parametrize("value", ["on", True, 1, "REQUIRE", None, b"write", []])
def test_other_values_are_refused(layer_class: Any, value: Any) -> None:
    """Only the three steps are known."""
    with pytest.raises(ConfigurationError, match="encryption_binding must be"):
        layer_class(**{**KEYS, "encryption_binding": value})


class OwnWholeFormat(JSONSerializer):
    """Encrypts, or not, in its own way."""

    def serialize(self, message: Any) -> bytes:
        return super().serialize(message)


class OwnCrypter(JSONSerializer):
    """Brings its own encryption, where the base class has its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.crypter = Rot13()


class Rot13:
    def encrypt(self, data: bytes) -> bytes:
        return bytes(byte ^ 13 for byte in data)

    decrypt = encrypt


class Reversed(BaseMessageSerializer):
    """A format of a project's own, whose encryption is left to the base class."""

    def as_bytes(self, message: Any) -> bytes:
        return repr(message).encode()[::-1]

    def from_bytes(self, message: bytes) -> Any:
        return ast.literal_eval(message[::-1].decode())


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], str]:
    """A function that registers a format for the length of a test, and returns its name."""
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))

    def register(format: type) -> str:
        registry.register_serializer(format.__name__, format)
        return format.__name__

    return register


@pytest.mark.parametrize("format", [OwnWholeFormat, OwnCrypter])
def test_binding_is_refused_where_the_layer_does_not_encrypt(
    layer_class: Any, register: Callable[[type], str], format: type
) -> None:
    """A serializer that encrypts by itself would be left out in silence."""
    with pytest.raises(ConfigurationError, match=r"encryption_binding.*serializer"):
        layer_class(**BOUND, serializer_format=register(format))


@pytest.mark.parametrize("method", ["serialize", "deserialize"])
def test_binding_is_refused_where_a_subclass_makes_the_bytes(layer_class: Any, method: str) -> None:
    """An overridden serialize() or deserialize() has the last word, and knows no places."""
    inherited = getattr(layer_class, method)

    def own_method(self: Any, message: Any) -> Any:
        return inherited(self, message)

    own = type("Own", (layer_class,), {method: own_method})
    assert own(**KEYS)
    with pytest.raises(ConfigurationError, match=rf"encryption_binding.*{method}\(\)"):
        own(**BOUND)


async def test_a_format_of_ones_own_is_bound_too(
    make_layer: Callable[..., Any],
    register: Callable[[type], str],
    server: Any,
    prefix: str,
    kind: str,
) -> None:
    """A subclass of BaseMessageSerializer with as_bytes() and from_bytes() has nothing to do."""
    layer = make_layer(kind, serializer_format=register(Reversed), **BOUND)
    await layer.send("secret-jobs", SECRET)
    assert await receive(layer, "secret-jobs") == SECRET
    await layer.send("secret-jobs", SECRET)
    Eavesdropper(server).move_in_queues(
        queue_key(prefix, "secret-jobs"), queue_key(prefix, "public-jobs")
    )
    assert await receive_until_marker(layer, "public-jobs") == []
    assert layer.stats().dropped == {"misplaced": 1}


async def test_an_encryption_of_ones_own_works_as_before(
    make_layer: Callable[..., Any], register: Callable[[type], str], kind: str
) -> None:
    """Without binding, whatever encrypts is asked."""
    layer = make_layer(kind, serializer_format=register(OwnCrypter), **KEYS)
    channel = await layer.new_channel()
    await layer.send(channel, SECRET)
    assert await receive(layer, channel) == SECRET
