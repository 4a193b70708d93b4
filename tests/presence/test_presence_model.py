"""Joins, leaves, losses of data, restarts and kills at random, beside a dict of who is there."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer
from tests.helpers import until_connected, wait_for
from tests.presence.process import Process, shorten_leases_here, started

LEASE_S = 1.2
ROOMS = {"room.*": {"key": "user"}}
GROUPS = ["room.1", "room.2"]
STEPS = 60


class Site:
    """Two layers of this process, perhaps another process, and what they have been told."""

    def __init__(self, layers: list[Any], server: RedisServer, chance: random.Random) -> None:
        self.layers = layers
        self.server = server
        self.chance = chance
        #: Group and channel -> user, and the layer that has the channel.
        self.there: dict[tuple[str, str], int] = {}
        self.channels: dict[str, Any] = {}
        self.other: Process | None = None

    async def join(self) -> None:
        """Let a new or a known channel join a group, perhaps again, as some user."""
        group, user = self.chance.choice(GROUPS), self.chance.randrange(5)
        if self.channels and self.chance.random() < 0.5:
            channel = self.chance.choice(sorted(self.channels))
        else:
            layer = self.chance.choice(self.layers)
            channel = await layer.new_channel()
            self.channels[channel] = layer
        await self.channels[channel].group_add(group, channel, presence={"user": user})
        self.there[group, channel] = user

    async def leave(self) -> None:
        """Let a channel of this process leave a group."""
        mine = sorted(pair for pair in self.there if pair[1] in self.channels)
        if mine:
            group, channel = self.chance.choice(mine)
            await self.channels[channel].group_discard(group, channel)
            del self.there[group, channel]

    async def lose(self) -> None:
        """Empty the server."""
        self.server.command("FLUSHALL")

    async def restart(self) -> None:
        """Kill the server and start it again, without data."""
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)
        await wait_for(lambda: not any(layer._health[0].down for layer in self.layers))

    async def come_or_die(self, start: Callable[[], Any]) -> None:
        """Let another process come with members, or kill it."""
        if self.other is None:
            self.other = await start()
            channels = await self.other.call("attend", GROUPS[0], 7, 8)
            self.there |= {(GROUPS[0], channels[0]): 7, (GROUPS[0], channels[1]): 8}
            return
        await self.other.kill()
        self.other = None
        for pair in [pair for pair in self.there if pair[1] not in self.channels]:
            del self.there[pair]

    async def agrees(self) -> bool:
        """Tell whether all layers see who is there."""
        for layer in self.layers:
            for group in GROUPS:
                found = {one.channel: one.key for one in await layer.group_presence(group)}
                wanted = {
                    name: user for (where, name), user in self.there.items() if where == group
                }
                mine = {name: key for name, key in found.items() if name in self.channels}
                if found.keys() != wanted.keys() or any(
                    wanted[name] != mine[name] for name in mine
                ):
                    return False
        return True


@pytest.mark.parametrize("seed", [1])
async def test_who_is_there_is_what_a_model_says(
    kind: str,
    make_layer: Callable[..., Any],
    private_server: RedisServer,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    """At every quiet moment."""
    shorten_leases_here(monkeypatch, LEASE_S)
    options = {"hosts": [private_server.url], "prefix": prefix, "presence": ROOMS}
    site = Site(
        [make_layer(kind, **options) for _ in range(2)], private_server, random.Random(seed)
    )
    async with contextlib.AsyncExitStack() as stack:

        async def start() -> Any:
            return await stack.enter_async_context(started(kind, LEASE_S, **options))

        await site.join()
        for step in range(STEPS):
            if step % 12 == 11:
                last = [lambda: site.come_or_die(start), site.lose, site.restart][step // 12 % 3]
                await last()
                await wait_for(site.agrees, 60)
            else:
                change = site.join if site.chance.random() < 0.7 else site.leave
                await until_connected(change)
        await wait_for(site.agrees, 60)
