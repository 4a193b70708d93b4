"""Runs the parts of an operation where they belong.

An operation has two parts. The first part checks, serializes and decides without I/O, in the
caller's context, and returns a plan. The plan is called with a session and does the I/O on its
event loop: the caller's own, or the portal's if the caller's loop exists for one call only, or
there is none. So coroutines and blocking calls share one implementation, and user code runs in the
caller's context.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

from .._config.options import check_seconds
from .loops import LoopStates, running_loop
from .portal import Limit, portal

#: What an operation does with a session; it may return a :class:`Then`.
Plan = Callable[[Any], "Coroutine[Any, Any, Any] | asyncio.Future[Any]"]
#: The first part of an operation.
Decide = Callable[[], Plan]


class Then(NamedTuple):
    """The result of a plan after which user code has to run before the rest can be done."""

    decide: Decide


async def run(decide: Decide, sessions: LoopStates[Any]) -> Any:
    """Run an operation, and return the result of its last plan."""
    loop = running_loop()
    while True:
        plan = decide()
        session = sessions.find(loop)
        if session is not None:
            outcome = await plan(session)
        elif portal.serves(loop):
            outcome = await portal.run(partial(_begin, plan, sessions), loop)
        else:
            outcome = await plan(sessions.get())
        if not isinstance(outcome, Then):
            return outcome
        decide = outcome.decide


def run_blocking(decide: Decide, sessions: LoopStates[Any], timeout_s: float | None) -> Any:
    """The same in a thread without an event loop, within ``timeout_s`` seconds in all."""
    limit_s = math.inf
    if timeout_s is not None:
        # A limit that is never reached is no mistake.
        limit_s = check_seconds("timeout_s", timeout_s, longest_s=sys.float_info.max)
    limit = Limit(limit_s)
    while True:
        outcome = portal.wait(partial(_begin, decide(), sessions), limit)
        if not isinstance(outcome, Then):
            return outcome
        decide = outcome.decide


def _begin(plan: Plan, sessions: LoopStates[Any]) -> Coroutine[Any, Any, Any] | asyncio.Future[Any]:
    return plan(sessions.get())


def submit(work: Callable[[], Awaitable[Any]], loop: asyncio.AbstractEventLoop) -> Future[Any]:
    """Run something on another thread's loop; nothing is done if it has just been closed."""

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
