"""Frames that nobody can read, or that were not meant for the reader: dropped and counted."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers import (
    member_of_bytes,
    numbered,
    put_frame,
    queue_key,
    receive,
    receive_until_marker,
)

KEYS = {"symmetric_encryption_keys": ["the right key"]}
OTHER_KEYS = {"symmetric_encryption_keys": ["another key"]}


class Wiretap:
    """Reads the frames that a layer sends to a channel of another layer, and keeps them back."""

    def __init__(self, kind: str, sender: Any, server: Any, prefix: str) -> None:
        self._kind = kind
        self._sender = sender
        self._server = server
        self._prefix = prefix

    async def frame(self, channel: str, message: dict[str, Any]) -> bytes:
        """Return the bytes that the sender puts on the wire for a message."""
        if self._kind == "pubsub":
            return bytes(self._sender.serialize(message))
        await self._sender.send(channel, message)
        key = queue_key(self._prefix, channel)
        (frame,) = self._server.command("ZRANGE", key, 0, -1)
        self._server.command("DEL", key)
        return bytes(frame)


@pytest.mark.parametrize("options", [{}, KEYS], ids=["plain", "encrypted"])
async def test_random_bytes_are_dropped_and_counted(
    make_layer: Callable[..., Any],
    server: Any,
    prefix: str,
    kind: str,
    options: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A thousand frames of noise are a thousand drops, one line in the log, and no consumer's."""
    layer = make_layer(kind, capacity=10_000, **options)
    channel = await layer.new_channel()
    await layer.send(channel, numbered(0))
    assert await receive(layer, channel) == numbered(0)
    dice = random.Random(4)
    with caplog.at_level(logging.INFO, "channels_redis"):
        for _ in range(1000):
            # The first byte is one that msgpack gives no meaning.
            noise = b"\xc1" + dice.randbytes(dice.randrange(8, 40))
            put_frame(
                kind, server, prefix, channel, member_of_bytes(noise) if kind == "core" else noise
            )
        assert await receive_until_marker(layer, channel) == []
    assert layer._report.dropped == {"undecodable": 1000}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert channel.split("!")[0] in caplog.text


# Python 3.15 reads base64 without its padding, which is two characters at most.
@pytest.mark.parametrize("cut", [1, 20, -3, None], ids=["start", "middle", "end", "other key"])
async def test_tokens_that_no_key_opens_are_dropped(
    make_layer: Callable[..., Any], server: Any, prefix: str, kind: str, cut: int | None
) -> None:
    """Encrypted with another key, or cut short somewhere."""
    layer = make_layer(kind, **KEYS)
    channel = await layer.new_channel()
    sender = make_layer(kind, **(OTHER_KEYS if cut is None else KEYS))
    frame = await Wiretap(kind, sender, server, prefix).frame(channel, numbered(1))
    put_frame(kind, server, prefix, channel, frame[:cut])
    assert await receive_until_marker(layer, channel) == []
    assert layer._report.dropped == {"undecodable": 1}


async def test_a_frame_that_is_played_again_is_dropped(
    make_layer: Callable[..., Any], server: Any, prefix: str, kind: str
) -> None:
    """Recorded on the wire and offered twice more: delivered once, and counted as repeated.

    (On pubsub this can be known of encrypted messages only: two others may be alike.)
    """
    layer = make_layer(kind, **(KEYS if kind == "pubsub" else {}))
    sender = make_layer(kind, **(KEYS if kind == "pubsub" else {}))
    channel = await layer.new_channel()
    frame = await Wiretap(kind, sender, server, prefix).frame(channel, numbered(1))
    for _ in range(3):
        put_frame(kind, server, prefix, channel, frame)
        assert set(map(str, await receive_until_marker(layer, channel))) <= {str(numbered(1))}
    assert layer._report.dropped == {"repeated": 2}


async def test_equal_publications_in_the_clear_are_two_messages(
    make_layer: Callable[..., Any],
) -> None:
    """What looks like a repeat may be none."""
    layer = make_layer("pubsub")
    channel = await layer.new_channel()
    for _ in range(2):
        await layer.send(channel, numbered(1))
    assert await receive_until_marker(layer, channel) == [numbered(1)] * 2


async def test_a_frame_for_another_process_is_dropped(
    make_layer: Callable[..., Any], server: Any, prefix: str
) -> None:
    """Moved into a queue that it was not addressed to."""
    layer, other = make_layer("core"), make_layer("core")
    channel, foreign = await layer.new_channel(), await other.new_channel()
    frame = await Wiretap("core", other, server, prefix).frame(foreign, numbered(1))
    put_frame("core", server, prefix, channel, frame)
    assert await receive_until_marker(layer, channel) == []
    assert layer._report.dropped == {"undecodable": 1}
    assert foreign not in dict(layer.receive_buffer.items())
