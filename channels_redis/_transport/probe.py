"""Checks whether an idle connection still works, before commands are written to it.

Networks drop idle connections without notifying either end. A command written to such a connection
is lost or gets no reply, and cannot be repeated if it may have been executed. So PING is written
first if the connection was idle, and commands wait for its reply. Busy connections need no check,
because their replies show that they work.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable

from redis.exceptions import RedisError

from .._runtime import clock
from .._runtime.tasks import ignore
from ..exceptions import ConfigurationError
from .commands import Command, Commands
from .node import Node
from .packing import pack
from .wire import NO_ANSWER, Wire

#: A connection without a reply for longer than this was idle.
IDLE_S = 1.0
#: How long the answer may take before another connection is tried.
PATIENCE_S = 0.5


class Probe:
    """Checks one connection after the other, from :meth:`start` to :meth:`stop`.

    ``ask()`` writes a PING if no other command is in flight. A slow or frozen server does not reply
    to it either, and a new connection would not help. So the old connection is closed only if a new
    one could be made, or was refused.
    """

    def __init__(self, node: Node, ask: Callable[[], None]) -> None:
        self._node = node
        self._scope = node.scope
        self._ask = ask
        self._wire: Wire | None = None
        #: When the last reply came; never idle while there is no connection.
        self.heard_at = math.inf
        #: The command whose answer has to come before all else is written.
        self.question: Command | None = None
        self._patience = self._scope.timer(self._try_another)
        self._next = self._scope.timer(self._check)
        self._trial: asyncio.Task[None] | None = None

    def start(self, wire: Wire) -> None:
        """Start checking a new connection."""
        self._wire = wire
        self.heard_at = clock.monotonic()
        if wire.health_check_s:
            self._next.start(wire.health_check_s, wire)

    def stop(self) -> None:
        """Stop checking."""
        self._wire = None
        self.heard_at = math.inf
        self._end()
        self._next.cancel()

    def begin(self) -> Command:
        """Return the PING to write, whose reply is awaited from now on."""
        question = Command(pack("PING"), self._scope.loop.create_future(), clock.monotonic(), True)
        question.future.add_done_callback(ignore)
        self.question = question
        self._patience.start(PATIENCE_S)
        return question

    def heard(self, command: Command) -> None:
        """Note that the reply to a command has arrived, and no other command is in flight.

        Any reply shows that the connection works, even an error, as where PING is forbidden.
        """
        self.heard_at = clock.monotonic()
        if command is self.question:
            self._end()

    def _end(self) -> None:
        self.question = None
        self._patience.cancel()
        if self._trial is not None:
            self._trial.cancel()

    def _check(self, wire: Wire) -> None:
        """Send PING at the configured interval while no other command is sent."""
        idle_s = clock.monotonic() - self.heard_at
        if idle_s >= wire.health_check_s * 0.99:
            self._ask()
            idle_s = 0.0
        self._next.start(wire.health_check_s - idle_s, wire)

    def _try_another(self) -> None:
        assert self._wire is not None  # else there is no question
        name = f"second dial {self._node.health.name}"
        self._trial = self._scope.start(self._replace(self._wire), name)

    async def _replace(self, silent: Wire) -> None:
        """Close a connection, unless the server does not reply on a new one either.

        Its successor is dialled in the ordinary way, because the topology may have changed.
        """
        with contextlib.suppress(RedisError, OSError, ConfigurationError):
            await (await self._node.dial()).close()
        silent.abort(NO_ANSWER)


def await_life(commands: Commands) -> None:
    """PING the server until it replies, which ends its outage."""
    commands.call(pack("PING"), True).add_done_callback(ignore)
