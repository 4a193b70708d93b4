"""What each command is for: a server that knows all but one, and what works there still."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from channels_redis.exceptions import COMMAND_ERRORS
from channels_redis.testing.servers import RedisServer
from tests.conftest import class_of
from tests.helpers import MARKER, receive

SAY = {"type": MARKER}

SEND, GROUPS, FLUSH, CLOSE = "send", "groups", "flush", "close"
ALL = {SEND, GROUPS, FLUSH, CLOSE}

#: What works without a command: for core, and for pubsub with general channels.  All that is not
#: listed here is not used, or works in another way.
WITHOUT: dict[str, tuple[set[str], set[str]]] = {
    "EVALSHA": (ALL, ALL),
    "SCAN": (ALL, ALL),
    "UNLINK": (ALL, ALL),
    "KEYS": (ALL, ALL),
    "DEL": (ALL, ALL),
    "TIME": (ALL, ALL),
    "CLIENT": (ALL, ALL),
    "INFO": (ALL, ALL),
    "PING": (ALL, ALL),
    "ROLE": (ALL, ALL),
    "ZREM": (ALL - {GROUPS}, ALL),
    "EVAL": ({CLOSE, FLUSH}, {CLOSE, FLUSH, GROUPS}),
    # A batch, which goes before it, may bring a message that lies there already.
    "BZPOPMIN": ({CLOSE, FLUSH}, {CLOSE, FLUSH, GROUPS}),
    "ZCOUNT": ({CLOSE}, {CLOSE, FLUSH, GROUPS}),
    "ZADD": ({CLOSE, FLUSH}, {CLOSE, FLUSH, GROUPS}),
    "ZREMRANGEBYSCORE": ({CLOSE, FLUSH}, {CLOSE, FLUSH, GROUPS}),
    "EXPIRE": ({CLOSE, FLUSH}, {CLOSE, FLUSH, GROUPS}),
    "PUBLISH": (ALL, ALL - {GROUPS}),
    "SUBSCRIBE": (ALL, ALL - {GROUPS}),
}

#: What may work or not, depending on when a message comes, on whether a key is there, and on
#: whether a group has still to be left.
UNSURE = {"BZPOPMIN": {SEND, GROUPS}, "ZCOUNT": {FLUSH}, "ZREM": {FLUSH}}
#: What the server of the tests has to know to be started and stopped.
NEEDED = {"PING", "INFO"}
REFUSALS = [(one, "forbidden") for one in WITHOUT]
REFUSALS += [(one, "renamed") for one in WITHOUT if one not in NEEDED]


@contextlib.contextmanager
def server_without(command: str, way: str) -> Iterator[str]:
    """The URL of a server that does not know a command, or does not allow it."""
    renamed = {"rename-command": f'{command} ""'} if way == "renamed" else {}
    with RedisServer(config=renamed) as server:
        if way == "renamed":
            yield server.url
            return
        server.command(
            *("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", f"-{command.lower()}")
        )
        yield f"redis://app:pw@{server.host}:{server.port}"


async def works(layer: Any, operation: str) -> bool:
    """Try one thing that projects do."""
    try:
        if operation == SEND:
            for _ in range(3):
                await layer.send("general", SAY)
                assert await receive(layer, "general", 5) == SAY
        elif operation == GROUPS:
            channel = await layer.new_channel()
            await layer.group_add("group", channel)
            await layer.group_send("group", SAY)
            assert await receive(layer, channel, 5) == SAY
            await layer.group_discard("group", channel)
        elif operation == FLUSH:
            await layer.flush()
        else:
            await layer.close()
    except (*COMMAND_ERRORS, asyncio.TimeoutError):
        return False
    return True


@pytest.mark.parametrize(("command", "way"), REFUSALS)
async def test_a_command_that_is_refused_costs_what_the_table_says(
    kind: str, command: str, way: str
) -> None:
    """Whatever the reason of the refusal is, and whichever operation meets it first."""
    unsure = UNSURE.get(command, set()) if kind == "core" else {SEND} & UNSURE.get(command, set())
    wanted = WITHOUT[command][kind == "pubsub"]
    with server_without(command, way) as url:
        for first in (SEND, GROUPS, FLUSH):
            layer = class_of(kind)(hosts=[url], connect_wait_s=1)
            order = sorted((SEND, GROUPS, FLUSH), key=lambda one: one != first)
            found = {one for one in [*order, CLOSE] if await works(layer, one)}
            assert found - unsure == wanted - unsure, f"{first} first"
