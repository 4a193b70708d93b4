"""Hears from the Sentinels that another server became the primary.

Without it, a planned failover goes unnoticed for about ten seconds: so long the old primary takes
commands, and what it takes is lost.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ConnectionError

from .._runtime.tasks import apart, begun, turn
from .node import Node
from .packing import pack
from .wire import NO_ANSWER, Loop, Wire

if TYPE_CHECKING:
    from redis.asyncio import Redis

SWITCHED = "the Sentinels named another primary"

_TOPIC = b"+switch-master"
#: Between two rounds in which no Sentinel could be heard.
_RETRY_S = 1.0


def watch_sentinels(node: Node, loop: Loop) -> SentinelWatch | None:
    """Return a watch over the Sentinels of a node, started; None if it has none."""
    pool = node.pool()
    return SentinelWatch(node, pool, loop) if isinstance(pool, SentinelConnectionPool) else None


class SentinelWatch:
    """A supervised task that listens to whichever Sentinel answers, and renews the node."""

    def __init__(self, node: Node, pool: SentinelConnectionPool, loop: Loop) -> None:
        self._node = node
        self._pool = pool
        self._loop = loop
        self._quiet_s = node.command_timeout_s / 2
        self._wire: Wire | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._closed = False
        self._start()

    @property
    def descriptor(self) -> int | None:
        """The file descriptor of the connection, if there is one."""
        return self._wire.descriptor if self._wire is not None else None

    async def aclose(self) -> None:
        """End the task, and with it the connection."""
        self._closed = True
        self._task.cancel()
        await asyncio.wait({self._task})

    def abandon(self) -> None:
        """Let go after the loop was closed without warning."""
        self._closed = True
        if self._wire is not None:
            self._wire.abandon()

    def _start(self) -> None:
        name = f"channels_redis sentinel watch {self._node.health.node}"
        self._task = begun(self._run(), self._loop, name)

    async def _run(self) -> None:
        try:
            await turn()
            while True:
                for sentinel in tuple(self._pool.sentinel_manager.sentinels):
                    await self._try(sentinel)
                await asyncio.sleep(_RETRY_S * random.uniform(0.5, 1))
        except asyncio.CancelledError:
            # A foreign cancellation (asyncio.run() at its end) makes nobody deaf.
            if not self._closed:
                self._start()
            raise

    async def _try(self, sentinel: Redis) -> None:
        """Listen to one Sentinel for as long as it can be heard."""
        wire: Wire | None = None
        try:
            deadline_s = self._node.command_timeout_s
            wire = self._wire = await Wire.open(sentinel.connection_pool, self._loop, deadline_s)
            await self._listen(sentinel, wire)
        except Exception:  # noqa: BLE001 (whatever it is, the next Sentinel may be better)
            pass
        finally:
            self._wire = None
            if self._silence is not None:
                self._silence.cancel()
            if wire is not None:
                await wire.close()

    async def _listen(self, sentinel: Redis, wire: Wire) -> None:
        confirmed = await wire.ask("SUBSCRIBE", _TOPIC)
        if isinstance(confirmed, Exception):
            raise ConnectionError(str(confirmed))
        await self._look(sentinel)
        quiet_s = min(self._quiet_s, wire.health_check_s or self._quiet_s)
        while True:
            self._silence = self._loop.call_later(quiet_s, self._ask, wire)
            reply = await wire.read()
            self._silence.cancel()
            if isinstance(reply, list) and reply[0] == b"message":
                self._take(reply[2], sentinel)

    async def _look(self, sentinel: Redis) -> None:
        """See whether there was a switch while nobody listened."""
        known = self._pool.master_address
        # Asked over a connection with redis-py's own time-out, and by the command's name, as the
        # method for it raises TypeError in redis-py 6.
        question = "SENTINEL GET-MASTER-ADDR-BY-NAME", self._pool.service_name
        asking: Any = sentinel.execute_command(*question)  # type: ignore[no-untyped-call]  # redis-py's annotations
        named: Any = await apart(asking, self._loop, "question to a Sentinel")
        if known is not None and _address(named) != _address(known):
            self._node.renew(SWITCHED)

    def _take(self, notice: bytes, sentinel: Redis) -> None:
        name, *_ = notice.decode("utf-8", "replace").split(" ")
        if name != self._pool.service_name:
            return
        # The others may not know yet, and redis-py asks them in this order.
        sentinels: list[Any] = self._pool.sentinel_manager.sentinels
        sentinels.sort(key=lambda one: one is not sentinel)
        self._node.renew(SWITCHED)

    def _ask(self, wire: Wire) -> None:
        """Ask for a sign of life after a silence: a second confirmation does no harm."""
        wire.write(pack("SUBSCRIBE", _TOPIC))
        self._silence = self._loop.call_later(self._quiet_s * 0.8, wire.abort, NO_ANSWER)


def _address(pair: Any) -> tuple[str, int] | None:
    """Return host and port; redis-py gives the host as bytes or str, by the way it was asked."""
    if pair is None:
        return None
    host, port = pair
    return (host.decode() if isinstance(host, bytes) else host), int(port)
