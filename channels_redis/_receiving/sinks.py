"""Idle consumers that get messages without being woken.

The work of a consumer for a message is a coroutine. It is started where the message is delivered,
in the consumer's own context and with its task as the current one, so that it runs as it would in
that task. Nearly all coroutines end at once. One that has to wait continues in the consumer's task,
and one that raises does so there, too.
"""

from __future__ import annotations

import asyncio
import gc
import types
from asyncio import _enter_task, _leave_task
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

from .waiters import Loop, Waiter

Task = asyncio.Task[Any]
Work = Coroutine[Any, Any, None]


class Sink:
    """The sink of a consumer at its mailbox.

    ``prepare(item)`` returns the argument for :meth:`hand`, the same for all consumers of a
    ``kind``; None for a message for which they have to be woken. ``begin(prepared)`` creates the
    coroutine.
    """

    __slots__ = ("_begin", "_context", "_task", "left", "loop", "prepare", "socket", "waiter")

    def __init__(
        self,
        task: Task,
        context: Context,
        prepare: Callable[[Any], Any],
        begin: Callable[[Any], Work],
    ) -> None:
        self.loop: Loop = task.get_loop()
        self.prepare = prepare
        #: What the idle consumer awaits, and the task that waits for its client.
        self.waiter: Waiter | None = None
        self.socket: Task | None = None
        #: What has to be brought to an end in the consumer's task.
        self.left: Unfinished | BaseException | None = None
        self._task = task
        self._context = context
        self._begin = begin

    def is_idle(self, waiters: list[Waiter], running: Loop | None) -> bool:
        """Return whether the consumer waits for a message as the first of ``waiters``, on this
        loop, and its client has sent nothing.
        """
        waiter, socket = self.waiter, self.socket
        return (
            waiter is not None
            and self.loop is running
            and waiters[0] is waiter
            and not waiter.done()
            and not (socket is not None and socket.done())
        )

    def hand(self, prepared: Any) -> None:
        """Start the consumer's work for a message, up to the first wait.

        Called while no task is the current one. Raises nothing.
        """
        work = self._begin(prepared)
        _enter_task(self.loop, self._task)
        try:
            waits_for = self._context.run(work.send, None)
        except StopIteration:
            return
        except BaseException as error:  # noqa: BLE001 (its own task raises it)
            self.left = error
        else:
            self.left = Unfinished(work, waits_for)
        finally:
            _leave_task(self.loop, self._task)
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Unfinished:
    """A coroutine that was started elsewhere and waits for ``waits_for``."""

    def __init__(self, work: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._work = work
        self._waits_for = waits_for

    def cancel(self) -> BaseException | None:
        """Cancel the coroutine like a task before it is awaited; return the argument for
        :meth:`finish`.
        """
        cancel = getattr(self._waits_for, "cancel", None)
        return None if cancel is not None and cancel() else asyncio.CancelledError()

    @types.coroutine
    def finish(self, error: BaseException | None = None) -> Generator[Any, Any, Any]:
        """Continue in the running task, with ``error`` raised where the coroutine waits, if there
        is one.
        """
        work, waits_for, answer = self._work, self._waits_for, None
        while True:
            if error is None:
                try:
                    answer = yield waits_for
                except GeneratorExit:
                    work.close()
                    raise
                except BaseException as raised:  # noqa: BLE001 (handed on)
                    error = raised
            try:
                waits_for = work.send(answer) if error is None else work.throw(error)
            except StopIteration as stop:
                return stop.value
            error = answer = None


@contextmanager
def no_current_task(loop: Loop) -> Iterator[None]:
    """Allow other tasks to be the current one for a while."""
    current = asyncio.current_task(loop)
    if current is not None:
        _leave_task(loop, current)
    try:
        yield
    finally:
        if current is not None:
            _enter_task(loop, current)


def context_of(task: Task) -> Context | None:
    """Return the context of the running task, not a copy; None if it can't be determined."""
    get_context: Callable[[], Context] | None = getattr(task, "get_context", None)
    if get_context is not None:  # Python 3.12
        return get_context()
    # Before that, a task of asyncio keeps it to itself.
    for one in gc.get_referents(task):
        if isinstance(one, Context) and _is_entered(one):
            return one
    return None


def _is_entered(context: Context) -> bool:
    try:
        context.run(int)
    except RuntimeError:  # No context is entered twice.
        return True
    return False
