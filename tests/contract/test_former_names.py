"""Attributes of the layers of 4.3.0 that public projects use."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from channels_redis.core import RedisChannelLayer
from tests.helpers import MARKER, wait_for


async def test_receive_count_is_the_number_of_waiting_receivers(make_layer: Any) -> None:
    """Tests of projects wait for it before they send."""
    layer = make_layer("core")
    assert layer.receive_count == 0
    waiting = [asyncio.ensure_future(layer.receive(await layer.new_channel())) for _ in range(3)]
    await wait_for(lambda: layer.receive_count == 3)
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    assert layer.receive_count == 0


async def test_the_topic_of_a_group_is_its_key_in_groups(make_layer: Any) -> None:
    """Who counts the members of a group in this process looks them up so."""
    layer = make_layer("pubsub")
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    topic = layer._get_group_channel_name("room")
    assert topic == f"{layer.prefix}__group__room"
    assert layer.groups[topic] == {channel}


async def test_channels_are_mapped_to_keys_messages_and_capacities(
    make_layer: Any, ring_urls: list[str]
) -> None:
    """As 4.3.0 does: one frame for each queue, on the shard where its reader looks."""
    layer = make_layer("core", hosts=ring_urls, capacity=50, channel_capacity={"gen*": 7})
    one, other = [await layer.new_channel() for _ in range(2)]
    message = {"type": MARKER}
    keys, packed, capacities = layer._map_channel_keys_to_connection([one, "gen", other], message)
    own, general = f"{layer.prefix}{one.partition('!')[0]}!", f"{layer.prefix}gen"
    assert keys[layer.consistent_hash(one.partition("!")[0] + "!")].count(own) == 1
    assert keys[layer.consistent_hash("gen")].count(general) == 1
    assert sum(map(len, keys.values())) == 2
    assert capacities == {own: 50, general: 7}
    unpacked = layer.deserialize(packed[own])
    assert unpacked == {**message, "__asgi_channel__": [one, other]}
    assert keys[5] == []


@contextlib.contextmanager
def commands_seen_by(server: Any) -> Iterator[Any]:
    """Everything that a server is asked while this is open, as MONITOR tells it."""
    with socket.create_connection(server.address) as connection, connection.makefile() as lines:
        connection.sendall(b"MONITOR\r\n")
        assert lines.readline().strip() == "+OK"
        yield lines


@pytest.mark.parametrize(("seconds", "blocks"), [(5, 3), (2, 2), (30, 30), (0.5, 1)])
async def test_brpop_timeout_is_the_time_of_a_blocking_pop(
    make_layer: Any, private_server: Any, seconds: float, blocks: int
) -> None:
    """A subclass sets it; where none does, it goes with ``command_timeout_s``."""
    assert RedisChannelLayer.brpop_timeout == 5

    class Own(RedisChannelLayer):
        brpop_timeout = seconds

    layer = Own(hosts=[private_server.url], command_timeout_s=6)
    with commands_seen_by(private_server) as lines:
        waiting = asyncio.ensure_future(layer.receive("general"))
        line = ""
        while "BZPOPMIN" not in line:
            line = await asyncio.to_thread(lines.readline)
        assert line.strip().endswith(f'"{blocks}"')
        await layer.send("general", {"type": MARKER})
        assert await waiting == {"type": MARKER}
    await layer.close()
