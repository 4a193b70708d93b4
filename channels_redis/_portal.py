"""A background thread with a long-lived event loop, for callers that have none.

There is one portal per process, started on first need.  It serves the blocking face of a layer
and calls on loops that ``async_to_sync`` makes for a single call: there each connection would
be thrown away after one command.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import logging
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from asgiref.sync import AsyncToSync
from django.core.signals import setting_changed

from . import _clock
from .exceptions import ConnectionLost, LayerClosed

Loop = asyncio.AbstractEventLoop
#: Called on the portal's loop; returns what is to be awaited there.
Work = Callable[[], "Coroutine[Any, Any, Any] | asyncio.Future[Any]"]

#: Seconds that calls under way get when the interpreter exits.
EXIT_S = 3.0

logger = logging.getLogger("channels_redis.sync")


class Guest(Protocol):
    """A layer's state on the portal's loop."""

    @property
    def receiving(self) -> bool:
        """Whether messages come in on this loop."""
        ...

    async def retire(self) -> None:
        """End, unless somebody uses it; called on the loop."""


class Limit:
    """How long a caller goes on blocking: ``limit_s`` seconds from now, which may be infinite."""

    __slots__ = ("_until", "limit_s")

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._until = _clock.monotonic() + limit_s

    def left_s(self) -> float:
        """Return the seconds that are left, as locks take them."""
        return min(max(0.0, self._until - _clock.monotonic()), threading.TIMEOUT_MAX)


class Call:
    """Something that the portal does for another thread.

    ``notify()`` is called on the portal's thread, once, when there is an outcome.
    """

    __slots__ = ("_loop", "_notify", "_unwanted", "_work", "outcome")

    def __init__(self, work: Work, notify: Callable[[], object], loop: Loop) -> None:
        self._work = work
        self._notify = notify
        self._loop = loop
        self._unwanted = False
        self.outcome: asyncio.Future[Any] | None = None

    def begin(self, calls: set[Call]) -> None:
        """Start, on the portal's loop; the call is one of ``calls`` until its end."""
        self.outcome = self._started()

        def ended(outcome: asyncio.Future[Any]) -> None:
            calls.discard(self)
            if not outcome.cancelled():
                outcome.exception()  # Nobody may be left to look at it.
            self._notify()

        self.outcome.add_done_callback(ended)

    def _started(self) -> asyncio.Future[Any]:
        failed = self._loop.create_future()
        if self._unwanted:
            failed.cancel()
            return failed
        try:
            doing = self._work()
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the caller's)
            failed.set_exception(error)
            return failed
        # A single command is a future already, and needs no task around it.
        if isinstance(doing, asyncio.Future):
            return doing
        return self._loop.create_task(doing, name="channels_redis call")

    @property
    def done(self) -> bool:
        """Whether there is an outcome."""
        return self.outcome is not None and self.outcome.done()

    def result(self) -> Any:
        """Return or raise what the work did, once it is done."""
        if not self.done or self.outcome is None or self.outcome.cancelled():
            raise ConnectionLost(
                "The channel layer's background thread ended during the call; it may have run.",
                maybe_executed=True,
            )
        return self.outcome.result()

    def cancel(self) -> None:
        """Ask for no outcome any more, from whatever thread."""
        self._unwanted = True
        with contextlib.suppress(RuntimeError):  # The loop has ended, and the call with it.
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self.outcome is not None:
            self.outcome.cancel()

    def give_up(self) -> None:
        """Tell the caller that the portal has ended."""
        self._notify()


def out_of_time(limit_s: float) -> ConnectionLost:
    """Return the error for a call that did not end in time."""
    text = f"The call did not end within {limit_s:g} s; it may have run."
    return ConnectionLost(text, maybe_executed=True)


class Portal:
    """Does work for other threads."""

    def __init__(self) -> None:
        # Reentrant, as signal handlers and finalizers may send too.
        self._lock = threading.RLock()
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        self._guests: weakref.WeakSet[Guest] = weakref.WeakSet()
        self._calls: set[Call] = set()
        self._context = contextvars.Context()

    def serves(self, loop: Loop) -> bool:
        """Tell whether a loop was made by ``async_to_sync`` for one call."""
        # asgiref's own registry of these loops; without it they are served like others.
        return loop in getattr(AsyncToSync, "loop_thread_executors", ())

    def is_portal(self, loop: Loop) -> bool:
        """Tell whether a loop is the portal's own."""
        return loop is self._loop

    def call_soon(self, callback: Callable[[Loop], object]) -> None:
        """Call something with the portal's loop, on it."""
        with self._lock:
            loop = self._running_loop()
            loop.call_soon_threadsafe(callback, loop, context=self._context)

    def submit(self, work: Work, notify: Callable[[], object]) -> Call:
        """Have work done on the portal's loop; ``notify`` is called on its thread at the end."""
        # Under the lock, stop() comes before it or after it, and no call is left in between.
        with self._lock:
            loop, calls = self._running_loop(), self._calls
            call = Call(work, notify, loop)
            calls.add(call)
            loop.call_soon_threadsafe(call.begin, calls, context=self._context)
        return call

    async def run(self, work: Work, loop: Loop) -> Any:
        """Have work done on the portal's loop; await its end on ``loop``, the running one."""
        ended = loop.create_future()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # Closed, and nobody waits any more.
                loop.call_soon_threadsafe(_release, ended)

        call = self.submit(work, notify)
        try:
            await ended
        except asyncio.CancelledError:
            call.cancel()
            raise
        return call.result()

    def wait(self, work: Work, limit: Limit) -> Any:
        """Have work done on the portal's loop; block this thread until its end.

        Raises :class:`ConnectionLost` when the limit is reached.
        """
        if limit.left_s() <= 0:
            raise out_of_time(limit.limit_s)  # Of the parts of a call, no further one is begun.
        ended = threading.Lock()
        ended.acquire()
        call = self.submit(work, ended.release)
        try:
            in_time = ended.acquire(timeout=limit.left_s())
        except BaseException:  # Ctrl-C
            call.cancel()
            raise
        if not in_time and not call.done:
            call.cancel()
            raise out_of_time(limit.limit_s)
        return call.result()

    def pause(self) -> None:
        """Stop if nobody uses the portal right now; the next call starts it again."""
        if not self._calls and not any(guest.receiving for guest in list(self._guests)):
            self.stop()

    def retire_guests(self) -> None:
        """Have all end who live here and are not in use; the next call starts them again."""
        with self._lock:
            for guest in list(self._guests) if self._loop is not None else ():
                self.submit(guest.retire, lambda: None)

    def host(self, guest: Guest) -> None:
        """Note who lives on the portal's loop."""
        self._guests.add(guest)

    def reset(self) -> object:
        """Forget everything, as a forked child must; return what must stay alive."""
        inherited = dict(self.__dict__)
        self.__init__()  # type: ignore[misc]  # the one object that all modules hold
        return inherited

    def stop(self) -> None:
        """Let calls under way end within :data:`EXIT_S`, then end loop and thread."""
        with self._lock:
            if self._thread is threading.current_thread():
                return
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
            self._calls = set()
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=2 * EXIT_S)

    def _running_loop(self) -> Loop:
        if self._loop is not None:
            return self._loop
        self._loop = asyncio.new_event_loop()
        # What callers have in their context variables must not live on in our tasks.  A new one,
        # as the last loop may still be ending, and two threads can't be in one context at once.
        self._context = contextvars.Context()
        self._thread = threading.Thread(
            target=_serve, args=(self._loop, self._calls), name="channels_redis portal", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:  # too late in the interpreter's exit
            self._loop.close()
            self._loop = self._thread = None
            raise LayerClosed(
                f"The call needs a thread, and none can be started: {error}"
            ) from None
        return self._loop


def _serve(loop: Loop, calls: set[Call]) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(_finish(calls))
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
        for call in tuple(calls):
            call.give_up()


async def _finish(calls: set[Call]) -> None:
    under_way = [call.outcome for call in calls if call.outcome is not None]
    if under_way:
        _, late = await asyncio.wait(under_way, timeout=EXIT_S)
        if late:
            logger.warning("Gave up calls that did not end within %g s: %s", EXIT_S, len(late))


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _setting_changed(*, setting: str, **_: Any) -> None:
    # The layers of the old settings are thrown away unclosed; here they would live on.
    if setting == "CHANNEL_LAYERS":
        portal.retire_guests()


portal = Portal()

atexit.register(portal.stop)
setting_changed.connect(_setting_changed)
