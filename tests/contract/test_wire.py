"""Keys, bytes, scores and time-outs on the wire, as 4.3.0 recorded them.

What an old process of a mixed fleet sees and does; ``old_process`` plays it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest

from channels_redis.utils import _consistent_hash
from tests.contract.old_process import fernet, member, message_of, queue_of, shard_of
from tests.contract.steps import waiting_receive
from tests.helpers import bounded, receive, wait_for

RECORDED = json.loads((Path(__file__).parent / "wire" / "upstream-4.3.0.json").read_text())
SAY = {"type": "hi"}
ADDRESS = "__asgi_channel__"


def with_bytes(value: Any) -> Any:
    """JSON has no bytes: recorded ones are written as base 64."""
    if isinstance(value, dict):
        if value.keys() == {"__b64__"}:
            return base64.b64decode(value["__b64__"])
        return {key: with_bytes(entry) for key, entry in value.items()}
    return value


# The formats


@pytest.mark.parametrize("case", RECORDED["serializers"], ids=lambda c: c["format"])
def test_recorded_messages_serialize_to_the_recorded_bytes(
    kind: str, make_layer: Any, case: dict[str, Any]
) -> None:
    """Byte for byte what 4.3.0 wrote, and read back whole."""
    layer = make_layer(kind, serializer_format=case["format"], random_prefix_length=0)
    message, data = with_bytes(case["message"]), base64.b64decode(case["bytes_b64"])
    assert layer.serialize(message) == data
    assert layer.deserialize(data) == message


@pytest.mark.parametrize("case", RECORDED["encrypted"], ids=lambda c: "+".join(c["keys"]))
def test_recorded_tokens_are_decrypted(kind: str, make_layer: Any, case: dict[str, Any]) -> None:
    """However old a token is: its age is judged by the score alone."""
    layer = make_layer(kind, symmetric_encryption_keys=case["keys"], random_prefix_length=0)
    assert layer.deserialize(base64.b64decode(case["token_b64"])) == case["message"]


def test_encrypted_messages_are_fernet_tokens_of_the_first_key(kind: str, make_layer: Any) -> None:
    """Key = base 64 of SHA-256; an old process with the key reads them."""
    layer = make_layer(kind, symmetric_encryption_keys=["new", "old"])
    token = layer.serialize(SAY)[12 if kind == "core" else 0 :]
    assert msgpack.unpackb(fernet("new").decrypt(token)) == SAY


def test_core_serialize_returns_what_travels(make_layer: Any) -> None:
    """The random bytes are part of it: fresh for each call, as many as the option says."""
    layer = make_layer("core", random_prefix_length=20)
    one, other = layer.serialize(SAY), layer.serialize(SAY)
    assert one[:20] != other[:20]
    assert one[20:] == other[20:] == msgpack.packb(SAY)


# Queues as core writes them


async def test_a_queue_is_a_sorted_set_of_members(
    build_core: Any, shards: list[Any], prefix: str
) -> None:
    """Prefix + non-local name; 12 random bytes + msgpack; score in seconds; time-out = expiry."""
    layer = build_core(expiry=45)
    channel = await layer.new_channel()
    await layer.send(channel, SAY)
    client, key = shard_of(shards, queue_of(channel)), f"{prefix}{queue_of(channel)}"
    ((data, score),) = await client.zrange(key, 0, -1, withscores=True)
    assert message_of(data) == {**SAY, ADDRESS: channel}
    assert data[12:] == msgpack.packb({**SAY, ADDRESS: channel})
    seconds, _ = await client.time()
    assert seconds - 5 < score < seconds + 2
    assert 43 <= await client.ttl(key) <= 46


async def test_a_general_queue_has_no_address_in_its_members(
    build: Any, shards: list[Any], prefix: str
) -> None:
    """The name of the key says it all; the same bytes on both layers."""
    layer = build(expiry=45)
    for _ in shards:
        await layer.send("tasks", SAY)
    for client in shards:
        (data,) = await client.zrange(f"{prefix}tasks", 0, -1)
        assert data[12:] == msgpack.packb(SAY)
        assert 43 <= await client.ttl(f"{prefix}tasks") <= 46


async def test_direct_sends_to_a_general_channel_go_round_the_ring(
    build: Any, shards: list[Any], prefix: str
) -> None:
    """An old worker sits on one shard at a time: each shard gets its share."""
    layer = build()
    for _ in range(5 * len(shards)):
        await layer.send("tasks", SAY)
    assert [await client.zcard(f"{prefix}tasks") for client in shards] == [5] * len(shards)


async def test_a_consumers_queue_sits_at_the_hash_of_its_non_local_name(
    build_core: Any, shards: list[Any], prefix: str
) -> None:
    """There, and nowhere else, old and new readers look."""
    layer = build_core()
    for _ in range(8):
        await layer.send(await layer.new_channel(), SAY)
    name = queue_of(await layer.new_channel())
    found = [await client.zcard(f"{prefix}{name}") for client in shards]
    assert found[_consistent_hash(name, len(shards))] == 8
    assert sum(found) == 8


async def test_a_group_is_a_sorted_set_of_names(
    build_core: Any, shards: list[Any], prefix: str
) -> None:
    """``<prefix>:group:<group>``: member = channel name, score = seconds, time-out."""
    layer = build_core(group_expiry=4000)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_add("room", "tasks")
    client, key = shard_of(shards, "room"), f"{prefix}:group:room"
    members = dict(await client.zrange(key, 0, -1, withscores=True))
    assert members.keys() == {channel.encode(), b"tasks"}
    seconds, _ = await client.time()
    assert all(seconds - 5 < score < seconds + 2 for score in members.values())
    assert 3990 <= await client.ttl(key) <= 4001


async def test_one_group_message_per_process_lists_its_channels(
    build_core: Any, shards: list[Any], prefix: str
) -> None:
    """The address is a list of full names, one member for all channels of a process."""
    layer, other = build_core(), build_core()
    for process in (layer, other):
        channels = [await process.new_channel() for _ in range(3)]
        for channel in channels:
            await layer.group_add(f"room-{process.client_prefix}", channel)
            await layer.group_add("room", channel)
        await layer.group_send(f"room-{process.client_prefix}", SAY)
        name = queue_of(channels[0])
        (data,) = await shard_of(shards, name).zrange(f"{prefix}{name}", 0, -1)
        message = message_of(data)
        assert sorted(message.pop(ADDRESS)) == sorted(channels)
        assert message == SAY
    await layer.group_send("room", SAY)
    for process in (layer, other):
        name = f"specific.{process.client_prefix}!"
        assert await shard_of(shards, name).zcard(f"{prefix}{name}") == 2


@pytest.mark.parametrize("form", ["msgpack", "json"])
async def test_a_group_message_is_read_wherever_its_addresses_stand(
    build_core: Any, shards: list[Any], prefix: str, form: str
) -> None:
    """Also in front of content that looks like the end of a frame, and long enough to be cut."""
    layer = build_core(serializer_format=form)
    encode = layer._serializer.as_bytes
    channels = [await layer.new_channel() for _ in range(3)]
    name = queue_of(channels[0])
    client, key = shard_of(shards, name), f"{prefix}{name}"
    inner = encode({"type": "hi", ADDRESS: channels[:1]}).decode("latin-1")
    filled = {"type": "hi", "list": [{"n": number} for number in range(200)]}
    for message in (
        {ADDRESS: channels, **filled, "inner": inner},
        {**filled, ADDRESS: channels, "__asgi_nonce__": "0" * 32},
        {**filled, ADDRESS: channels},
    ):
        await client.zadd(key, {b"0" * 12 + encode(message): time.time()})
        expected = {one: value for one, value in message.items() if not one.startswith("__asgi")}
        for channel in channels:
            assert await receive(layer, channel) == expected


async def test_a_general_member_of_a_group_sits_at_the_hash_of_its_name(
    build_core: Any, shards: list[Any], prefix: str
) -> None:
    """Old processes put group messages for workers there."""
    layer = build_core()
    await layer.group_add("room", "tasks")
    await layer.group_send("room", SAY)
    (data,) = await shard_of(shards, "tasks").zrange(f"{prefix}tasks", 0, -1)
    message = message_of(data)
    assert message.pop(ADDRESS, ["tasks"]) == ["tasks"]
    assert message == SAY


async def test_core_leaves_no_other_key(build_core: Any, shards: list[Any], prefix: str) -> None:
    """What was received is gone, and no helper key stays behind for long."""
    layer = build_core(expiry=1)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, SAY)
    await layer.group_send("room", SAY)
    await layer.send("tasks", SAY)
    for name in (channel, channel, "tasks"):
        assert await receive(layer, name) == SAY
    await layer.group_discard("room", channel)

    async def nothing_is_left() -> bool:
        return not [key for client in shards async for key in client.scan_iter(f"{prefix}*")]

    await wait_for(nothing_is_left)


# Queues as an old process writes them


@pytest.mark.parametrize("address", ["string", "list"])
async def test_a_consumer_reads_what_an_old_process_wrote(
    build_core: Any, shards: list[Any], prefix: str, address: str
) -> None:
    """A string for a direct message, a list for a group message, and no key of it delivered."""
    layer = build_core()
    channels = [await layer.new_channel() for _ in range(3)]
    name = queue_of(channels[0])
    addressed = channels[0] if address == "string" else channels
    await shard_of(shards, name).zadd(
        f"{prefix}{name}", {member({**SAY, ADDRESS: addressed}): time.time()}
    )
    for channel in channels if address == "list" else channels[:1]:
        assert await receive(layer, channel) == SAY


@pytest.mark.parametrize("address", [None, ["tasks"]])
async def test_a_worker_reads_what_an_old_process_wrote_on_any_shard(
    build: Any, shards: list[Any], prefix: str, address: Any
) -> None:
    """General messages on every shard are found, with and without the address of a group."""
    layer = build()
    message = SAY if address is None else {**SAY, ADDRESS: address}
    for number, client in enumerate(shards):
        await client.zadd(f"{prefix}tasks", {member({**message, "shard": number}): time.time()})
    got = [await receive(layer, "tasks") for _ in shards]
    assert sorted(entry.pop("shard") for entry in got) == list(range(len(shards)))
    assert got == [SAY] * len(shards)


async def test_a_worker_waits_on_every_shard_at_once(
    build: Any, shards: list[Any], prefix: str
) -> None:
    """Whichever shard the message falls on, a waiting worker has it at once."""
    layer = build()
    for client in shards:
        waiting = await waiting_receive(layer, "tasks")
        await client.zadd(f"{prefix}tasks", {member(SAY): time.time()})
        assert await bounded(waiting) == SAY


async def test_a_group_of_an_old_process_is_sent_to(
    build_core: Any, shards: list[Any], prefix: str
) -> None:
    """Members that an old process added get what a new one sends."""
    layer = build_core()
    channel = await layer.new_channel()
    foreign = f"specific.{'0' * 32}!{'1' * 32}"
    client = shard_of(shards, "room")
    await client.zadd(f"{prefix}:group:room", {channel: time.time(), foreign: time.time()})
    await layer.group_send("room", SAY)
    assert await receive(layer, channel) == SAY
    (data,) = await shard_of(shards, queue_of(foreign)).zrange(f"{prefix}{queue_of(foreign)}", 0, 9)
    assert message_of(data) == {**SAY, ADDRESS: [foreign]}


@pytest.mark.parametrize("length", [0, -1])
async def test_without_random_bytes_a_reserved_key_makes_members_unique(
    build: Any, shards: list[Any], prefix: str, length: int
) -> None:
    """``__asgi_nonce__`` is in the message on the wire, and fresh for each."""
    layer = build(random_prefix_length=length)
    for _ in range(2 * len(shards)):
        await layer.send("tasks", SAY)
    for client in shards:
        messages = [msgpack.unpackb(data) for data in await client.zrange(f"{prefix}tasks", 0, -1)]
        nonces = {message.pop("__asgi_nonce__") for message in messages}
        assert messages == [SAY, SAY]
        assert len(nonces) == 2


async def test_two_old_frames_in_one_queue_are_both_read_in_order(
    build_core: Any, shards: list[Any], prefix: str
) -> None:
    """Scores decide the order, and equal messages with own random bytes stay two."""
    layer = build_core()
    channel = await layer.new_channel()
    name = queue_of(channel)
    now = time.time()
    frames = {member({"n": n, ADDRESS: channel}): now + n * 1e-3 for n in (2, 0, 1)}
    await shard_of(shards, name).zadd(f"{prefix}{name}", frames)
    assert [await receive(layer, channel) for _ in range(3)] == [{"n": n} for n in range(3)]


async def test_a_skewed_sender_clock_deletes_nothing(
    build_core: Any, shards: list[Any], prefix: str
) -> None:
    """An old sender an hour ahead: its message and the ones after it all arrive, in order."""
    layer = build_core()
    channel = await layer.new_channel()
    name = queue_of(channel)
    ahead = {member({"n": 0, ADDRESS: channel}): time.time() + 3600}
    await shard_of(shards, name).zadd(f"{prefix}{name}", ahead)
    for number in (1, 2):
        await layer.send(channel, {"n": number})
    got = await asyncio.gather(*(receive(layer, channel) for _ in range(3)))
    assert got == [{"n": n} for n in range(3)]
