"""Tasks and futures whose end somebody has to see to."""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import Callable, Coroutine, Generator, Iterable
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


class SupervisedTask:
    """A task that has another take its place where it is cancelled by somebody else.

    ``asyncio.run()`` cancels every task at its end, ours too, while consumers may still wait for
    replies in their ``finally``: as long as it is ``wanted()``, the work is begun anew and goes on
    where it stopped.  ``work()`` awaits :func:`turn` first, as for :func:`begun`.
    """

    def __init__(
        self,
        loop: Loop,
        name: str,
        work: Callable[[], Coroutine[Any, Any, None]],
        wanted: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._name = f"channels_redis {name}"
        self._work = work
        self._wanted = wanted
        self._ended = False
        #: The present task; None where nothing is to be done.
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin the work, unless it is under way or was ended."""
        if self.task is None and not self._ended:
            self.task = begun(self._run(), self._loop, self._name)

    async def end(self) -> None:
        """Cancel the task for good, and return when it has ended."""
        self._ended = True
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})

    async def _run(self) -> None:
        try:
            await self._work()
        except asyncio.CancelledError:
            self._go_on()
            raise
        self._go_on()

    def _go_on(self) -> None:
        self.task = None
        if self._wanted():
            self.start()


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
