"""A background thread with a long-lived event loop, for callers without one.

There is one portal per process, started when first needed.  It is used by ``layer.sync``, and for
calls on loops that ``async_to_sync`` creates for a single call, where each connection would be
closed after one command.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import logging
import os
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from asgiref.sync import AsyncToSync
from django.core.signals import setting_changed

from ..exceptions import ConnectionLost, LayerClosed
from . import clock, fork
from .native import RLock, Signal, get_ident, new_event_loop, signal, start_thread

Loop = asyncio.AbstractEventLoop
#: Called on the portal's loop; returns an awaitable for that loop.
Work = Callable[[], "Coroutine[Any, Any, Any] | asyncio.Future[Any]"]

#: Seconds that running calls get when the interpreter exits.
EXIT_S = 3.0

#: Seconds between two checks of whether the portal still runs, in waiting threads.
CHECK_S = 1.0

#: Seconds after which threads no longer wait for a portal that does not respond.
SILENT_S = 10.0

logger = logging.getLogger("channels_redis.sync")


class Guest(Protocol):
    """A layer's state on the portal's loop."""

    @property
    def receiving(self) -> bool:
        """Whether messages are received on this loop."""
        ...

    @property
    def closing(self) -> bool:
        """Whether it has ended, or is about to."""
        ...

    async def retire(self) -> None:
        """End, unless it is in use; called on the loop."""


class Resident(Protocol):
    """Whoever has work on the portal's loop even while nobody calls."""

    def restarted(self) -> None:
        """Return to the portal, if there is still something to do."""


class Limit:
    """How long a caller blocks: ``limit_s`` seconds from now, which may be infinite."""

    __slots__ = ("_until", "limit_s")

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._until = clock.monotonic() + limit_s

    def left_s(self) -> float:
        """Return the remaining seconds."""
        return max(0.0, self._until - clock.monotonic())


class Call:
    """A call that the portal runs for another thread.

    ``notify()`` is called once, on the portal's thread, when the call has ended.
    """

    __slots__ = ("_notify", "_run", "_unwanted", "_work", "outcome")

    def __init__(self, work: Work, notify: Callable[[], object], run: Run) -> None:
        self._work = work
        self._notify = notify
        self._run = run
        self._unwanted = False
        self.outcome: asyncio.Future[Any] | None = None

    def begin(self) -> None:
        """Start, on the portal's loop."""
        self.outcome = self._started()

        def ended(outcome: asyncio.Future[Any]) -> None:
            self._run.calls.discard(self)
            if not outcome.cancelled():
                outcome.exception()  # Nobody may be left to look at it.
            self._notify()

        self.outcome.add_done_callback(ended)

    def _started(self) -> asyncio.Future[Any]:
        failed = self._run.loop.create_future()
        if self._unwanted:
            failed.cancel()
            return failed
        try:
            doing = self._work()
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the caller's)
            failed.set_exception(error)
            return failed
        # A single command is already a future and needs no task.
        if isinstance(doing, asyncio.Future):
            return doing
        return self._run.loop.create_task(doing, name="channels_redis call")

    @property
    def done(self) -> bool:
        """Whether the call has ended."""
        return self.outcome is not None and self.outcome.done()

    def result(self) -> Any:
        """Return the result of the work, or raise its exception, after it has ended."""
        outcome = self.outcome
        if outcome is not None and outcome.done() and not outcome.cancelled():
            error = outcome.exception()
            # Exceptions that end a thread, such as SystemExit, must not end the caller's.
            if error is None or isinstance(error, Exception):
                return outcome.result()
        raise _lost("ended during the call")

    def check(self) -> None:
        """Raise :class:`ConnectionLost` if the portal does not respond."""
        self._run.check()

    def wait(self, ended: Signal, limit: Limit) -> None:
        """Block until ``ended`` is set, or until the limit is reached."""
        while not ended.wait(min(limit.left_s(), CHECK_S)) and not self.done:
            if limit.left_s() <= 0:
                raise out_of_time(limit.limit_s)
            self.check()

    def cancel(self) -> None:
        """Discard the result; may be called in any thread."""
        self._unwanted = True
        with contextlib.suppress(RuntimeError):  # The loop has ended, and the call with it.
            self._run.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self.outcome is not None:
            self.outcome.cancel()

    def give_up(self) -> None:
        """Resume the caller, because the portal has ended."""
        self._notify()


def _lost(what: str) -> ConnectionLost:
    text = f"The channel layer's background thread {what}; the call may have run."
    return ConnectionLost(text, maybe_executed=True)


def out_of_time(limit_s: float) -> ConnectionLost:
    """Return the error for a call that did not finish in time."""
    text = f"The call did not finish within {limit_s:g} s; it may have been executed."
    return ConnectionLost(text, maybe_executed=True)


class Run:
    """A thread, its event loop, and its calls, from start to end."""

    def __init__(self, on_end: Callable[[Run], object]) -> None:
        """Start.  ``on_end`` is called on the thread when it accepts no more calls."""
        self.loop: Loop = new_event_loop()
        self.calls: set[Call] = set()
        self._on_end = on_end
        # What callers have in their context variables must not live on in our tasks.  A new one,
        # as the last loop may still be ending, and two threads can't be in one context at once.
        self._context = contextvars.Context()
        self._pid = os.getpid()
        self._ident: int | None = None
        self._asked_at: float | None = None
        try:
            self._thread = start_thread(self._serve, "channels_redis portal")
        except RuntimeError as error:  # too late in the interpreter's exit
            self.loop.close()
            raise LayerClosed(
                f"The call needs a thread, but none can be started: {error}"
            ) from None

    @property
    def here(self) -> bool:
        """Whether the caller runs in this thread."""
        return self._ident == get_ident()

    def submit(self, work: Work, notify: Callable[[], object]) -> Call:
        """Run work on the loop."""
        call = Call(work, notify, self)
        self.calls.add(call)
        self.call_soon(call.begin)
        return call

    def call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call a function on the loop."""
        self.loop.call_soon_threadsafe(callback, *arguments, context=self._context)

    def check(self) -> None:
        """Ask for a sign of life; raise :class:`ConnectionLost` if one is owed for too long, or
        can't come, as the process was forked and has no such thread.
        """
        if self._pid != os.getpid():
            raise _lost("is not in this process, which was forked during the call")
        # Read once, as the answer may come meanwhile.
        asked_at = self._asked_at
        if asked_at is None:
            self._asked_at = clock.monotonic()
            with contextlib.suppress(RuntimeError):  # Closed; its callers get an error this moment.
                self.loop.call_soon_threadsafe(self._answer)
        elif clock.monotonic() - asked_at > SILENT_S:
            raise _lost(f"has been busy with something else for {SILENT_S:g} s")

    def _answer(self) -> None:
        self._asked_at = None

    def stop(self) -> None:
        """Let running calls finish within :data:`EXIT_S`, then end loop and thread."""
        with contextlib.suppress(RuntimeError):  # Closed.
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=2 * EXIT_S)

    def _serve(self) -> None:
        self._ident = get_ident()
        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            self._take_calls()
            loop.run_until_complete(_finish(self.calls))
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
            for call in tuple(self.calls):
                call.give_up()

    def _take_calls(self) -> None:
        try:
            self.loop.run_forever()
        except BaseException as error:  # noqa: BLE001 (SystemExit or KeyboardInterrupt)
            logger.error("The channel layer's background thread ended: %r", error)
        finally:
            self._on_end(self)


class Portal:
    """Runs work for other threads."""

    def __init__(self) -> None:
        # Reentrant, because signal handlers and finalizers may send, too.
        self._lock = RLock()
        self._run: Run | None = None
        self._guests: weakref.WeakSet[Guest] = weakref.WeakSet()
        self._residents: weakref.WeakSet[Resident] = weakref.WeakSet()
        self._paused = False

    def serves(self, loop: Loop) -> bool:
        """Return whether a loop was made by ``async_to_sync`` for one call."""
        # asgiref's own registry of these loops; without it they are treated like others.
        return loop in getattr(AsyncToSync, "loop_thread_executors", ())

    def is_portal(self, loop: Loop) -> bool:
        """Return whether a loop is the portal's own."""
        return self._run is not None and loop is self._run.loop

    def call_soon(self, callback: Callable[[Loop], object]) -> None:
        """Call a function with the portal's loop, on that loop."""
        with self._lock:
            run = self._running()
            run.call_soon(callback, run.loop)

    def submit(self, work: Work, notify: Callable[[], object]) -> Call:
        """Run work on the portal's loop; ``notify`` is called on its thread at the end."""
        # Under the lock, the end of a run comes before it or after it, and no call is left in
        # between.
        with self._lock:
            return self._running().submit(work, notify)

    async def run(self, work: Work, loop: Loop) -> Any:
        """Run work on the portal's loop; await its end on ``loop``, the running one."""
        ended = loop.create_future()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # Closed, and nobody waits any more.
                loop.call_soon_threadsafe(_release, ended)

        call = self.submit(work, notify)
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=CHECK_S)
                if not ended.done():
                    call.check()
        except BaseException:
            call.cancel()
            raise
        return call.result()

    def wait(self, work: Work, limit: Limit) -> Any:
        """Run work on the portal's loop; block this thread, or greenlet, until its end.

        Raises :class:`ConnectionLost` when the limit is reached, or the portal hangs.
        """
        if limit.left_s() <= 0:
            raise out_of_time(limit.limit_s)  # Of the parts of a call, no further one is begun.
        with signal() as ended:
            call = self.submit(work, ended.give)
            try:
                call.wait(ended, limit)
            except BaseException:  # Ctrl-C too
                call.cancel()
                raise
        return call.result()

    def restart_for(self, resident: Resident) -> None:
        """Tell one from now on that the portal was stopped for a fork."""
        self._residents.add(resident)

    def leave(self, resident: Resident, state: Guest | None) -> None:
        """Note that one has nothing more to do here, and end its state; stop if there is no other.

        The states of others are left alone: to close them might block the running loop for long.
        """
        self._residents.discard(resident)
        others = [guest for guest in list(self._guests) if guest is not state]
        if not self._residents and all(guest.closing for guest in others):
            self._stop_unused()
        elif state is not None and not state.closing and self._run is not None:
            self.submit(state.retire, lambda: None)

    def pause(self) -> None:
        """Stop if the portal is not in use; the next call starts it again."""
        self._paused = self._stop_unused()

    def _stop_unused(self) -> bool:
        run = self._run
        if run is None or run.calls or any(guest.receiving for guest in list(self._guests)):
            return False
        self.stop()
        return True

    def resume(self) -> None:
        """Start again after a fork, in the parent, if anybody has work that can't wait for a call:
        the code that forks may be all that runs.
        """
        if self._paused:
            self._paused = False
            for resident in list(self._residents):
                resident.restarted()

    def retire_guests(self) -> None:
        """End the unused states on the portal's loop; the next call starts them again."""
        with self._lock:
            for guest in list(self._guests) if self._run is not None else ():
                self.submit(guest.retire, lambda: None)

    def host(self, guest: Guest) -> None:
        """Note a state on the portal's loop."""
        self._guests.add(guest)

    def _after_fork(self) -> object:
        """Reset everything in a forked child; return the objects that must stay alive."""
        inherited = dict(self.__dict__)
        self.__init__()  # type: ignore[misc]  # the one object that all modules hold
        return inherited

    def stop(self) -> None:
        """Let running calls finish within :data:`EXIT_S`, then end loop and thread."""
        fork.check()
        with self._lock:
            run = self._run
            if run is None or run.here:
                return
            self._run = None
        run.stop()

    def _running(self) -> Run:
        if self._run is None:
            self._run = Run(self._ended)
        return self._run

    def _ended(self, run: Run) -> None:
        with self._lock:
            if self._run is run:
                self._run = None


async def _finish(calls: set[Call]) -> None:
    under_way = [call.outcome for call in calls if call.outcome is not None]
    if under_way:
        _, late = await asyncio.wait(under_way, timeout=EXIT_S)
        if late:
            logger.warning("Abandoned calls that did not finish within %g s: %s", EXIT_S, len(late))


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _setting_changed(*, setting: str, **_: Any) -> None:
    # Layers of the old settings are dropped without being closed; here they would stay open.
    if setting == "CHANNEL_LAYERS":
        portal.retire_guests()


portal = Portal()

fork.watch(portal)
if hasattr(os, "register_at_fork"):
    # Python warns when a process with threads forks; an idle portal is started again when needed.
    os.register_at_fork(before=portal.pause, after_in_parent=portal.resume)
atexit.register(portal.stop)
setting_changed.connect(_setting_changed)
