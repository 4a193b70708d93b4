"""A consumer that works long, or stays away, keeps its place; only one that is dead loses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis import _clock, _mailbox
from tests.defects.steps import cancel, numbered, receive_numbers, waiting
from tests.helpers import receive, receive_until_marker, wait_for

EXPIRY_S = 1
GONE_S = 0.3


@pytest.fixture(autouse=True)
def soon_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer is taken for gone sooner than after ten seconds."""
    monkeypatch.setattr(_mailbox, "GONE_S", GONE_S)


@pytest.fixture
def pair(make_layer: Callable[..., Any], kind: str) -> tuple[Any, Any]:
    """Two layers, as of two processes, where messages expire soon."""
    return make_layer(kind, expiry=EXPIRY_S), make_layer(kind, expiry=EXPIRY_S)


async def one_is_gone(layer: Any) -> None:
    """Wait until a consumer that has died has been noticed, which a live one outlives."""

    async def consume() -> str:
        channel: str = await layer.new_channel()
        await cancel(waiting(layer, channel))
        return channel

    channel = await asyncio.create_task(consume())
    await wait_for(lambda: channel not in layer._mailboxes.boxes)


async def test_a_handler_that_outlasts_expiry_while_the_room_is_busy_keeps_its_groups(
    pair: tuple[Any, Any],
) -> None:
    """As a consumer does that streams the answer of a language model."""
    layer, sender = pair
    channel, sibling = await layer.new_channel(), await layer.new_channel()
    for member in (channel, sibling):
        await layer.group_add("room", member)
    await sender.group_send("room", numbered(0))
    assert await receive(layer, channel) == numbered(0)
    # The handler begins here.
    await sender.group_send("room", numbered(1))
    await wait_for(lambda: layer.stats().dropped.get("expired", 0) >= 1)
    await one_is_gone(layer)
    await sender.group_send("room", numbered(2))
    assert await receive(layer, channel) == numbered(2)
    await sender.group_send("room", numbered(3))
    assert await receive(layer, channel) == numbered(3)


async def test_only_what_is_older_than_expiry_is_dropped(
    pair: tuple[Any, Any], advance_clock: Callable[[float], None]
) -> None:
    """A message that has not expired comes, whatever lies before it."""
    layer, sender = pair
    channel, marker = await layer.new_channel(), await layer.new_channel()
    await arrive_unread(layer, sender, channel, marker, 1)
    advance_clock(0.85 * EXPIRY_S)
    await arrive_unread(layer, sender, channel, marker, 2)
    advance_clock(0.75 * EXPIRY_S)
    assert await receive_numbers(layer, channel, 1) == [2]
    assert await receive_until_marker(layer, channel, sender) == []
    assert layer.stats().dropped == {"expired": 1}


async def arrive_unread(layer: Any, sender: Any, channel: str, marker: str, number: int) -> None:
    await sender.send(channel, numbered(number))
    assert await receive_until_marker(layer, marker, sender) == []


@pytest.fixture
def advance_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that puts the clock of the mailboxes forward by some seconds."""
    ahead_s = 0.0
    real = _clock.monotonic

    def advance(by_s: float) -> None:
        nonlocal ahead_s
        ahead_s += by_s

    monkeypatch.setattr(_clock, "monotonic", lambda: real() + ahead_s)
    return advance
