"""State per event loop, which is closed with the loop. The only module that determines the running
loop.

A state ends in one of four ways. Its owner closes it. Or ``loop.shutdown_asyncgens()`` closes it,
which ``asyncio.run()``, ``async_to_sync`` and pytest-asyncio call at their end. Or its owner is
freed, and it is closed on its loop. Or the loop is closed bare, or freed without being closed, and
the state is abandoned: nothing can be awaited any more, but the sockets are shut down, so that
servers see the end of the connections. No method of the loop is patched.

A state is referenced only by its loop, and does not reference its owner, so either may be freed
first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from types import AsyncGeneratorType, MethodType
from typing import Any, Generic, Protocol, TypeVar, cast

from .native import RLock, greenlets
from .scope import Scope
from .weakly import weakly

#: Seconds until a timer that is not meant to fire; some event loops refuse longer ones.
_NEVER_S = 10**7


class LoopBound(Protocol):
    """A state on one event loop."""

    @property
    def scope(self) -> Scope:
        """What has to be ended, and how."""
        ...


S = TypeVar("S", bound=LoopBound)


#: Returns the loop that runs in this thread, or raises RuntimeError.
running_loop = asyncio.get_running_loop


def running_loop_or_none() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread, or greenlet, if any."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    # Python knows threads only: it takes the loop of any greenlet for that of all.
    mine = threading.get_ident()
    return loop if not greenlets() or getattr(loop, "_thread_id", mine) == mine else None


class _Abandoner:
    """Referenced only by a timer of the loop, and so freed inside a bare ``loop.close()``."""

    def __init__(self, abandon: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self.abandon: Callable[[], None] | None = abandon
        self._loop = weakref.ref(loop)
        self._timer: weakref.ref[asyncio.TimerHandle] | None = None
        self._wait(loop)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        timer = loop.call_later(_NEVER_S, self)
        # A weak reference: the loop alone may hold what holds this.
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
    __slots__ = ("__weakref__", "abandoner", "closed", "closer", "loop", "state")

    def __init__(self, loop: asyncio.AbstractEventLoop, state: S) -> None:
        self.loop = loop
        self.state = state
        self.closed = False
        self.closer: AsyncGeneratorType[None, None] | None = None
        self.abandoner: weakref.ref[_Abandoner] | None = None

    def disarm(self) -> None:
        """Prevent the abandoning, without using the loop."""
        abandoner = self.abandoner() if self.abandoner is not None else None
        if abandoner is not None:
            abandoner.abandon = None

    def end(self) -> None:
        """Note that the state was closed."""
        self.closed = True
        abandoner = self.abandoner() if self.abandoner is not None else None
        if abandoner is not None:
            abandoner.cancel()


class _LeftBehind:
    """Shuts down the sockets on loops that a thread does not close.

    Freed at the end of the thread. asyncio's loops may be collected some time later, uvloop's never
    are; and each may continue in another thread, where its connections are opened again.
    """

    def __init__(self) -> None:
        self.entries: weakref.WeakSet[_Entry[Any]] = weakref.WeakSet()
        self._pid = os.getpid()

    def __del__(self) -> None:
        # A forked child is without the threads of its parent, whose sockets it must not shut.
        if sys.is_finalizing() or os.getpid() != self._pid:
            return
        for entry in tuple(self.entries):
            if not (entry.loop.is_running() or entry.loop.is_closed()):
                entry.state.scope.shut()


class _Here(threading.local):
    """The state of one thread."""

    def __init__(self) -> None:
        self._left_behind = _LeftBehind()

    def watch(self, entry: _Entry[Any]) -> None:
        """Shut down the sockets of the entry if this thread ends without closing its loop."""
        self._left_behind.entries.add(entry)


_here = _Here()

#: Running closes of states whose owners were freed.
_closes: set[asyncio.Task[None]] = set()


class LoopStates(Generic[S]):
    """One ``S`` per event loop, created at first use by ``factory``, a method of the owner."""

    def __init__(self, factory: Callable[[asyncio.AbstractEventLoop], S]) -> None:
        self._factory = weakref.WeakMethod(factory)
        # By the loop's identity.  Only the loop holds an entry, by a timer.
        self._entries: dict[int, weakref.ref[_Entry[S]]] = {}
        # Being closed, and not found any more; a close that was cancelled is done again. Used under
        # the lock, as threads that close their loops at once change it while others go through it.
        self._ending: weakref.WeakSet[_Entry[S]] = weakref.WeakSet()
        # Reentrant, because an entry may be garbage collected wherever memory is allocated.
        self._lock = RLock()
        owner = cast("MethodType", factory).__self__
        self._release = weakref.finalize(owner, self._let_go)
        self._release.atexit = False
        self._pid = os.getpid()

    def get(self) -> S:
        """Return the state of the running loop."""
        loop = asyncio.get_running_loop()
        state = self.find(loop)
        return state if state is not None else self._open(loop).state

    def find(self, loop: asyncio.AbstractEventLoop) -> S | None:
        """Return the state of a loop, if it has one."""
        known = self._entries.get(id(loop))
        entry = known() if known is not None else None
        return entry.state if entry is not None and entry.loop is loop else None

    def all(self) -> dict[asyncio.AbstractEventLoop, S]:
        """Return the states of all loops."""
        return {entry.loop: entry.state for entry in self._all_entries()}

    def _all_entries(self) -> list[_Entry[S]]:
        with self._lock:
            known = [one() for one in tuple(self._entries.values())]
        return [entry for entry in known if entry is not None]

    async def aclose(self) -> None:
        """Close the state of the running loop, if it has one."""
        loop = asyncio.get_running_loop()
        with self._lock:
            ending = tuple(self._ending)
        for entry in (*ending, *self._all_entries()):
            if entry.loop is loop:
                await self._close_whole(entry)

    def _let_go(self) -> None:
        """Close everything after the owner was freed; called in any thread."""
        # A forked child that has not started afresh yet has nothing of its own here.
        for entry in self._all_entries() if os.getpid() == self._pid else ():
            # A loop that was closed this moment abandons its state.
            with contextlib.suppress(RuntimeError):
                entry.loop.call_soon_threadsafe(self._begin_close, entry)
                if not entry.loop.is_running():
                    # The loop may never run again.
                    entry.state.scope.shut()

    def _begin_close(self, entry: _Entry[S]) -> None:
        name = "channels_redis close of a layer"
        task = entry.loop.create_task(self._close_whole(entry), name=name)
        _closes.add(task)
        task.add_done_callback(_closes.discard)

    def inherited(self) -> list[_Entry[S]]:
        """Return everything in a forked child, which must keep it alive without using it."""
        # The lock may be held by a thread that does not exist here.
        entries = [*filter(None, (one() for one in self._entries.values())), *self._ending]
        self._release.detach()
        for entry in entries:
            entry.disarm()
        return entries

    def _open(self, loop: asyncio.AbstractEventLoop) -> _Entry[S]:
        factory = self._factory()
        assert factory is not None  # Whoever asks holds the owner.
        entry = _Entry(loop, factory(loop))
        with self._lock:
            alive = {key: one for key, one in self._entries.items() if one() is not None}
            self._entries = {**alive, id(loop): weakref.ref(entry)}
        _here.watch(entry)
        # The loop holds what this is called by, and must not hold the owner with it.
        forget = weakly(self._forget, None)

        def abandon() -> None:
            forget(entry)
            entry.state.scope.abandon()

        abandoner = _Abandoner(abandon, loop)
        entry.abandoner = weakref.ref(abandoner)
        if not getattr(loop, "_asyncgens_shutdown_called", False):
            closer = self._closer(entry)
            # Runs up to the ``yield``, so that the loop knows the generator from now on.
            with contextlib.suppress(StopIteration):
                closer.asend(None).send(None)
            entry.closer = cast("AsyncGeneratorType[None, None]", closer)
        return entry

    async def _closer(self, entry: _Entry[S]) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._close(entry)

    def _forget(self, entry: _Entry[S]) -> None:
        with self._lock:
            self._ending.discard(entry)
            known = self._entries.get(id(entry.loop))
            # Once the entry is garbage, nothing refers to it weakly any more.
            if known is not None and known() in (entry, None):
                del self._entries[id(entry.loop)]

    async def _close_whole(self, entry: _Entry[S]) -> None:
        await self._close(entry)
        # Where the loop is at its end, it has begun to close it.
        if entry.closer is not None and not entry.closer.ag_running:
            await entry.closer.aclose()

    async def _close(self, entry: _Entry[S]) -> None:
        if entry.closed:
            return
        with self._lock:
            self._forget(entry)
            self._ending.add(entry)
        await entry.state.scope.aclose()
        entry.end()
        with self._lock:
            self._ending.discard(entry)
