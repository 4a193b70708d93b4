"""Who is in a group, on both layers: also after crashes, outages and losses of data."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from channels_redis.doctor.rights import presence_rights
from channels_redis.exceptions import (
    ConfigurationError,
    ForeignChannelError,
    InvalidPresence,
    MessageTooLarge,
    PresenceDisabled,
    Unsupported,
)
from channels_redis.testing.servers import RedisServer
from tests.helpers import wait_for
from tests.presence.process import attend, shorten_leases_here, started

LEASE_S = 1.2
ROOMS: dict[str, Any] = {"room.*": {"key": "user"}}
ROOM = "room.1"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let leases be short in this process."""
    shorten_leases_here(monkeypatch, LEASE_S)


@pytest.fixture
def options(private_server: RedisServer, prefix: str) -> dict[str, Any]:
    """The options of all processes of a site."""
    return {"hosts": [private_server.url], "prefix": prefix, "presence": ROOMS}


async def users(layer: Any, group: str = ROOM) -> list[Any]:
    """Return the users in a group, once for each of their channels."""
    return [member.key for member in await layer.group_presence(group)]


async def until(layer: Any, *there: Any) -> None:
    """Return when exactly these users are there."""

    async def are_there() -> bool:
        return sorted(await users(layer)) == sorted(there)

    await wait_for(are_there)


# What it returns


async def test_members_are_known_with_their_info_in_all_processes(
    kind: str, make_layer: Callable[..., Any], hosts: list[Any]
) -> None:
    """On one server, on a ring, behind Sentinels and in a cluster."""
    one = make_layer(kind, hosts=hosts, presence=ROOMS)
    other = make_layer(kind, hosts=hosts, presence=ROOMS)
    for number in range(5):
        group = f"room.{number}"
        ann = await one.new_channel()
        await one.group_add(group, ann, presence={"user": 7, "name": "Ann"})
        tab = await other.new_channel()
        await other.group_add(group, tab, presence={"user": 7, "name": "Ann"})
        bob = await attend(other, group, 8)
        presence = await one.group_presence(group)
        assert len(presence) == 3
        assert {key: len(tabs) for key, tabs in presence.by_key.items()} == {7: 2, 8: 1}
        assert presence.by_channel[ann].info == {"user": 7, "name": "Ann"}
        assert await other.group_size(group) == 3
        assert await other.group_channels(group) == [ann, tab, bob]
        await one.group_discard(group, ann)
        assert await users(other, group) == [7, 8]


async def test_joining_again_replaces_the_info(kind: str, make_layer: Callable[..., Any]) -> None:
    """And the channel is there once."""
    layer = make_layer(kind, presence=ROOMS)
    channel = await attend(layer, ROOM, 7)
    await layer.group_add(ROOM, channel, presence={"user": 7, "mood": "fine"})
    assert [one.info for one in await layer.group_presence(ROOM)] == [{"user": 7, "mood": "fine"}]


async def test_a_member_without_info_is_there(kind: str, make_layer: Callable[..., Any]) -> None:
    """Its key is the name of its channel."""
    layer = make_layer(kind, presence=ROOMS)
    channel = await layer.new_channel()
    await layer.group_add(ROOM, channel)
    assert [(one.key, one.info) for one in await layer.group_presence(ROOM)] == [(channel, {})]


async def test_what_is_wrong_is_refused(kind: str, make_layer: Callable[..., Any]) -> None:
    """With an error that says what to do, and nobody joins."""
    layer = make_layer(kind, presence={"room.*": {"key": "user", "max_bytes": 100}})
    channel = await layer.new_channel()
    with pytest.raises(PresenceDisabled, match="option presence"):
        await layer.group_add("hall", channel, presence={"user": 7})
    with pytest.raises(PresenceDisabled, match="option presence"):
        await layer.group_presence("hall")
    with pytest.raises(MessageTooLarge, match="max_bytes"):
        await layer.group_add(ROOM, channel, presence={"user": 7, "text": "x" * 100})
    with pytest.raises(InvalidPresence, match="must be a dict"):
        await layer.group_add(ROOM, channel, presence=["x"])
    with pytest.raises(InvalidPresence, match="'user'"):
        await layer.group_add(ROOM, channel, presence={"user": [7]})
    assert await users(layer) == []
    other = make_layer(kind, presence=ROOMS)
    with pytest.raises(ForeignChannelError):
        await other.group_add(ROOM, channel, presence={"user": 7})


@pytest.mark.parametrize(
    "presence",
    [
        ["room"],
        {"room": True},
        {7: {}},
        {"room": {"keys": "x"}},
        {"room": {"key": 7}},
        {"room": {"events": 1}},
        {"room": {"grace_s": 0}},
        {"room": {"max_bytes": "1"}},
    ],
)
def test_wrong_options_are_refused(kind: str, presence: Any) -> None:
    """At construction, with the name of the option."""
    from tests.conftest import class_of

    with pytest.raises(ConfigurationError, match="presence"):
        class_of(kind)(presence=presence)


async def test_pubsub_knows_no_members_of_groups_without_presence(
    make_layer: Callable[..., Any],
) -> None:
    """As before; the error names the option."""
    layer = make_layer("pubsub", presence=ROOMS)
    with pytest.raises(Unsupported, match="presence"):
        await layer.group_size("hall")
    with pytest.raises(Unsupported, match="presence"):
        await layer.group_channels("hall")


async def test_info_is_encrypted(
    kind: str, make_layer: Callable[..., Any], options: dict[str, Any], private_server: RedisServer
) -> None:
    """And so is what identifies a user."""
    layer = make_layer(kind, **options, symmetric_encryption_keys=["secret"])
    channel = await layer.new_channel()
    await layer.group_add(ROOM, channel, presence={"user": "ann@example.com"})
    key = private_server.command("KEYS", "*:presence:*")[0]
    stored = b"".join(private_server.command("HGETALL", key))
    assert b"ann@" not in stored
    assert await users(layer) == ["ann@example.com"]
    stranger = make_layer(kind, **options, symmetric_encryption_keys=["other"])
    assert [member.info for member in await stranger.group_presence(ROOM)] == [{}]


def test_blocking_calls_return_the_same(kind: str, make_layer_blocking: Callable[..., Any]) -> None:
    """For views and tasks."""
    layer = make_layer_blocking(kind, presence=ROOMS)
    assert len(layer.sync.group_presence(ROOM)) == 0
    assert layer.sync.group_size(ROOM) == 0


async def test_flush_removes_the_presence(
    kind: str, make_layer: Callable[..., Any], options: dict[str, Any], private_server: RedisServer
) -> None:
    """And who joins afterwards is there."""
    layer = make_layer(kind, **options)
    await attend(layer, ROOM, 7)
    await layer.flush()
    other = make_layer(kind, **options)
    await until(other)
    await attend(layer, ROOM, 8)
    assert await users(other) == [8]


async def test_a_site_without_presence_has_no_keys_of_it(
    kind: str, make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """Nor on pubsub a lease."""
    layer = make_layer(kind, hosts=[private_server.url])
    channel = await layer.new_channel()
    await layer.group_add(ROOM, channel)
    found = private_server.command("KEYS", "*")
    assert [key for key in found if b"presence" in key or b"held" in key] == []
    assert kind == "core" or found == []


# Crashes


async def test_a_killed_process_is_gone(
    kind: str,
    make_layer: Callable[..., Any],
    options: dict[str, Any],
    private_server: RedisServer,
    short: None,
) -> None:
    """From what is read, and then from Redis, where its groups are cleaned up once for all."""
    survivor = make_layer(kind, **options)
    await attend(survivor, ROOM, 1)
    async with started(kind, LEASE_S, **options) as process:
        await process.call("attend", ROOM, *range(10, 20))
        await process.call("attend", "room.2", *range(10, 20))
        await until(survivor, 1, *range(10, 20))
        await process.kill()
    await until(survivor, 1)
    assert await survivor.group_size(ROOM) == 1

    key = survivor._keeper_of(ROOM)._writer.presence_key(ROOM)

    def is_clean() -> bool:
        held = private_server.command("KEYS", "*:held:*")
        fields = private_server.command("HLEN", key)
        return len(held) == 1 and fields == 1

    await wait_for(is_clean)


async def test_a_cleaner_that_is_killed_is_followed_by_another(
    kind: str,
    make_layer: Callable[..., Any],
    options: dict[str, Any],
    private_server: RedisServer,
    short: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it has claimed is claimed again, and what it had left behind is cleaned up, too."""
    survivor = make_layer(kind, **options)
    await attend(survivor, ROOM, 1)
    async with started(kind, LEASE_S, **options) as process:
        await process.call("attend", ROOM, 10, 11)
        await wait_for(lambda: len(private_server.command("KEYS", "*:held:*")) == 2)
        dead = next(
            key.decode().rpartition(":")[2]
            for key in private_server.command("KEYS", "*:held:*")
            if not key.decode().endswith(survivor.client_prefix)
        )
        # Another process has claimed it, and does nothing.
        cleaner = survivor._keys.cleaner(dead)
        private_server.command("SET", cleaner, "somebody", "EX", 2)
        await process.kill()
    await until(survivor, 1)
    await wait_for(lambda: len(private_server.command("KEYS", "*:held:*")) == 1)


async def test_a_frozen_process_is_back_when_it_continues(
    kind: str,
    make_layer: Callable[..., Any],
    options: dict[str, Any],
    private_server: RedisServer,
    short: None,
) -> None:
    """Also if its members were removed meanwhile; nobody is there twice."""
    survivor = make_layer(kind, **options)
    await attend(survivor, ROOM, 1)
    async with started(kind, LEASE_S, **options) as process:
        await process.call("attend", ROOM, 10, 11)
        process.freeze()
        await until(survivor, 1)
        await wait_for(lambda: len(private_server.command("KEYS", "*:held:*")) == 1)
        process.thaw()
        await until(survivor, 1, 10, 11)


@pytest.mark.parametrize(("kind", "with_data"), [("core", True), ("pubsub", False)])
async def test_everybody_is_there_after_an_outage(
    kind: str,
    make_layer: Callable[..., Any],
    options: dict[str, Any],
    private_server: RedisServer,
    short: None,
    with_data: bool,
) -> None:
    """Of more than a lease, on a server that comes back with its data or without."""
    survivor = make_layer(kind, **options)
    await attend(survivor, ROOM, 1)
    async with started(kind, LEASE_S, **options) as process:
        await process.call("attend", ROOM, 10, 11)
        await wait_for(lambda: survivor._keeper_of(ROOM).deaths.may_judge)
        if with_data:
            private_server.command("SAVE")
        await asyncio.to_thread(private_server.kill)
        await asyncio.sleep(2 * LEASE_S)
        await asyncio.to_thread(private_server.start)
        await wait_for(lambda: not survivor._health[0].down)
        await until(survivor, 1, 10, 11)
        await wait_for(lambda: survivor._keeper_of(ROOM).deaths.may_judge)
        assert sorted(await users(survivor)) == [1, 10, 11]


async def test_lost_data_is_written_anew(
    kind: str,
    make_layer: Callable[..., Any],
    options: dict[str, Any],
    private_server: RedisServer,
    short: None,
) -> None:
    """With the info that was given last, and with what tells others of a death."""
    layer = make_layer(kind, **options)
    channel = await attend(layer, ROOM, 1)
    await layer.group_add(ROOM, channel, presence={"user": 2})
    private_server.command("FLUSHALL")
    await until(layer, 2)
    await wait_for(lambda: private_server.command("KEYS", "*:held:*"))


# Rights


async def test_the_documented_rights_are_enough(
    kind: str, make_layer: Callable[..., Any], private_server: RedisServer, prefix: str
) -> None:
    """Those of the layer, and those that docs/presence.rst adds."""
    docs = Path(__file__).parents[2] / "docs"
    user = re.search(
        r"ACL SETUSER app reset .*\+zrem\S* .*", (docs / "configuration.rst").read_text()
    )
    assert user is not None
    assert presence_rights() in (docs / "presence.rst").read_text()
    private_server.command(*user[0].replace("asgi", prefix).split(), *presence_rights().split())
    url = f"redis://app:secret@{private_server.host}:{private_server.port}"
    rules = {"room.*": {"key": "user", "grace_s": 0.1, "events": True}}
    layer = make_layer(kind, hosts=[url], presence=rules)
    seer = await attend(layer, ROOM, 1)
    channel = await attend(layer, ROOM, 2)
    assert await users(layer) == [1, 2]
    await layer.group_discard(ROOM, channel)
    found = [await layer.receive(seer) for _ in range(3)]
    assert [message["type"] for message in found] == [
        "presence.join",
        "presence.join",
        "presence.leave",
    ]
