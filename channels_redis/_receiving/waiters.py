"""The waiting calls of ``receive()``, on any event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import ref

Loop = asyncio.AbstractEventLoop

#: One ``receive()`` that waits, on its own event loop.  Resolved with None when there may be a
#: message to take, else with what to raise.
Waiter = asyncio.Future["Exception | None"]


def wake(waiter: Waiter, running: Loop | None, error: Exception | None = None) -> bool:
    """Wake a waiter; ``running`` is the caller's loop. False if the waiter's loop is closed."""
    loop = waiter.get_loop()
    if loop is running:
        _resolve(waiter, error)
        return True
    try:
        loop.call_soon_threadsafe(_resolve, waiter, error)
    except RuntimeError:
        return False
    return True


def _resolve(waiter: Waiter, error: Exception | None) -> None:
    if not waiter.done():
        waiter.set_result(error)


class Demand:
    """The number of calls that wait for one source (a queue's readers) on each loop, and the loops
    with consumers that may be busy.

    ``on_first_waiter(loop)`` is called, without a lock, when the first call waits on a loop.
    """

    __slots__ = ("_consumers", "_loops", "on_first_waiter", "waiting")

    def __init__(self, on_first_waiter: Callable[[Loop], None]) -> None:
        self.waiting = 0
        self._loops: dict[Loop, int] = {}
        # A weak reference: a consumer that is kept must not keep a loop that its owner has dropped.
        # Replaced and never changed, as readers look at it without a lock.
        self._consumers: dict[ref[Loop], int] = {}
        self.on_first_waiter = on_first_waiter

    def add(self, loop: Loop) -> bool:
        """Count a waiting call; return whether it is the first on this loop."""
        loops = self._loops
        here = loops[loop] = loops.get(loop, 0) + 1
        if len(loops) == 1:
            self.waiting = here
            return here == 1
        # A call on a loop that was closed bare never stops waiting by itself.
        self._loops = {one: n for one, n in loops.items() if not one.is_closed()}
        self.waiting = sum(self._loops.values())
        return here == 1

    def remove(self, loop: Loop) -> None:
        """Note that a call on ``loop`` no longer waits."""
        left = self._loops.get(loop, 0) - 1
        if left < 0:
            return
        self.waiting -= 1
        self._loops[loop] = left
        if not left:
            del self._loops[loop]

    def settle(self, loop: ref[Loop], change: int) -> None:
        """Count a consumer that receives on a loop, or one that has ended (-1)."""
        consumers = {one: n for one, n in self._consumers.items() if one() is not None}
        consumers[loop] = consumers.get(loop, 0) + change
        if consumers[loop] <= 0:
            del consumers[loop]
        self._consumers = consumers

    def concerns(self, loop: Loop) -> bool:
        """Return whether a call waits on a loop, or a consumer runs there that may be busy."""
        return loop in self._loops or ref(loop) in self._consumers

    @property
    def alive(self) -> bool:
        """Whether there are consumers, waiting or not, on a running loop."""
        loops = (one() for one in self._consumers)
        return any(loop is not None and loop.is_running() for loop in loops)

    def loop(self) -> Loop | None:
        """Return the open loop of a waiting call, if there is any: preferably a running one;
        otherwise a running loop with a consumer.
        """
        loops = [loop for loop in tuple(self._loops) if not loop.is_closed()]
        consumers = [loop for one in self._consumers if (loop := one()) is not None]
        running = [loop for loop in (*loops, *consumers) if loop.is_running()]
        return next(iter(running or loops), None)
