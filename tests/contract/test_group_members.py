"""``group_channels()`` and ``group_size()``: who is in a group, and how many."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from channels_redis.exceptions import ChannelsRedisError, InvalidName
from tests.contract.steps import ALSO_BEHIND_SENTINEL


async def told(layer: Any, group: str) -> list[str]:
    """The members of a group, once both methods agree."""
    channels: list[str] = await layer.group_channels(group)
    assert await layer.group_size(group) == len(channels)
    return channels


@ALSO_BEHIND_SENTINEL
async def test_core_names_the_members_of_all_processes(build_core: Any) -> None:
    """In the order in which they joined; general channels too, and nobody of another group."""
    here, there = build_core(), build_core()
    one, two = await here.new_channel(), await there.new_channel()
    await here.group_add("room", one)
    await there.group_add("room", two)
    await there.group_add("room", "tasks")
    await there.group_add("elsewhere", two)
    assert await told(here, "room") == [one, two, "tasks"]
    await here.group_discard("room", one)
    assert await told(there, "room") == [two, "tasks"]
    assert await told(here, "nobody-is-here") == []


async def test_core_counts_only_whom_a_message_would_reach(build_core: Any) -> None:
    """Memberships older than ``group_expiry`` are gone for both, whoever asks first."""
    layer = build_core()
    old, new = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", old)
    await layer.group_add("room", new)
    client = layer.connection(layer.consistent_hash("room"))
    await client.zadd(layer._group_key("room"), {old: 1_000_000_000})
    assert await layer.group_size("room") == 1
    assert await layer.group_channels("room") == [new]


async def test_core_returns_members_to_code_without_a_loop_too(build_core: Any) -> None:
    """A view can show how many are in a room."""
    layer = build_core()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    assert await asyncio.to_thread(layer.sync.group_channels, "room") == [channel]
    assert await asyncio.to_thread(layer.sync.group_size, "room") == 1


@pytest.mark.parametrize("method", ["group_channels", "group_size"])
async def test_pubsub_refuses_instead_of_guessing(build_pubsub: Any, method: str) -> None:
    """No process knows the members of others, so there is no number to give."""
    layer = build_pubsub()
    with pytest.raises(NotImplementedError, match=rf"{method}.*core layer") as caught:
        await getattr(layer, method)("room")
    assert isinstance(caught.value, ChannelsRedisError)
    with pytest.raises(NotImplementedError, match=method):
        await asyncio.to_thread(getattr(layer.sync, method), "room")


@pytest.mark.parametrize("method", ["group_channels", "group_size"])
async def test_core_checks_the_name_of_the_group(build_core: Any, method: str) -> None:
    """As every other method does."""
    with pytest.raises(InvalidName):
        await getattr(build_core(), method)("not a name")
