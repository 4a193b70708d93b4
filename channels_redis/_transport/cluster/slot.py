"""The server of a slot: where readers and subscribers dial for it, and where commands go."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from redis.exceptions import AskError, ConnectionError

from ..._format.slots import Address
from ..._runtime import clock
from ..commands import Command, Commands, Script, is_ask, recognised
from ..node import Redirected
from ..wire import Wire
from .servers import MOVED_AWAY, NodeInCluster, Servers, is_elsewhere

if TYPE_CHECKING:
    from redis.asyncio import Redis


class SlotNode(NodeInCluster):
    """The server of one slot; for one reader, which connects again when the slot moves."""

    def __init__(self, cluster: Servers, slot: int) -> None:
        super().__init__(cluster, self._client_there)
        self.slot = slot
        self._dialled: Address = cluster.entry.seeds[0]
        # The server to which the slot is being moved.
        self._importing: Address | None = None
        self._change: asyncio.Future[None] | None = None

    def _client_there(self) -> Redis:
        return self._cluster.client(self._dialled)

    async def dial(self) -> Wire:
        """Return a fresh connection to the server of the slot."""
        await self._cluster.map.ready()
        address, self._importing = self._importing, None
        self.asking = address is not None
        address = address or self._cluster.owner(self.slot)
        if address is None:
            self._cluster.map.stale()
            raise ConnectionError(f"no server of the cluster serves slot {self.slot}")
        self._dialled = address
        return await self._cluster.server(address, asked=self.asking).node.dial()

    async def pause(self, seconds: float) -> None:
        """Wait before the next dial, unless the slot has another server meanwhile."""
        self._change = self.scope.loop.create_future()
        await asyncio.wait({self._change}, timeout=seconds)
        self._change = None

    def map_changed(self) -> None:
        """Reconnect if the reader waits at the wrong server."""
        owner = self._cluster.owner(self.slot)
        if owner != self._dialled and self._change is not None and not self._change.done():
            self._change.set_result(None)
        if not self.asking and owner is not None and owner != self._dialled:
            self.renew(MOVED_AWAY)

    def same_server(self, commands: Commands) -> Commands:
        """Return what sends to the server dialled last."""
        return self._cluster.server(self._dialled).multiplexer

    def explain(self, error: Exception) -> Exception:
        """Return the error to raise; after a redirection the next dial goes elsewhere."""
        error = recognised(error)
        if not is_elsewhere(error):
            return super().explain(error)
        self._cluster.note(error, self._dialled)
        if is_ask(error):
            self._importing = self._cluster.address_in(error, self._dialled)
        if isinstance(error, AskError):
            return Redirected(str(error))
        return error


class AnyNode(SlotNode):
    """Any primary: with classic Pub/Sub each of them gets all messages."""

    def __init__(self, cluster: Servers) -> None:
        super().__init__(cluster, -1)

    async def dial(self) -> Wire:
        """Return a fresh connection to one of the primaries."""
        await self._cluster.map.ready()
        self._dialled = random.choice(self._cluster.map.primaries)
        return await self._cluster.server(self._dialled).node.dial()

    def map_changed(self) -> None:
        """Stay: a primary that became a replica gets all messages, too."""


class Route:
    """Sends commands about one slot to the server of the slot."""

    __slots__ = ("_cluster", "_slot")

    def __init__(self, cluster: Servers, slot: int) -> None:
        self._cluster = cluster
        self._slot = slot

    def call(
        self,
        data: bytes,
        repeatable: bool = False,
        *,
        script: Script | None = None,
        key: bytes | str | None = None,
    ) -> asyncio.Future[Any]:
        """Queue one packed command; return the future of its reply (see :class:`Multiplexer`)."""
        future, now = self._cluster.scope.loop.create_future(), clock.monotonic()
        command = Command(data, future, now, repeatable, self._slot, script=script, key=key)
        self._cluster.issue(command)
        return future

    def push(self) -> None:
        """Write what is queued for the server, if nothing is on its way."""
        owner = self._cluster.owner(self._slot)
        if owner is not None:
            self._cluster.server(owner).multiplexer.push()
