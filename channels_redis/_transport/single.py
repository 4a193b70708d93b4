"""One entry of ``hosts`` as one event loop sees it: what sends about a key, where to dial for it.

The entry stands for one server here, which may be whichever primary the Sentinels name.  What
stands for a cluster is in :mod:`.cluster`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from .._format.slots import Served
from .commands import Commands
from .multiplexer import Multiplexer
from .node import Node, NodeContext
from .packing import pack
from .sentinels import SentinelWatch, watch_sentinels

if TYPE_CHECKING:
    from redis.asyncio import Redis


class Shard(Protocol):
    """What a session needs of an entry of ``hosts``."""

    @property
    def pending(self) -> int:
        """Number of commands that wait for their replies."""
        ...

    def commands(self, key: bytes | str) -> Commands:
        """Return what sends commands about a key."""
        ...

    def node(self, key: bytes | str) -> Node:
        """Return where to dial for a key."""
        ...

    def served(self) -> Served:
        """Return who serves which key just now, as far as is known."""
        ...

    def publish(self, topic: str, payload: bytes) -> Awaitable[Any]:
        """Publish something."""
        ...

    async def everywhere(self) -> list[Commands]:
        """Return what sends to each server that has keys."""
        ...

    async def rest(self, *, alone: bool) -> None:
        """Close the connections for commands that nobody needs just now; and what is there for
        the sake of others, where they are ``alone``.
        """


class SingleServer:
    """A server that has all keys.  ``client`` returns redis-py's, as for :class:`.node.Node`."""

    def __init__(self, client: Callable[[], Redis], context: NodeContext) -> None:
        self._node = Node(client, context, self._watch_sentinels)
        self._multiplexer = Multiplexer(self._node)
        self._watch: SentinelWatch | None = None

    @property
    def pending(self) -> int:
        """Number of commands that wait for their replies."""
        return self._multiplexer.pending

    def commands(self, key: bytes | str) -> Commands:
        """Return what sends commands about a key."""
        return self._multiplexer

    def node(self, key: bytes | str) -> Node:
        """Return where to dial for a key."""
        return self._node

    def served(self) -> Served:
        """Return that one server serves all keys, whichever it is."""
        return Served()

    def publish(self, topic: str | bytes, payload: bytes) -> asyncio.Future[Any]:
        """Publish something."""
        reply = self._multiplexer.call(pack(b"PUBLISH", topic, payload))
        self._multiplexer.push()
        return reply

    async def everywhere(self) -> list[Commands]:
        """Return what sends to each server that has keys."""
        return [self._multiplexer]

    def _watch_sentinels(self, node: Node) -> None:
        self._watch = watch_sentinels(node)

    async def rest(self, *, alone: bool) -> None:
        """Close the connection for commands, unless somebody needs it, and with it the watch."""
        await self._multiplexer.rest()
        if alone and self._watch is not None and not self._multiplexer.connected:
            watch, self._watch = self._watch, None
            self._node.tell_next_dial(self._watch_sentinels)
            await watch.aclose()
