"""Where I/O happens: an operation decides in its caller's context, and yields what to do.

An operation is a generator: it checks, serializes and decides without I/O, and yields plans.  A
plan is called with the session of the event loop that does the I/O: the caller's own, or the
portal's for callers whose loop lives for one call or who have none.  So one body serves
coroutines and blocking calls alike, and user code runs where the user called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from ._loops import LoopStates, running_loop
from ._portal import portal

T = TypeVar("T")

Plan = Callable[[Any], Awaitable[Any]]
Steps = Generator[Plan, Any, T]


async def run(steps: Steps[T], sessions: LoopStates[Any]) -> T:
    """Do what an operation yields, and return what it returns."""
    through_portal = portal.serves(running_loop())
    try:
        plan = next(steps)
        while True:
            if through_portal:
                outcome = await portal.run(_do(plan, sessions))
            else:
                outcome = await plan(sessions.get())
            plan = steps.send(outcome)
    except StopIteration as end:
        result: T = end.value
        return result


def run_blocking(steps: Steps[T], sessions: LoopStates[Any], timeout_s: float | None) -> T:
    """The same in a thread without an event loop."""
    try:
        plan = next(steps)
        while True:
            plan = steps.send(portal.wait(_do(plan, sessions), timeout_s))
    except StopIteration as end:
        result: T = end.value
        return result


async def _do(plan: Plan, sessions: LoopStates[Any]) -> Any:
    return await plan(sessions.get())


def submit(work: Callable[[], Awaitable[Any]], loop: asyncio.AbstractEventLoop) -> Future[Any]:
    """Have another thread's loop do something; if it was closed this moment, nothing is done."""

    async def doing() -> Any:
        return await work()

    coroutine = doing()
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        nothing: Future[Any] = Future()
        nothing.cancel()
        return nothing
