"""Everything of one layer on one event loop, and its end. The only module that handles the end.

There are three ends. While the loop runs, :meth:`Scope.aclose` closes everything in order. After a
bare ``loop.close()`` nothing can be awaited any more, and :meth:`Scope.abandon` drops everything:
sockets are shut down, so that servers stop popping messages for them, and tasks stay pending
without a log record. In a forked child, :meth:`Scope.silence` replaces the parent's sockets with
``/dev/null``.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import socket
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from . import clock, fork
from .tasks import started
from .timers import Timer

Loop = asyncio.AbstractEventLoop

#: How long servers are waited for where the loop does not run.
LEAVE_S = 0.5

T = TypeVar("T")


class Stage(enum.Enum):
    """The stage at which something is closed, in order."""

    #: Readers and subscribers.  Before all else, as they need the connections for commands: a
    #: reader has the server unblock its pop, and puts back what it holds.
    RECEIVING = enum.auto()
    #: Tasks of :meth:`Scope.start`, which are cancelled.  Before the connections for commands, as
    #: they await replies there, and would take a connection that we close for one that was lost.
    TASKS = enum.auto()
    #: Connections for commands, and what decides where they go (map of a cluster, Sentinels).
    COMMANDS = enum.auto()
    #: Clients of redis-py.  Last, as their pools take back the connections of all the others.
    CLIENTS = enum.auto()
    #: Connections.  Those who use them have closed them by now; nothing is left open if not.
    CONNECTIONS = enum.auto()


def nothing() -> None:
    """Do nothing."""


async def no_close() -> None:
    """Wait for nothing."""


def no_descriptors() -> Iterable[int]:
    """Return no file descriptors."""
    return ()


class Part:
    """An object in a scope, until it is released."""

    __slots__ = ("_scope", "aclose", "descriptors", "forget", "leave", "stage")

    def __init__(
        self,
        scope: Scope,
        stage: Stage,
        aclose: Callable[[], Awaitable[object]],
        forget: Callable[[], object],
        leave: Callable[[], object],
        descriptors: Callable[[], Iterable[int]],
    ) -> None:
        self._scope = scope
        self.stage = stage
        self.aclose = aclose
        self.forget = forget
        self.leave = leave
        self.descriptors = descriptors

    def release(self) -> None:
        """Remove the part from its scope, because it has ended."""
        self._scope.parts.pop(self, None)


class Scope:
    """Everything of a layer on one event loop: its tasks, connections and timers.

    ``closing()`` is called at the start of :meth:`aclose`, before anything else runs on the loop.
    """

    def __init__(self, loop: Loop, closing: Callable[[], object] = nothing) -> None:
        self.loop = loop
        self._closing = closing
        #: Whether it is being ended, or has ended.
        self.ended = False
        #: Until when parts may wait for servers that are asked to let go; one time for all of them.
        self.leave_by = 0.0
        #: In the order in which they came; the values mean nothing.
        self.parts: dict[Part, None] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        # A weak reference, because who has a timer holds it, and it may have ended long ago.
        self._timers: weakref.WeakSet[Timer] = weakref.WeakSet()

    def hold(
        self,
        stage: Stage,
        aclose: Callable[[], Awaitable[object]] = no_close,
        *,
        forget: Callable[[], object] = nothing,
        leave: Callable[[], object] = nothing,
        descriptors: Callable[[], Iterable[int]] = no_descriptors,
    ) -> Part:
        """Own something until it is released.

        ``aclose()`` closes it, and may be called again where a call was cancelled; ``forget()``
        does what can be done without the loop; ``leave()`` does what has to be done before the
        sockets of a loop that does not run are shut; ``descriptors()`` returns those of its
        sockets, and may be called on any thread.
        """
        part = Part(self, stage, aclose, forget, leave, descriptors)
        self.parts[part] = None
        return part

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run a coroutine in a task whose end this scope awaits; the name follows
        ``channels_redis``.
        """
        task = started(work, self.loop, f"channels_redis {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def timer(self, callback: Callable[..., object]) -> Timer:
        """Return a timer, not started, which is cancelled with this scope."""
        timer = Timer(self.loop, callback)
        self._timers.add(timer)
        return timer

    async def aclose(self) -> None:
        """Close everything, stage by stage.

        If this is cancelled, the next call closes the remaining parts.
        """
        self.ended = True
        self._closing()
        for stage in Stage:
            if stage is Stage.TASKS:
                await self._end_tasks()
            # What one stage starts as it ends (a multiplexer for the last command of a reader)
            # belongs to a later stage, and is seen there.
            parts = [part for part in self.parts if part.stage is stage]
            await asyncio.gather(*[part.aclose() for part in parts])
            for part in parts:
                part.release()
        # Last: until here, timers bound how long an end may take.
        for timer in tuple(self._timers):
            timer.cancel()

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def abandon(self) -> None:
        """Forget everything after the loop was closed without warning, and shut all sockets.

        In the same order as above: a reader takes what its connection has received before that
        connection is gone.
        """
        self.ended = True
        self.leave_by = clock.monotonic() + LEAVE_S
        for stage in Stage:
            for part in [part for part in self.parts if part.stage is stage]:
                # One that can't be forgotten properly is no reason to keep the others.
                with contextlib.suppress(Exception):
                    part.forget()
        # What came into being without a connection of ours: redis-py's own, and handshakes.
        self._shut_all()
        self.parts.clear()

    def shut(self) -> None:
        """Let servers see the end of all connections, while the loop stands still or is closed."""
        self.leave_by = clock.monotonic() + LEAVE_S
        for part in tuple(self.parts):
            with contextlib.suppress(Exception):  # The others have to be shut all the same.
                part.leave()
        self._shut_all()

    def _shut_all(self) -> None:
        for descriptor in self.descriptors():
            shut(descriptor)

    def silence(self) -> None:
        """Replace all sockets with ``/dev/null``, in a forked child."""
        for descriptor in self.descriptors():
            fork.silence(descriptor)

    def descriptors(self) -> set[int]:
        """Return the file descriptors of all connections.  May be called on any thread."""
        return {descriptor for part in tuple(self.parts) for descriptor in part.descriptors()}


def shut(descriptor: int) -> None:
    """Shut a socket for writing, through a twin, because uvloop's own objects can't do it.

    The server sees the end and closes.  What it sends until then can still be read by another loop:
    on a socket that is also shut for reading, such data would reset the connection, and what lies
    unread in the socket would be lost.
    """
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as twin:
        twin.shutdown(socket.SHUT_WR)
