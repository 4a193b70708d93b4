"""What is too old, and who says so: the server's clock and the score of a message alone."""

from __future__ import annotations

import base64
import hashlib
import logging
import time
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from cryptography.fernet import Fernet

from tests.helpers import (
    member,
    member_of_bytes,
    numbered,
    numbers,
    queue_key,
    receive,
    receive_numbers,
    receive_until_marker,
    server_time_s,
)

DAY_S = 86_400
KEY = "an encryption key"


def encrypted(message: dict[str, Any], channel: str, at_s: float) -> bytes:
    """A member that a sender encrypted when its own clock said ``at_s``."""
    key = base64.urlsafe_b64encode(hashlib.sha256(KEY.encode()).digest())
    payload = msgpack.packb({**message, "__asgi_channel__": channel})
    return member_of_bytes(Fernet(key).encrypt_at_time(payload, int(at_s)))


async def test_age_is_judged_by_the_score_and_not_by_the_stamp_in_an_encrypted_token(
    make_layer: Callable[..., Any], server: Any, prefix: str
) -> None:
    """A legally queued message is delivered, whatever clock its encrypting sender had."""
    layer = make_layer("core", symmetric_encryption_keys=[KEY])
    channel = await layer.new_channel()
    now = server_time_s(server)
    for number, skew_s in enumerate((-DAY_S, 0, DAY_S)):
        frame = encrypted(numbered(number), channel, now + skew_s)
        server.command("ZADD", queue_key(prefix, channel), now + number * 1e-3, frame)
    assert await receive_numbers(layer, channel, 3) == [0, 1, 2]


@pytest.mark.parametrize("keys", [None, [KEY]], ids=["plain", "encrypted"])
async def test_expired_messages_are_dropped_quietly_when_read(
    make_layer: Callable[..., Any],
    server: Any,
    prefix: str,
    keys: list[str] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A message older than ``expiry`` raises nothing, is not delivered and makes no noise."""
    layer = make_layer("core", symmetric_encryption_keys=keys)
    channel = await layer.new_channel()
    then = server_time_s(server) - 80
    old = encrypted(numbered(1), channel, then) if keys else member(numbered(1), channel=channel)
    server.command("ZADD", queue_key(prefix, channel), then, old)
    fresh = server_time_s(server)
    young = encrypted(numbered(2), channel, fresh) if keys else member(numbered(2), channel=channel)
    server.command("ZADD", queue_key(prefix, channel), fresh, young)
    with caplog.at_level(logging.INFO, "channels_redis"):
        assert await receive(layer, channel) == numbered(2)
    assert caplog.records == []


@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_an_expired_message_of_a_general_channel_is_not_delivered(
    make_layer: Callable[..., Any], server: Any, prefix: str, kind: str
) -> None:
    """A worker that comes too late finds nothing."""
    layer = make_layer(kind)
    then = server_time_s(server) - 80
    server.command("ZADD", queue_key(prefix, "work"), then, member(numbered(1)))
    assert await receive_until_marker(layer, "work") == []


async def test_a_sender_whose_clock_is_ahead_deletes_nobodys_messages(
    make_layer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's clock decides: a sender a day ahead leaves queued messages alone (89, 151)."""
    layer, ahead = make_layer("core"), make_layer("core")
    channel = await layer.new_channel()
    await layer.send(channel, numbered(1))
    await layer.send("work", numbered(1))
    with monkeypatch.context() as clock:
        true_time = time.time
        clock.setattr(time, "time", lambda: true_time() + DAY_S)
        await ahead.send(channel, numbered(2))
        await ahead.send("work", numbered(2))
    assert await receive_numbers(layer, channel, 2) == [1, 2]
    assert await receive_numbers(layer, "work", 2) == [1, 2]


async def test_a_sender_whose_clock_is_ahead_empties_no_group(
    make_layer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members stay in a group until the server's clock says that they have expired."""
    layer, ahead = make_layer("core"), make_layer("core")
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    with monkeypatch.context() as clock:
        true_time = time.time
        clock.setattr(time, "time", lambda: true_time() + 2 * DAY_S)
        await ahead.group_send("room", numbered(1))
    await layer.group_send("room", numbered(2))
    assert await receive_numbers(layer, channel, 2) == [1, 2]


async def test_messages_of_a_sender_whose_clock_is_behind_keep_their_order(
    make_layer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sender's clock reorders messages: they come in the order in which the server got them."""
    layer, behind = make_layer("core"), make_layer("core")
    channel = await layer.new_channel()
    await layer.send(channel, numbered(1))
    with monkeypatch.context() as clock:
        true_time = time.time
        clock.setattr(time, "time", lambda: true_time() - 30)
        await behind.send(channel, numbered(2))
    assert await receive_numbers(layer, channel, 2) == [1, 2]


async def test_expiry_need_not_be_a_whole_number_of_seconds(
    make_layer: Callable[..., Any], kind: str
) -> None:
    """Sending and groups work with any positive ``expiry`` and ``group_expiry``."""
    layer = make_layer(kind, expiry=1.5, group_expiry=100.5)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", numbered(1))
    await layer.send(channel, numbered(2))
    await layer.send("work", numbered(3))
    assert await receive_numbers(layer, channel, 2) == [1, 2]
    assert numbers([await receive(layer, "work")]) == [3]
