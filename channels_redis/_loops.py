"""State per event loop, closed with the loop.  The only place that asks for the running loop.

A state ends in one of three ways: its owner closes it; ``loop.shutdown_asyncgens()`` closes it,
which ``asyncio.run()``, ``async_to_sync`` and pytest-asyncio call at their end; or the loop is
closed bare, and it is abandoned: then nothing can be awaited any more, but the sockets are
shut, so that no server goes on serving a ghost.  Nothing is patched for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import Generic, Protocol, TypeVar

from ._native import Lock, greenlets

#: Seconds until a timer that is not meant to fire; some event loops refuse longer ones.
_NEVER_S = 10**7


class LoopBound(Protocol):
    """What lives on one event loop."""

    async def aclose(self) -> None:
        """Release everything; the loop runs."""

    def abandon(self) -> None:
        """Release what can be released without the loop, which is closed already."""


S = TypeVar("S", bound=LoopBound)


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the loop that runs in this thread, or raise RuntimeError."""
    return asyncio.get_running_loop()


def running_loop_or_none() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread, or greenlet, if any."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    # Python knows threads only: it takes the loop of any greenlet for that of all.
    mine = threading.get_ident()
    return loop if not greenlets() or getattr(loop, "_thread_id", mine) == mine else None


class _Farewell:
    """Held by a timer of the loop alone, and so freed inside a bare ``loop.close()``."""

    def __init__(self, abandon: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self.abandon: Callable[[], None] | None = abandon
        self._loop = weakref.ref(loop)
        self._timer: weakref.ref[asyncio.TimerHandle] | None = None
        self._wait(loop)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        timer = loop.call_later(_NEVER_S, self)
        # Known weakly: the loop alone may hold what holds this.
        with contextlib.suppress(TypeError):  # rloop's timers can't be: they wait to their end.
            self._timer = weakref.ref(timer)

    def __call__(self) -> None:
        loop = self._loop()
        if loop is not None and self.abandon is not None:
            self._wait(loop)

    def cancel(self) -> None:
        """Have the loop forget this, as there is nothing to abandon any more."""
        self.abandon = None
        timer = self._timer() if self._timer is not None else None
        if timer is not None:
            timer.cancel()

    def __del__(self) -> None:
        if self.abandon is not None:
            self.abandon()


class _Entry(Generic[S]):
    __slots__ = ("closed", "closer", "farewell", "loop", "state")

    def __init__(self, loop: asyncio.AbstractEventLoop, state: S) -> None:
        self.loop = loop
        self.state = state
        self.closed = False
        self.closer: AsyncGenerator[None, None] | None = None
        self.farewell: weakref.ref[_Farewell] | None = None

    def disarm(self) -> None:
        """Let nothing be abandoned, and leave the loop untouched."""
        farewell = self.farewell() if self.farewell is not None else None
        if farewell is not None:
            farewell.abandon = None

    def end(self) -> None:
        """Note that the state was closed."""
        self.closed = True
        farewell = self.farewell() if self.farewell is not None else None
        if farewell is not None:
            farewell.cancel()


class LoopStates(Generic[S]):
    """One ``S`` per event loop, made by ``factory`` when it is first asked for."""

    def __init__(self, factory: Callable[[asyncio.AbstractEventLoop], S]) -> None:
        self._factory = factory
        self._entries: dict[int, _Entry[S]] = {}
        # Being closed, and not found any more; a close that was cancelled is done again.
        self._ending: set[_Entry[S]] = set()
        self._lock = Lock()

    def get(self) -> S:
        """Return the state of the running loop."""
        loop = asyncio.get_running_loop()
        entry = self._entries.get(id(loop))
        if entry is None or entry.loop is not loop:
            entry = self._open(loop)
        return entry.state

    def find(self, loop: asyncio.AbstractEventLoop) -> S | None:
        """Return the state of a loop, if it has one."""
        entry = self._entries.get(id(loop))
        return entry.state if entry is not None and entry.loop is loop else None

    def all(self) -> dict[asyncio.AbstractEventLoop, S]:
        """Return the states of all loops."""
        with self._lock:
            return {entry.loop: entry.state for entry in self._entries.values()}

    async def aclose(self) -> None:
        """Close the state of the running loop, if it has one."""
        loop = asyncio.get_running_loop()
        entry = self._entries.get(id(loop))
        # A copy, as the loops of other threads may end meanwhile.
        ours = [one for one in tuple(self._ending) if one.loop is loop]
        if entry is not None and entry.loop is loop:
            ours.append(entry)
        for one in ours:
            await self._close(one)
            if one.closer is not None:
                await one.closer.aclose()

    def inherited(self) -> list[_Entry[S]]:
        """Return everything, in a forked child, which must keep it alive and use none of it."""
        # The lock may be held by a thread that does not exist here.
        entries = [*self._entries.values(), *self._ending]
        for entry in entries:
            entry.disarm()
        return entries

    def _open(self, loop: asyncio.AbstractEventLoop) -> _Entry[S]:
        entry = _Entry(loop, self._factory(loop))
        with self._lock:
            self._entries[id(loop)] = entry
        this = weakref.ref(self)

        def abandon() -> None:
            states = this()
            if states is not None:
                states._forget(entry)
                states._ending.discard(entry)
            entry.state.abandon()

        farewell = _Farewell(abandon, loop)
        entry.farewell = weakref.ref(farewell)
        if not getattr(loop, "_asyncgens_shutdown_called", False):
            entry.closer = _closer(self, entry)
            # Runs up to the ``yield``, so that the loop knows the generator from now on.
            with contextlib.suppress(StopIteration):
                entry.closer.asend(None).send(None)
        return entry

    def _forget(self, entry: _Entry[S]) -> None:
        with self._lock:
            if self._entries.get(id(entry.loop)) is entry:
                del self._entries[id(entry.loop)]

    async def _close(self, entry: _Entry[S]) -> None:
        if entry.closed:
            return
        self._forget(entry)
        self._ending.add(entry)
        await entry.state.aclose()
        entry.end()
        self._ending.discard(entry)


async def _closer(states: LoopStates[S], entry: _Entry[S]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await states._close(entry)
