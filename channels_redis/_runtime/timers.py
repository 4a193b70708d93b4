"""Timers: one that can be restarted, and one that limits the time of repeated work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from . import clock

Loop = asyncio.AbstractEventLoop


class Timer:
    """Calls ``callback`` once, ``delay_s`` seconds after the last :meth:`start`."""

    __slots__ = ("__weakref__", "_callback", "_handle", "_loop", "running")

    def __init__(self, loop: Loop, callback: Callable[..., object]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        #: Whether the callback will still be called.
        self.running = False

    def start(self, delay_s: float, *args: Any) -> None:
        """Call the callback with ``args`` after ``delay_s`` seconds; a start before is void."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(delay_s, self._fire, *args)
        self.running = True

    def cancel(self) -> None:
        """Call nothing until the next start."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self.running = False

    def _fire(self, *args: Any) -> None:
        # Before the callback, which may start it again.
        self._handle = None
        self.running = False
        self._callback(*args)


class Deadline:
    """Calls ``missed`` when something takes longer than ``limit_s`` seconds, for repeated work.

    The loop's timer is not restarted for each start: when it fires, it checks the present deadline.
    If the loop itself was blocked, replies may still be unread, so ``grace_s`` more seconds are
    given.

    Times are compared with the real clock: if a test freezes time, a loop's clock jumps, and all of
    its timers fire at once.
    """

    __slots__ = ("_due", "_grace_s", "_granted", "_limit_s", "_missed", "_timer")

    def __init__(
        self, loop: Loop, limit_s: float, missed: Callable[[], object], grace_s: float = 1.0
    ) -> None:
        self._limit_s = limit_s
        self._missed = missed
        self._grace_s = grace_s
        self._due: float | None = None
        self._granted = False
        self._timer = Timer(loop, self._check)

    def begin(self) -> None:
        """Note that the work starts now."""
        self._due = clock.monotonic() + self._limit_s
        self._granted = False
        if not self._timer.running:
            self._timer.start(self._limit_s)

    def end(self) -> None:
        """Note that the work has ended."""
        self._due = None

    def cancel(self) -> None:
        """Note that nothing will begin any more."""
        self._due = None
        self._timer.cancel()

    def _check(self) -> None:
        if self._due is None:
            return
        now = clock.monotonic()
        if now >= self._due:
            if self._granted or not self._grace_s:
                self._missed()
                return
            self._granted = True
            self._due = now + self._grace_s
        self._timer.start(self._due - now)
