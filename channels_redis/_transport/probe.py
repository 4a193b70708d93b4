"""Whether a connection still works that was idle, asked before commands are entrusted to it.

Networks forget connections that carry nothing for a while, and tell neither end.  A command
written there is lost or unanswered, and one that may have run is not repeated.  So a PING goes
first where the connection was idle, and commands wait for its answer.  Busy connections are not
asked: what they carry is answer enough.
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
    """The watch over one connection after the other, from :meth:`start` to :meth:`stop`.

    ``ask()`` writes a question if nothing else is on its way.  A server that is slow or frozen
    leaves it unanswered too, and a new connection would not help.  So the old one is given up only
    where a new one could be made, or was refused.
    """

    def __init__(self, node: Node, ask: Callable[[], None]) -> None:
        self._node = node
        self._scope = node.scope
        self._ask = ask
        self._wire: Wire | None = None
        self._heard_at = math.inf
        #: The command whose answer has to come before all else is written.
        self.question: Command | None = None
        self._patience = self._scope.timer(self._try_another)
        self._next = self._scope.timer(self._check)
        self._trial: asyncio.Task[None] | None = None

    def start(self, wire: Wire) -> None:
        """Watch a new connection."""
        self._wire = wire
        self._heard_at = clock.monotonic()
        if wire.health_check_s:
            self._next.start(wire.health_check_s, wire)

    def stop(self) -> None:
        """Watch no longer."""
        self._wire = None
        self._heard_at = math.inf
        self._end()
        self._next.cancel()

    def is_due(self, now: float) -> bool:
        """Return whether the connection was idle."""
        return now - self._heard_at > IDLE_S

    def begin(self) -> Command:
        """Return the question, for which an answer is awaited from now on."""
        question = Command(pack("PING"), self._scope.loop.create_future(), clock.monotonic(), True)
        question.future.add_done_callback(ignore)
        self.question = question
        self._patience.start(PATIENCE_S)
        return question

    def heard(self, command: Command) -> None:
        """Note that the answer to a command is there, and nothing else is on its way.

        Any answer shows life, as where PING is forbidden.
        """
        self._heard_at = clock.monotonic()
        if command is self.question:
            self._end()

    def _end(self) -> None:
        self.question = None
        self._patience.cancel()
        if self._trial is not None:
            self._trial.cancel()

    def _check(self, wire: Wire) -> None:
        """Ask at the interval that the user wants, while nothing else is said."""
        idle_s = clock.monotonic() - self._heard_at
        if idle_s >= wire.health_check_s * 0.99:
            self._ask()
            idle_s = 0.0
        self._next.start(wire.health_check_s - idle_s, wire)

    def _try_another(self) -> None:
        assert self._wire is not None  # else there is no question
        name = f"second dial {self._node.health.node}"
        self._trial = self._scope.start(self._replace(self._wire), name)

    async def _replace(self, silent: Wire) -> None:
        """Give a connection up, unless a new one is not answered either.

        The one that takes its place is dialled in the ordinary way: by then the topology may name
        another server.
        """
        with contextlib.suppress(RedisError, OSError, ConfigurationError):
            await (await self._node.dial()).close()
        silent.abort(NO_ANSWER)


def await_life(commands: Commands) -> None:
    """Have the server asked for a sign of life until it gives one, which ends its outage."""
    commands.call(pack("PING"), True).add_done_callback(ignore)
