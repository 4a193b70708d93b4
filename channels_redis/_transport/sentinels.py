"""Subscribes to the Sentinels' announcements of a new primary.

Without this, a planned failover would go unnoticed for about ten seconds, in which the old primary
accepts commands whose effects are lost.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ConnectionError

from .._runtime.scope import Stage
from .._runtime.tasks import apart, turn
from .link import Link
from .node import Node
from .packing import pack
from .wire import NO_ANSWER, Wire

if TYPE_CHECKING:
    from redis.asyncio import Redis

SWITCHED = "the Sentinels named another primary"

_TOPIC = b"+switch-master"
#: Between two rounds in which no Sentinel replied.
_RETRY_S = 1.0


def watch_sentinels(node: Node) -> SentinelWatch | None:
    """Return a running watch over the Sentinels of a node; None if it has none."""
    pool = node.pool()
    return SentinelWatch(node, pool) if isinstance(pool, SentinelConnectionPool) else None


class SentinelWatch(Link):
    """Subscribes to any Sentinel that replies, and renews the node.

    Sentinels that do not reply are not an outage, so the node's health is not affected.
    """

    def __init__(self, node: Node, pool: SentinelConnectionPool) -> None:
        super().__init__(node, f"sentinel watch {node.health.name}", Stage.COMMANDS)
        self._pool = pool
        self._quiet_s = node.command_timeout_s / 2
        self._silence = self._scope.timer(self._ask)
        self._task.start()

    def renew(self, reason: str) -> None:
        """Keep the connection: a change of the primary does not concern the connection to a
        Sentinel.
        """

    def _is_wanted(self) -> bool:
        return True

    async def _run(self) -> None:
        await turn()
        while not self._closed:
            for sentinel in tuple(self._pool.sentinel_manager.sentinels):
                await self._try(sentinel)
            await asyncio.sleep(_RETRY_S * random.uniform(0.5, 1))

    async def _try(self, sentinel: Redis) -> None:
        """Listen to one Sentinel as long as the connection works."""
        try:
            await self._listen(sentinel)
        except Exception:  # noqa: BLE001 (whatever it is, the next Sentinel may be better)
            pass
        finally:
            # Where this is cancelled too: the task that takes its place dials again.
            self._silence.cancel()
            await self._disconnect()

    async def _listen(self, sentinel: Redis) -> None:
        deadline_s = self._node.command_timeout_s
        wire = self._wire = await Wire.open(sentinel.connection_pool, self._scope, deadline_s)
        confirmed = await wire.ask("SUBSCRIBE", _TOPIC)
        if isinstance(confirmed, Exception):
            raise ConnectionError(str(confirmed))
        await self._look(sentinel)
        quiet_s = min(self._quiet_s, wire.health_check_s or self._quiet_s)
        while True:
            self._silence.start(quiet_s, wire)
            reply = await wire.read()
            self._silence.cancel()
            if isinstance(reply, list) and reply[0] == b"message":
                self._take(reply[2], sentinel)

    async def _look(self, sentinel: Redis) -> None:
        """Check whether the primary changed while no subscription was active."""
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

    def _ask(self, wire: Wire, asked: bool = False) -> None:
        """Check the connection after a silence by subscribing again, which is harmless."""
        if asked:
            wire.abort(NO_ANSWER)
        else:
            wire.write(pack("SUBSCRIBE", _TOPIC))
            self._silence.start(self._quiet_s * 0.8, wire, True)


def _address(pair: Any) -> tuple[str, int] | None:
    """Return host and port; redis-py returns the host as bytes or str, depending on the command."""
    if pair is None:
        return None
    host, port = pair
    return (host.decode() if isinstance(host, bytes) else host), int(port)
