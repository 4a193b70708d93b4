"""Tasks and futures whose end somebody has to see to."""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import Coroutine, Generator, Iterable
from typing import Any, TypeVar

Loop = asyncio.AbstractEventLoop

#: Who works longer than this in one go lets the event loop take its turn.
BREATH_S = 0.01

T = TypeVar("T")


def begun(work: Coroutine[Any, Any, T], loop: Loop, name: str) -> asyncio.Task[T]:
    """Return a task for a coroutine that has begun, and awaits :func:`turn` before all else.

    It does so inside of its ``try``: of a coroutine that is cancelled before it has begun, nothing
    is run, no ``finally`` either.
    """
    work.send(None)
    return started(work, loop, name)


def started(work: Coroutine[Any, Any, T], loop: Loop, name: str) -> asyncio.Task[T]:
    """Return a task that may be left pending: it can never end where its loop is closed bare, or
    freed unclosed, and nobody needs a log record of that.
    """
    task = loop.create_task(work, name=name)
    # The attribute by which asyncio keeps quiet about its own; uvloop's tasks are asyncio's.
    with contextlib.suppress(AttributeError):  # a task factory of the user's
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # not in the annotations
    return task


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Let the event loop take its turn (see :func:`begun`)."""
    yield


def ignore(future: asyncio.Future[Any]) -> None:
    """Take note of an outcome that nobody needs, so that it is not complained about."""
    if not future.cancelled():
        future.exception()


async def apart(work: Coroutine[Any, Any, T], loop: Loop, purpose: str) -> T:
    """Await something of redis-py's that has a time-out of its own, in a task of its own.

    On Python 3.10, redis-py 5 may take a cancellation for the end of one of its time-outs, and go
    on; whoever was cancelled would live for ever.
    """
    task = started(work, loop, f"channels_redis {purpose}")
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await ended({task})
        if not task.cancelled():
            task.exception()
        raise
    return task.result()


async def ended(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Return when tasks that were cancelled have ended: they may have connections to close, and
    nobody else waits for them.  A cancellation of the caller is raised when they have.
    """
    cancelled: asyncio.CancelledError | None = None
    while pending := {task for task in tasks if not task.done()}:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
