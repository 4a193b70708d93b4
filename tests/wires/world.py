"""All that a test needs: a loop with its clock, a server, and connections between the two."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar
from unittest import mock

from channels_redis._runtime import clock

from .loop import Injection, StepLoop
from .server import Server
from .wire import FakeNode

#: How finely time passes while everything flows.
TICK_S = 0.05

T = TypeVar("T")


class World:
    """To be used in a ``with`` statement, at whose end all tasks must have ended."""

    def __init__(self, injection: Injection | None = None) -> None:
        self.loop = StepLoop()
        self.loop.inject(injection)
        self.server = Server(self.loop.time)
        self.servers = [self.server]
        self._patches = ExitStack()

    def __enter__(self) -> World:
        for patch in (
            mock.patch.object(clock, "monotonic", self.loop.time),
            mock.patch.object(random, "uniform", lambda low, high: high),
        ):
            self._patches.enter_context(patch)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._patches.close()
        left = [task.get_name() for task in asyncio.all_tasks(self.loop)]
        complaints = [
            (context["message"], context.get("exception")) for context in self.loop.complaints
        ]
        if kind is not None:
            for task in asyncio.all_tasks(self.loop):
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # one error will do
        self.loop.close()
        if kind is None:
            assert left == [], left
            assert complaints == [], complaints

    def another_server(self) -> Server:
        """Return one more server."""
        self.servers.append(Server(self.loop.time))
        return self.servers[-1]

    def node(self, name: str = "fake") -> FakeNode:
        """Return a node to dial for a connection to the server."""
        return FakeNode(self.server, self.loop, name=name)

    def start(self, work: Coroutine[Any, Any, T], name: str = "caller") -> asyncio.Task[T]:
        """Begin a call of the test's own, as a task."""
        return self.loop.create_task(work, name=name)

    def quiet(self) -> None:
        """Have everything that is under way arrive, until nothing is; the clock stands."""
        moved = True
        while moved:
            self.loop.settle()
            self.tick()
            wires = [wire for server in self.servers for wire in server.wires]
            moved = sum(wire.run() + wire.deliver() for wire in wires) > 0

    def tick(self) -> None:
        """Have the servers look at their clock."""
        for server in self.servers:
            server.tick()

    def flow(self, seconds: float) -> None:
        """Let time pass on a network and a server that are fast."""
        self.quiet()
        for _ in range(round(seconds / TICK_S)):
            self.loop.advance(TICK_S)
            self.quiet()

    def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something to its end, within a few seconds of the world's time."""
        task = self.start(work, "closer")
        for _ in range(200):
            self.quiet()
            if task.done():
                return task.result()
            self.loop.advance(TICK_S)
        raise AssertionError("it never ends")


def at_every_await(
    play: Callable[[Injection], object],
    task_name: str,
    action: Callable[[Any, Any], object],
    *,
    late: bool = False,
) -> int:
    """Play a scenario once to count the awaits of some tasks, then once for each of them with an
    action there. Return how many there are.
    """
    counting = Injection(task_name, 0, action)
    play(counting)
    for number in range(1, counting.awaits + 1):
        try:
            play(Injection(task_name, number, action, late=late))
        except Exception as error:
            raise AssertionError(f"at await {number} of {counting.awaits}: {error}") from error
    return counting.awaits
