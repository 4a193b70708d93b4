"""What is published, where and how, as 4.3.0 recorded it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest

from tests.contract.old_process import fernet, shard_of
from tests.helpers import receive

SAY = {"type": "hi"}

pytestmark = pytest.mark.usefixtures("not_in_a_cluster")


@pytest.fixture
async def old_listener(shards: list[Any]) -> AsyncIterator[Any]:
    """A function that subscribes to names where an old process would, and reads one message."""
    subscribers = []

    async def listen(*names: str) -> list[Any]:
        opened = []
        for name in names:
            subscriber = shard_of(shards, name).pubsub()
            await subscriber.subscribe(name)
            assert (await subscriber.get_message(timeout=5))["type"] == "subscribe"
            opened.append(subscriber)
        subscribers.extend(opened)
        return opened

    yield listen
    for subscriber in subscribers:
        await subscriber.aclose()


async def test_pubsub_publishes_under_the_recorded_names(
    build_pubsub: Any, old_listener: Any, prefix: str
) -> None:
    """A channel under its own name, a group under ``<prefix>__group__<group>``; bare msgpack."""
    layer = build_pubsub()
    channel = f"{prefix}specific.{'0' * 32}"
    direct, group = await old_listener(channel, f"{prefix}__group__room")
    await layer.send(channel, SAY)
    await layer.group_send("room", SAY)
    for subscriber in (direct, group):
        assert (await subscriber.get_message(timeout=5))["data"] == msgpack.packb(SAY)


async def test_pubsub_receives_what_an_old_process_publishes(
    build_pubsub: Any, shards: list[Any], prefix: str
) -> None:
    """Direct and group messages of 4.3.0 arrive."""
    layer = build_pubsub()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    data = msgpack.packb(SAY)
    for name in (channel, f"{prefix}__group__room"):
        assert await shard_of(shards, name).publish(name, data) == 1
        assert await receive(layer, channel) == SAY


@pytest.mark.parametrize(
    ("options", "frame"),
    [
        ({"serializer_format": "json"}, json.dumps(SAY).encode()),
        ({"random_prefix_length": 12}, msgpack.packb(SAY)),
        ({"random_prefix_length": 0}, msgpack.packb(SAY)),
    ],
)
async def test_pubsub_frames_are_bare_under_any_options(
    build_pubsub: Any, old_listener: Any, prefix: str, options: Any, frame: bytes
) -> None:
    """Whatever CONFIG core had: an old pubsub process finds no random bytes, and no nonce."""
    layer = build_pubsub(**options)
    (group,) = await old_listener(f"{prefix}__group__room")
    await layer.group_send("room", SAY)
    assert (await group.get_message(timeout=5))["data"] == frame


async def test_pubsub_encryption_is_read_by_an_old_process(
    build_pubsub: Any, shards: list[Any], old_listener: Any, prefix: str
) -> None:
    """Fernet tokens, both ways."""
    layer = build_pubsub(symmetric_encryption_keys=["new", "old"])
    channel = await layer.new_channel()
    (group,) = await old_listener(f"{prefix}__group__room")
    await layer.group_send("room", SAY)
    frame = (await group.get_message(timeout=5))["data"]
    assert msgpack.unpackb(fernet("new").decrypt(frame)) == SAY
    token = fernet("old").encrypt(msgpack.packb(SAY))
    await shard_of(shards, channel).publish(channel, token)
    assert await receive(layer, channel) == SAY
