"""A background thread with a long-lived event loop, for callers that have none.

There is one portal per process, started on first need.  It serves the blocking face of a layer
and calls on loops that ``async_to_sync`` makes for a single call: there each connection would
be thrown away after one command.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from asgiref.sync import AsyncToSync

from .exceptions import ConnectionLost

T = TypeVar("T")
Loop = asyncio.AbstractEventLoop

#: Seconds that calls under way get when the interpreter exits.
EXIT_S = 3.0


class Guest(Protocol):
    """A layer's state on the portal's loop."""

    @property
    def receiving(self) -> bool:
        """Whether messages come in on this loop."""


class Portal:
    """Runs coroutines for other threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        self._guests: weakref.WeakSet[Guest] = weakref.WeakSet()
        self._calls: set[concurrent.futures.Future[Any]] = set()

    def serves(self, loop: Loop) -> bool:
        """Tell whether a loop was made by ``async_to_sync`` for one call."""
        # asgiref's own registry of these loops; without it they are served like others.
        return loop in getattr(AsyncToSync, "loop_thread_executors", ())

    def is_portal(self, loop: Loop) -> bool:
        """Tell whether a loop is the portal's own."""
        return loop is self._loop

    def loop(self) -> Loop:
        """Return the portal's loop, which runs from now on."""
        with self._lock:
            if self._loop is None:
                self._start()
            assert self._loop is not None
            return self._loop

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine on the portal's loop."""
        call = asyncio.run_coroutine_threadsafe(work, self.loop())
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the portal's loop; await its end on the caller's loop."""
        return await asyncio.wrap_future(self.submit(work))

    def wait(self, work: Coroutine[Any, Any, T], timeout_s: float | None) -> T:
        """Run a coroutine on the portal's loop; block this thread until its end.

        Raises :class:`ConnectionLost` after ``timeout_s`` seconds.
        """
        call = self.submit(work)
        try:
            return call.result(timeout_s)
        except concurrent.futures.TimeoutError:
            if call.done():
                raise
            call.cancel()
            raise ConnectionLost(
                f"The call did not end within {timeout_s:g} s; it may have run.",
                maybe_executed=True,
            ) from None

    def pause(self) -> None:
        """Stop if nobody uses the portal right now; the next call starts it again."""
        with self._lock:
            loop = self._loop
        if loop is None or self._calls or any(guest.receiving for guest in list(self._guests)):
            return
        self.stop(EXIT_S)

    def host(self, guest: Guest) -> None:
        """Note who lives on the portal's loop."""
        self._guests.add(guest)

    def reset(self) -> object:
        """Forget everything, as a forked child must; return what must stay alive."""
        inherited = dict(self.__dict__)
        self.__init__()  # type: ignore[misc]  # the one object that all modules hold
        return inherited

    def stop(self, wait_s: float) -> None:
        """Let calls under way end within ``wait_s`` seconds, then end loop and thread."""
        with self._lock:
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        if loop is None or thread is None:
            return
        concurrent.futures.wait(tuple(self._calls), timeout=wait_s)
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=wait_s)

    def _start(self) -> None:
        started = threading.Event()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(
            target=_serve, args=(loop, started), name="channels_redis portal", daemon=True
        )
        thread.start()
        started.wait()
        self._loop, self._thread = loop, thread


def _serve(loop: Loop, started: threading.Event) -> None:
    asyncio.set_event_loop(loop)
    loop.call_soon(started.set)
    try:
        loop.run_forever()
        # Closes the layers' states on this loop (see _loops), then what is left of tasks.
        loop.run_until_complete(loop.shutdown_asyncgens())
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


portal = Portal()


def _at_exit() -> None:
    portal.stop(EXIT_S)


atexit.register(_at_exit)
