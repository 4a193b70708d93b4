"""Several hosts: every message goes where somebody reads, and is trimmed where it lies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from channels_redis.testing.servers import command
from tests.helpers import member, numbered, queue_key, receive, waiting


def addresses(urls: list[str]) -> list[tuple[str, int]]:
    parts = [url.removeprefix("redis://").split("/")[0].rsplit(":", 1) for url in urls]
    return [(host, int(port)) for host, port in parts]


async def test_every_direct_message_to_a_consumer_arrives_with_four_hosts(
    make_layer: Callable[..., Any], kind: str, ring_urls: list[str]
) -> None:
    """Senders look for a consumer's queue on the shard where its process reads (221, C1492)."""
    layer, sender = (make_layer(kind, hosts=ring_urls) for _ in range(2))
    channels = [await layer.new_channel() for _ in range(20)]
    waits = [waiting(layer, channel) for channel in channels]
    for number, channel in enumerate(channels):
        await sender.send(channel, numbered(number))
    received = await asyncio.wait_for(asyncio.gather(*waits), 10)
    assert received == [numbered(number) for number in range(20)]


async def test_group_messages_reach_consumers_and_workers_with_four_hosts(
    make_layer: Callable[..., Any], ring_urls: list[str]
) -> None:
    """The members of a group are reached on whatever shards they are."""
    layers = [make_layer("core", hosts=ring_urls) for _ in range(5)]
    channels = [await layer.new_channel() for layer in layers]
    for layer, channel in zip(layers, channels, strict=True):
        await layer.group_add("room", channel)
    await layers[0].group_add("room", "work")
    await layers[0].group_send("room", numbered(1))
    for layer, channel in zip(layers, channels, strict=True):
        assert await receive(layer, channel) == numbered(1)
    assert await receive(layers[0], "work") == numbered(1)


async def test_expired_messages_do_not_keep_a_queue_full_on_any_host(
    make_layer: Callable[..., Any], ring_urls: list[str], prefix: str
) -> None:
    """A queue that is full of expired messages takes new ones, whichever shard it lies on."""
    capacity = 3
    processes = [make_layer("core", hosts=ring_urls, capacity=capacity) for _ in range(12)]
    sender = make_layer("core", hosts=ring_urls, capacity=capacity)
    channels = [await process.new_channel() for process in processes] + ["work"] * 4
    for address in addresses(ring_urls):
        for channel in channels:
            for old in range(capacity):
                expired = member(numbered(old), channel=channel)
                command(address, "ZADD", queue_key(prefix, channel), 1_000_000 + old, expired)
    for channel in channels:
        await sender.send(channel, numbered(99))
    for process, channel in zip(processes, channels, strict=False):
        assert await receive(process, channel) == numbered(99)
