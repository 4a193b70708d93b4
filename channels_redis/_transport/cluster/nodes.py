"""The servers of a cluster, for those who dial them and for those who send to a slot."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ..._format.slots import Address
from ..._runtime import clock
from ..._runtime.tasks import ended, started
from ..commands import Command, Commands, is_ask, recognised
from ..node import Node, Redirected
from ..wire import Wire

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from .cluster import Cluster

#: Replies which say that another server, or none just now, serves the slot.
ELSEWHERE = (AskError, ClusterDownError, TryAgainError)  # redis-py's MovedError is an AskError
#: The same from within a script, whose key went while the script dropped the last of its content,
#: before it wrote anything else.
_GONE = "non local key"

MOVED_AWAY = "another server of the cluster serves it now"


def is_elsewhere(reply: Exception) -> bool:
    """Tell whether a refusal says that another server, or none just now, serves the slot."""
    return isinstance(reply, ELSEWHERE) or (
        isinstance(reply, ResponseError) and _GONE in str(reply)
    )


class _NodeInCluster(Node):
    """What is dialled in a cluster, and doubted by way of its map."""

    in_cluster: ClassVar[bool] = True

    def __init__(self, cluster: Cluster, client: Callable[[], Redis]) -> None:
        super().__init__(
            client,
            cluster.health,
            cluster.scope,
            cluster.tally,
            connect_wait_s=cluster.connect_wait_s,
            command_timeout_s=cluster.command_timeout_s,
            first_dialled=lambda _: None,
        )
        self._cluster = cluster

    def suspect(self, user: object) -> None:
        """Look whether another server took over, again and again, while a user misses an answer."""
        self._cluster.map.suspect(user)

    def trust(self, user: object) -> None:
        """Take note that it has it, or has given up."""
        self._cluster.map.trust(user)


class ClusterNode(_NodeInCluster):
    """One server of a cluster."""

    def __init__(self, cluster: Cluster, address: Address) -> None:
        super().__init__(cluster, partial(cluster.client, address))
        self.address = address
        self._left: asyncio.Future[None] = cluster.scope.loop.create_future()

    async def dial(self) -> Wire:
        """Return a fresh connection; give up when the server leaves the map meanwhile."""
        if self.health.down:
            self._cluster.map.stale()
        name = f"channels_redis dial {self.address[0]}:{self.address[1]}"
        dialling = started(self.connect(), self.scope.loop, name)
        try:
            waiting: set[asyncio.Future[Any]] = {dialling, self._left}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if self.retired:
                raise ConnectionError(MOVED_AWAY)
            return await dialling
        except BaseException as error:
            dialling.cancel()
            try:
                await ended({dialling})
            finally:
                if not dialling.cancelled() and dialling.exception() is None:
                    await dialling.result().close()
            if isinstance(error, (RedisError, OSError)):
                self._cluster.map.stale()
            raise

    async def connect(self) -> Wire:
        """Return a fresh connection."""
        return await super().dial()

    def retire(self) -> None:
        """Note that the server is not in the map any more."""
        self.retired = True
        if not self._left.done():
            self._left.set_result(None)

    def renew(self, reason: str) -> None:
        """Have all connections made anew, and the map too."""
        self._cluster.map.stale()
        super().renew(reason)

    def redirects(self, command: Command, reply: Exception) -> bool:
        """Take over a command that was refused here, if it is to go elsewhere or later."""
        reply = recognised(reply)
        if command.slot is None or not is_elsewhere(reply):
            return False
        self._cluster.redirect(command, reply, self.address)
        return True

    def is_elsewhere(self, reply: Exception) -> bool:
        """Tell whether a refusal says that another server, or none just now, serves a name."""
        return is_elsewhere(recognised(reply))

    def note(self, reply: Exception | None) -> None:
        """Learn from such a refusal; None: the server dropped a subscription unasked."""
        self._cluster.note(recognised(reply) if reply is not None else None, self.address)

    def reroute(self, commands: deque[Command]) -> list[Command]:
        """Take away, and return, the commands that belong to other servers by now."""
        moving = [command for command in commands if not self._keeps(command)]
        if moving:
            staying = [command for command in commands if self._keeps(command)]
            commands.clear()
            commands.extend(staying)
        for command in moving:
            self._cluster.issue(command)
        return moving

    def _keeps(self, command: Command) -> bool:
        if command.slot is None:
            return True
        return not self.retired and self._cluster.owner(command.slot) == self.address

    def explain(self, error: Exception) -> Exception:
        """Return the error to raise; a redirection is no mistake in the options here."""
        if isinstance(error, AskError):  # MOVED is one to redis-py
            return error
        return super().explain(error)


class SlotNode(_NodeInCluster):
    """Whichever server serves one slot; for one reader, which dials again when it moves."""

    def __init__(self, cluster: Cluster, slot: int) -> None:
        super().__init__(cluster, self._client_there)
        self.slot = slot
        self._dialled: Address = cluster.entry.seeds[0]
        # Where the slot is on its way to, and the key is, or will be, already.
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
        """Have the reader dial again if it waits at the wrong server."""
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
    """Any primary: on classic Pub/Sub each of them hears everything."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster, -1)

    async def dial(self) -> Wire:
        """Return a fresh connection to one of the primaries."""
        await self._cluster.map.ready()
        self._dialled = random.choice(self._cluster.map.primaries)
        return await self._cluster.server(self._dialled).node.dial()

    def map_changed(self) -> None:
        """Stay: a primary that became a replica hears as much."""


class Route:
    """Sends commands about one slot to whichever server serves it."""

    __slots__ = ("_cluster", "_slot")

    def __init__(self, cluster: Cluster, slot: int) -> None:
        self._cluster = cluster
        self._slot = slot

    @property
    def loaded(self) -> set[Any]:
        """What was sent to the server, as :mod:`.scripts` notes it."""
        owner = self._cluster.owner(self._slot)
        return self._cluster.server(owner).multiplexer.loaded if owner is not None else set()

    @property
    def hash_forbidden(self) -> bool:
        """Whether EVALSHA is forbidden, as it then is on all servers."""
        return self._cluster.hash_forbidden

    @hash_forbidden.setter
    def hash_forbidden(self, forbidden: bool) -> None:
        self._cluster.hash_forbidden = forbidden

    def call(self, data: bytes, repeatable: bool = False) -> asyncio.Future[Any]:
        """Queue one packed command; return the future of its reply (see :class:`Multiplexer`)."""
        loop = self._cluster.scope.loop
        command = Command(data, loop.create_future(), clock.monotonic(), repeatable, self._slot)
        self._cluster.issue(command)
        return command.future

    def push(self) -> None:
        """Write what is queued for the server, if nothing is on its way."""
        owner = self._cluster.owner(self._slot)
        if owner is not None:
            self._cluster.server(owner).multiplexer.push()
