"""Weak references from the parts of a layer to the layer.

Connections, tasks and timers belong to event loops, which hold them.  If these held the layer, one
that its users have dropped would live as long as the loop.  So a layer that nobody holds is freed
at once, without the garbage collector, and :class:`.loops.LoopStates` then closes what it has on
each loop.  Whoever waits in ``receive()`` holds the layer, and is held by the mailboxes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakMethod

R = TypeVar("R")


def weakly(method: Callable[..., R], otherwise: R) -> Callable[..., R]:
    """Return a function that calls a method with a weak reference, or returns ``otherwise``."""
    known = WeakMethod(method)

    def call(*args: Any) -> R:
        bound = known()
        return bound(*args) if bound is not None else otherwise

    return call
