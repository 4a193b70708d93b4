"""What stands behind an entry of ``hosts`` on one event loop: its backend.

Here that is one server, which may be any primary that the Sentinels name. Clusters are in
:mod:`.cluster`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from .._format.slots import Served
from .commands import Commands
from .logs import PUBLISHED, Way
from .multiplexer import Multiplexer
from .node import Node, NodeContext
from .packing import pack
from .sentinels import SentinelWatch, watch_sentinels

if TYPE_CHECKING:
    from redis.asyncio import Redis


class Backend(Protocol):
    """What a session needs of an entry of ``hosts``."""

    @property
    def pending(self) -> int:
        """The number of commands that wait for replies."""
        ...

    def commands(self, key: bytes | str) -> Commands:
        """Return the object that sends commands for a key."""
        ...

    def node(self, key: bytes | str) -> Node:
        """Return the node to connect to for a key."""
        ...

    def served(self) -> Served:
        """Return which server serves which key, as far as known."""
        ...

    def publish(self, topic: str, payload: bytes) -> Awaitable[Any]:
        """Publish a message."""
        ...

    async def way(self) -> Way:
        """Return how a script publishes."""
        ...

    async def everywhere(self) -> list[Commands]:
        """Return the objects that send commands to each server with keys."""
        ...

    async def rest(self, *, alone: bool) -> None:
        """Close the connections for commands that are not in use, and, if they are ``alone``, also
        those that exist only for them.
        """


class SingleServer:
    """A server with all keys. ``client`` returns redis-py's client, as for :class:`.node.Node`."""

    def __init__(self, client: Callable[[], Redis], context: NodeContext) -> None:
        self._node = Node(client, context, self._watch_sentinels)
        self._multiplexer = Multiplexer(self._node)
        self._watch: SentinelWatch | None = None

    @property
    def pending(self) -> int:
        """The number of commands that wait for replies."""
        return self._multiplexer.pending

    def commands(self, key: bytes | str) -> Commands:
        """Return the object that sends commands for a key."""
        return self._multiplexer

    def node(self, key: bytes | str) -> Node:
        """Return the node to connect to for a key."""
        return self._node

    def served(self) -> Served:
        """Return that one server, whichever it is, serves all keys."""
        return Served()

    def publish(self, topic: str | bytes, payload: bytes) -> asyncio.Future[Any]:
        """Publish a message."""
        reply = self._multiplexer.call(pack(b"PUBLISH", topic, payload))
        self._multiplexer.push()
        return reply

    async def way(self) -> Way:
        """Return how a script publishes."""
        return PUBLISHED

    async def everywhere(self) -> list[Commands]:
        """Return the objects that send commands to each server with keys."""
        return [self._multiplexer]

    def _watch_sentinels(self, node: Node) -> None:
        self._watch = watch_sentinels(node)

    async def rest(self, *, alone: bool) -> None:
        """Close the connection for commands, unless it is in use, and with it the watch."""
        await self._multiplexer.rest()
        if alone and self._watch is not None and not self._multiplexer.connected:
            watch, self._watch = self._watch, None
            self._node.call_at_next_dial(self._watch_sentinels)
            await watch.aclose()
