"""A Redis Cluster as a session uses it: what sends about a key, and where to dial for one."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ..._format.slots import Address, Served, slot_of
from ..commands import Commands
from ..logs import PUBLISHED, Way
from ..node import Node, NodeContext
from ..packing import pack
from .servers import Entry, Servers
from .slot import Route, SlotNode

if TYPE_CHECKING:
    from redis.asyncio import Redis

#: Bytes before each message on sharded Pub/Sub, unlike those before any other: while a replica
#: takes over, servers of both roles pass a message on, and a subscriber of both gets it twice.
MARK_BYTES = 16


class Cluster(Servers):
    """What stands behind an entry of ``hosts`` that is a cluster."""

    def __init__(
        self, entry: Entry, make_client: Callable[[Address], Redis], context: NodeContext
    ) -> None:
        super().__init__(entry, make_client, context)
        self._published = itertools.count()
        self._mark = os.urandom(MARK_BYTES - 8)

    @property
    def sharded(self) -> bool:
        """Whether messages go by sharded Pub/Sub; final once the map is known."""
        return self.map.sharded if self.entry.sharded is None else self.entry.sharded

    @property
    def pending(self) -> int:
        """Number of commands that wait for their replies."""
        return len(self._parked) + sum(
            one.multiplexer.pending for one in list(self._servers.values())
        )

    def commands(self, key: bytes | str) -> Commands:
        """Return what sends commands about a key."""
        return Route(self, slot_of(key))

    def node(self, key: bytes | str) -> Node:
        """Return where to dial for a key."""
        node = SlotNode(self, slot_of(key))
        self.watchers.add(node)
        return node

    def publish(self, topic: str, payload: bytes) -> Awaitable[Any]:
        """Publish something, by the kind of Pub/Sub that all use."""
        if not self.map.known:
            return self._publish_later(topic, payload)
        if self.sharded:
            command = pack("SPUBLISH", topic, self._next_mark() + payload)
        else:
            command = pack("PUBLISH", topic, payload)
        commands = self.commands(topic)
        reply = commands.call(command)
        commands.push()
        return reply

    def _next_mark(self) -> bytes:
        return self._mark + next(self._published).to_bytes(8, "big")

    async def way(self) -> Way:
        """Return how a script publishes."""
        if not self.map.known:
            await self.map.wait_until_known(self.context.connect_wait_s)
        return Way("SPUBLISH", self._next_mark()) if self.sharded else PUBLISHED

    async def _publish_later(self, topic: str, payload: bytes) -> Any:
        await self.map.wait_until_known(self.context.connect_wait_s)
        return await self.publish(topic, payload)

    def served(self) -> Served:
        """Return who serves which key just now, as far as is known."""
        return Served(tuple(self.map.owners))

    async def everywhere(self) -> list[Commands]:
        """Return what sends to each server that has keys."""
        await self.map.wait_until_known(self.context.connect_wait_s)
        return [self.server(address).multiplexer for address in self.map.primaries]

    async def rest(self, *, alone: bool) -> None:
        """Close the connections for commands that nobody needs just now."""
        await asyncio.gather(*[one.multiplexer.rest() for one in self._servers.values()])
