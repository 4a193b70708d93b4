"""What the tests of groups with a history do again and again."""

from __future__ import annotations

from typing import Any

from channels_redis.testing.servers import RedisServer
from tests.helpers import MARKER, numbered, receive, until_connected

HISTORY = {"room.*": {"size": 100, "ttl": 60}}
ROOM = "room.1"


async def send(layer: Any, *names: int, group: str = ROOM, **keywords: Any) -> None:
    """Send numbered messages, one after the other."""
    for number in names:
        await layer.group_send(group, numbered(number), **keywords)


async def member(layer: Any, group: str = ROOM, **keywords: Any) -> tuple[str, Any]:
    """Return a new channel in a group, and what ``group_add()`` returned."""
    channel = await layer.new_channel()
    return channel, await layer.group_add(group, channel, **keywords)


async def position_of(layer: Any, group: str = ROOM) -> str:
    """Return the newest position of a group."""
    position: str = (await layer.group_history(group, limit=0)).position
    return position


async def until_back(layer: Any, channel: str) -> tuple[list[int], dict[str, Any]]:
    """Return the numbers that come before the message of the end of an outage, and that message."""
    seen: list[int] = []
    while True:
        message = await receive(layer, channel, 30)
        if message["type"] == "test.back":
            return seen, message
        if message["type"] == "test.numbered":
            seen.append(message["n"])


async def until_marked(layer: Any, channel: str) -> list[dict[str, Any]]:
    """Return what comes before a marker that is sent to the channel now."""
    await until_connected(lambda: layer.send(channel, {"type": MARKER}))
    messages: list[dict[str, Any]] = []
    while (message := await receive(layer, channel, 30))["type"] != MARKER:
        messages.append(message)
    return messages


def keys_of(layer: Any, group: str = ROOM) -> list[str]:
    """Return the keys of the log and the position of a group."""
    log = layer._log(group)
    return [log.key, log.position_key]


def dump(server: RedisServer, keys: list[str]) -> dict[str, bytes | None]:
    """Return what a server has under some keys."""
    return {key: server.command("DUMP", key) for key in keys}


def restore(server: RedisServer, dumped: dict[str, bytes | None]) -> None:
    """Have a server have that, and nothing else, under the keys."""
    for key, value in dumped.items():
        server.command("DEL", key)
        if value is not None:
            server.command("RESTORE", key, 0, value)
