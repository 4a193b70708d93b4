"""Members of a queue with scores that are no times: another tenant's, or somebody's on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from channels.exceptions import ChannelFull

from tests.helpers import (
    member,
    numbered,
    queue_key,
    receive,
    receive_numbers,
    receive_until_marker,
    server_time_s,
)

DAY_S = 86_400
NO_TIMES = ["+inf", "-inf", "1e300", "-1e300", "0", "99999999999"]


def fill(server: Any, key: str, score: str, count: int) -> None:
    for number in range(count):
        server.command("ZADD", key, score, member(numbered(1000 + number)))


@pytest.mark.parametrize("score", NO_TIMES)
async def test_members_without_a_time_do_not_fill_a_queue(
    make_layer: Callable[..., Any], server: Any, prefix: str, kind: str, score: str
) -> None:
    """They take no capacity, and go with the next message that is sent."""
    layer = make_layer(kind, capacity=5)
    fill(server, queue_key(prefix, "work"), score, 5)
    for number in range(5):
        await layer.send("work", numbered(number))
    with pytest.raises(ChannelFull):
        await layer.send("work", numbered(5))
    assert server.command("ZCARD", queue_key(prefix, "work")) == 5
    assert await receive_numbers(layer, "work", 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("score", NO_TIMES)
@pytest.mark.parametrize("name", ["own", "general"])
async def test_members_without_a_time_are_not_delivered_but_counted(
    make_layer: Callable[..., Any], server: Any, prefix: str, name: str, score: str
) -> None:
    """Popped in a batch, before anything was sent, or one by one by those who wait."""
    layer = make_layer("core")
    channel = await layer.new_channel() if name == "own" else "work"
    key = queue_key(prefix, channel)
    fill(server, key, score, 3)
    assert await receive_until_marker(layer, channel) == []
    fill(server, key, score, 3)
    server.command("ZADD", key, server_time_s(server), member(numbered(1), channel=channel))
    assert await receive(layer, channel) == numbered(1)
    assert await receive_until_marker(layer, channel) == []
    assert server.command("ZCARD", key) == 0


async def test_a_clock_that_is_ahead_by_hours_is_still_a_clock(
    make_layer: Callable[..., Any], server: Any, prefix: str
) -> None:
    """Senders of earlier releases write their own time."""
    layer = make_layer("core")
    key, now = queue_key(prefix, "work"), server_time_s(server)
    server.command("ZADD", key, now + DAY_S - 60, member(numbered(0)))
    await layer.send("work", numbered(1))
    assert await receive_numbers(layer, "work", 2) == [0, 1]
