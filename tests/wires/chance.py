"""Events in an order that Hypothesis chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from redis.exceptions import ConnectionError

from .wire import FakeNode, FakeWire
from .world import World

RENEWAL = "another primary"

#: An action by the name of its method, and a number for it, from 0 to 3.
Action = tuple[str, int]


def actions(often: str, sometimes: str, most: int = 60) -> st.SearchStrategy[list[Action]]:
    """Return lists of actions; those named in ``often`` come three times as often as others.

    All lengths are as likely: left alone, Hypothesis makes lists of about five.
    """
    names = 3 * often.split() + sometimes.split()
    action = st.tuples(st.sampled_from(names), st.integers(0, 3))
    return st.integers(0, most).flatmap(
        lambda count: st.lists(action, min_size=count, max_size=count)
    )


class Player:
    """Carries out actions: what any test may do to a connection, to the clock and to tasks."""

    def __init__(self, world: World, node: FakeNode) -> None:
        self.world = world
        self.node = node
        self._held: list[asyncio.Future[None]] = []

    def play(self, chosen: list[Action]) -> None:
        for name, number in chosen:
            getattr(self, name)(number)

    def step(self, number: int) -> None:
        self.world.loop.step(number + 1)

    def wait(self, number: int) -> None:
        """Let 50 ms to 25 s pass, while nothing moves on the network."""
        self.world.loop.advance(0.05 * 8**number)
        self.world.tick()

    def run(self, number: int) -> None:
        self._on_wire(lambda wire: wire.run(number + 1))

    def deliver(self, number: int) -> None:
        self._on_wire(lambda wire: wire.deliver(number + 1))

    def flow(self, number: int) -> None:
        self.world.quiet()

    def lose(self, number: int) -> None:
        self._on_wire(FakeWire.break_off)

    def renew(self, number: int) -> None:
        self.node.renew(RENEWAL)

    def refuse_dial(self, number: int) -> None:
        self.node.outcomes.append(ConnectionError("refused"))

    def hold_dial(self, number: int) -> None:
        """Have the next dial hang until :meth:`let_dial`."""
        self._held.append(self.world.loop.create_future())
        self.node.outcomes.append(self._held[-1])

    def let_dial(self, number: int = 0) -> None:
        for held in self._held:
            if not held.done():
                held.set_result(None)

    def cancel_tasks(self, number: int) -> None:
        """Cancel all tasks, as ``asyncio.run()`` does at its end."""
        for task in asyncio.all_tasks(self.world.loop):
            task.cancel()

    def _on_wire(self, action: Callable[[FakeWire], Any]) -> None:
        if self.node.wires:
            action(self.node.wire)
