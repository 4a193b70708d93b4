"""Frames with addresses without number: they cost nothing that stays, and push nobody out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from channels_redis._receiving import queues
from tests.helpers import (
    member_of_bytes,
    numbered,
    queue_key,
    receive,
    receive_until_marker,
    server_time_s,
)

COUNT = 50_000


def offer(server: Any, prefix: str, addresses: list[str], message: dict[str, Any]) -> None:
    """Put one message for many channels into their queue, past all layers."""
    frame = member_of_bytes(msgpack.packb({**message, "__asgi_channel__": addresses}))
    server.command("ZADD", queue_key(prefix, addresses[0]), server_time_s(server), frame)


async def test_addresses_without_a_consumer_take_almost_no_memory(
    make_layer: Callable[..., Any], server: Any, prefix: str
) -> None:
    """One frame fills no table; consumers hear it, and what comes after it."""
    layer = make_layer("core")
    channel = await layer.new_channel()
    own = channel.split("!")[0] + "!"
    offer(server, prefix, [*(f"{own}{number}" for number in range(COUNT)), channel], numbered(1))
    assert await receive(layer, channel) == numbered(1)
    stats = layer.stats()
    assert stats.mailboxes <= queues.STRANGERS + 1
    assert stats.dropped == {"abandoned": COUNT - queues.STRANGERS}
    offer(server, prefix, [f"{own}x{number}" for number in range(COUNT)], numbered(2))
    # A consumer that nobody here has heard of yet: the newest have the room.
    late = f"{own}late"
    await layer.send(late, numbered(3))
    assert await receive_until_marker(layer, channel) == []
    assert layer.stats().mailboxes <= queues.STRANGERS + 1
    assert await receive(layer, late) == numbered(3)


async def test_an_address_that_is_repeated_counts_once(
    make_layer: Callable[..., Any], server: Any, prefix: str
) -> None:
    """A consumer gets one copy, and loses nothing else to the others."""
    layer = make_layer("core", capacity=5)
    channel = await layer.new_channel()
    await layer.send(channel, numbered(0))
    offer(server, prefix, [channel] * COUNT, numbered(1))
    assert await receive_until_marker(layer, channel) == [numbered(0), numbered(1)]
    assert layer.stats().dropped == {}


async def test_addresses_that_are_no_names_are_dropped(
    make_layer: Callable[..., Any], server: Any, prefix: str
) -> None:
    """Whatever else stands in their place."""
    layer = make_layer("core")
    channel = await layer.new_channel()
    own = channel.split("!")[0] + "!"
    strange: list[Any] = [5, None, {}, [], [5], [None], {own: 1}, b"x", [own, []], [[own]], True]
    for addresses in strange:
        frame = member_of_bytes(msgpack.packb({"n": 1, "__asgi_channel__": addresses}))
        server.command("ZADD", queue_key(prefix, channel), server_time_s(server), frame)
    assert await receive_until_marker(layer, channel) == []
    assert layer.stats().mailboxes <= 2
