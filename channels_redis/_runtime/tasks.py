"""Helpers for tasks and futures whose end must be handled."""

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
    """Return a task for a coroutine that has already started, and first awaits :func:`turn`.

    It does so inside its ``try`` block: if a coroutine is cancelled before it has started, no part
    of it is run, not even a ``finally`` block.
    """
    work.send(None)
    return started(work, loop, name)


def started(work: Coroutine[Any, Any, T], loop: Loop, name: str) -> asyncio.Task[T]:
    """Return a task that may stay pending: it can never end if its loop is closed bare, or freed
    without being closed, and this should not be logged.
    """
    task = loop.create_task(work, name=name)
    # The attribute by which asyncio keeps quiet about its own; uvloop's tasks are asyncio's.
    with contextlib.suppress(AttributeError):  # a task factory of the user's
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # not in the annotations
    return task


class SupervisedTask:
    """A task that is replaced by a new one if it is cancelled by other code.

    ``asyncio.run()`` cancels every task at its end, including the layer's, although consumers may
    still wait for replies in a ``finally`` block. As long as it is ``wanted()``, the work is
    started again and continues where it stopped. ``work()`` first awaits :func:`turn`, as for
    :func:`begun`.
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
    """Let the event loop run one iteration (see :func:`begun`)."""
    yield


def ignore(future: asyncio.Future[Any]) -> None:
    """Retrieve a result that is not needed, so that its exception is not logged."""
    if not future.cancelled():
        future.exception()


async def apart(work: Coroutine[Any, Any, T], loop: Loop, purpose: str) -> T:
    """Await a call of redis-py that has its own timeout, in a separate task.

    On Python 3.10, redis-py 5 may mistake a cancellation for one of its timeouts and continue; the
    cancelled task would never end.
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
    """Return when cancelled tasks have ended: they may have connections to close, and no other code
    waits for them. A cancellation of the caller is raised after that.
    """
    cancelled: asyncio.CancelledError | None = None
    while pending := {task for task in tasks if not task.done()}:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
