"""Where I/O happens: an operation decides in its caller's context, and yields what to do.

An operation is a generator: it checks, serializes and decides without I/O, and yields plans.  A
plan is called with the session of the event loop that does the I/O: the caller's own, or the
portal's for callers whose loop lives for one call or who have none.  So one body serves
coroutines and blocking calls alike, and user code runs where the user called.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from .._config.options import check_seconds
from .loops import LoopStates, running_loop
from .portal import Limit, portal

T = TypeVar("T")

Plan = Callable[[Any], "Coroutine[Any, Any, Any] | asyncio.Future[Any]"]
Steps = Generator[Plan, Any, T]


async def run(steps: Steps[T], sessions: LoopStates[Any]) -> T:
    """Do what an operation yields, and return what it returns."""
    loop = running_loop()
    through_portal = portal.serves(loop)
    try:
        plan = next(steps)
        while True:
            if through_portal:
                outcome = await portal.run(partial(_begin, plan, sessions), loop)
            else:
                outcome = await plan(sessions.get())
            plan = steps.send(outcome)
    except StopIteration as end:
        result: T = end.value
        return result


def run_blocking(steps: Steps[T], sessions: LoopStates[Any], timeout_s: float | None) -> T:
    """The same in a thread without an event loop, within ``timeout_s`` seconds in all."""
    limit_s = math.inf
    if timeout_s is not None:
        # A limit that is never reached is no mistake.
        limit_s = check_seconds("timeout_s", timeout_s, longest_s=sys.float_info.max)
    limit = Limit(limit_s)
    try:
        plan = next(steps)
        while True:
            plan = steps.send(portal.wait(partial(_begin, plan, sessions), limit))
    except StopIteration as end:
        result: T = end.value
        return result


def _begin(plan: Plan, sessions: LoopStates[Any]) -> Coroutine[Any, Any, Any] | asyncio.Future[Any]:
    return plan(sessions.get())


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
