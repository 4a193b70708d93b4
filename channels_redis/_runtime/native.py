"""Threads, locks and event loops of the operating system, even if Python's own are replaced.

gevent and eventlet replace threads by greenlets, which share one thread of the operating system.
For Python an event loop in one greenlet runs in all of them, and a lock for greenlets does not
keep two threads apart.  So what works beside the callers is made of the originals; only the
callers wait as greenlets do.  Neither library is imported here: where one is loaded, it is asked
for what it has replaced.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import functools
import importlib.util
import os
import select
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from types import ModuleType, TracebackType
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


def greenlets() -> bool:
    """Return whether threads are greenlets in this process."""
    gevent: Any = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return True
    eventlet: Any = sys.modules.get("eventlet.patcher")
    return eventlet is not None and bool(eventlet.is_monkey_patched("thread"))


def _original(module: ModuleType, name: str) -> Any:
    """Return the original attribute of a module of the standard library."""
    gevent: Any = sys.modules.get("gevent.monkey")
    eventlet: Any = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return getattr(eventlet.original(module.__name__), name)
    return getattr(module, name) if gevent is None else gevent.get_original(module.__name__, name)


def _selector() -> selectors.BaseSelector:
    if "eventlet.patcher" not in sys.modules or not greenlets():
        selector: selectors.BaseSelector = _original(selectors, "DefaultSelector")()
        return selector
    # eventlet keeps no selectors: load the module again, with the original ``select``.
    eventlet: Any = sys.modules["eventlet.patcher"]
    spec = importlib.util.find_spec("selectors")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["select"] = eventlet.original("select")
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules["select"] = select
    made: selectors.BaseSelector = module.DefaultSelector()
    return made


# Looked up once: these names keep the originals, even if they are replaced later.
get_ident: Callable[[], int] = _original(_thread, "get_ident")
_start_new_thread: Callable[..., int] = _original(_thread, "start_new_thread")
#: As ``threading.Lock`` and ``threading.RLock``.  Nothing that lets other greenlets run may be
#: done while one is held: greenlets of one thread are not kept apart, or wait for ever.
Lock: Callable[[], threading.Lock] = _original(_thread, "allocate_lock")
RLock: Callable[[], threading.RLock] = _original(_thread, "RLock")
#: Blocks the thread, with all of its greenlets.
sleep: Callable[[float], None] = _original(time, "sleep")


class Thread(Protocol):
    """A running thread."""

    def join(self, timeout: float | None = None) -> None:
        """Block until the thread has ended, for at most ``timeout`` seconds."""


class _BareThread:
    """A thread that is unknown to ``threading``, for programs in which that uses greenlets."""

    def __init__(self, target: Callable[[], object]) -> None:
        self._ended = Lock()
        self._ended.acquire()
        self._target = target
        _start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            self._target()
        finally:
            gevent: Any = sys.modules.get("gevent")
            if gevent is not None:
                # Every thread that has created a socket has a hub with its own descriptors.
                gevent.get_hub().destroy(destroy_loop=True)
            self._ended.release()

    def join(self, timeout: float | None = None) -> None:
        if self._ended.acquire(timeout=-1 if timeout is None else timeout):
            self._ended.release()


def start_thread(target: Callable[[], object], name: str) -> Thread:
    """Start a daemon thread of the operating system; RuntimeError if this is not possible."""
    if greenlets():
        return _BareThread(target)
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


class Signal:
    """An event that any thread can set once; waiting for it blocks no other greenlet."""

    def __init__(self) -> None:
        self._given = Lock()
        self._given.acquire()

    def give(self) -> None:
        """End the wait."""
        self._given.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait; return whether the signal was set in time."""
        return self._given.acquire(timeout=timeout_s)

    def __enter__(self) -> Signal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Note that the wait has ended."""


class _PipedSignal(Signal):
    """The same for a greenlet: ``select`` lets others run, and any thread can write to a pipe."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()
        self._reading, self._writing = os.pipe()
        self._open = True

    def give(self) -> None:
        # The number of a closed pipe may belong to another file by now.
        with self._lock:
            if self._open:
                os.write(self._writing, b"\0")

    def wait(self, timeout_s: float) -> bool:
        return bool(select.select([self._reading], [], [], timeout_s)[0])

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._open = False
            os.close(self._reading)
            os.close(self._writing)


def signal() -> Signal:
    """Return a signal for the calling thread, or greenlet."""
    return _PipedSignal() if greenlets() else Signal()


class _Loop(asyncio.SelectorEventLoop):
    """An event loop in a thread of the operating system, among greenlets."""

    def __init__(self) -> None:
        super().__init__(_selector())

    # mypy requires a TypeVarTuple, which is new in Python 3.11.
    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run a function in a thread: Python's executors would use greenlets of this thread."""
        if executor is not None:
            return super().run_in_executor(executor, func, *args)
        outcome: asyncio.Future[T] = self.create_future()

        def settle(resolve: Callable[[Any], None], value: Any) -> None:
            if not outcome.done():
                resolve(value)

        def work() -> None:
            settled: tuple[Callable[[Any], None], Any]
            try:
                settled = (outcome.set_result, func(*args))
            except BaseException as error:  # noqa: BLE001 (it is the caller's)
                settled = (outcome.set_exception, error)
            with contextlib.suppress(RuntimeError):  # Closed meanwhile.
                self.call_soon_threadsafe(settle, *settled)

        start_thread(work, "channels_redis executor")
        return outcome

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        """Look up a name without the greenlets' resolver."""
        look_up = functools.partial(_original(socket, "getaddrinfo"), host, port, **options)
        return await self.run_in_executor(None, look_up)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that can run in a thread of :func:`start_thread`."""
    return _Loop() if greenlets() else asyncio.new_event_loop()
