"""Finds loops that do not respond, because synchronous code blocks them.

Such a loop counts as running.  What it reads would not come to consumers on other loops either.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from weakref import WeakKeyDictionary, ref

from .._runtime.weakly import weakly
from .waiters import Loop

#: Seconds between two checks.
ASK_S = 0.3
#: After this many checks without a response, a loop is silent.  They are counted, not timed: the
#: loop that checks may have been delayed as well, as in a process that was stopped.
UNANSWERED = 4


class SilenceWatch:
    """Asks from ``loop``, the running one, whether other loops answer.

    ``others(loop)`` returns the loops to ask; where there are none, the watch ends.
    ``silent(loop, those)`` is called with those that have not answered.  Timers and other loops
    refer to a watch weakly: it ends when its owner is freed.
    """

    def __init__(
        self,
        loop: Loop,
        others: Callable[[Loop], set[Loop]],
        silent: Callable[[Loop, set[Loop]], None],
    ) -> None:
        self._loop = ref(loop)
        self._others = others
        self._silent = silent
        self._unanswered: WeakKeyDictionary[Loop, int] = WeakKeyDictionary()

    def ask(self) -> None:
        """Ask all, and again after a while."""
        loop = self._loop()
        others = self._others(loop) if loop is not None else None
        if loop is None or not others:
            return
        quiet = {one for one in others if self._unanswered.get(one, 0) >= UNANSWERED}
        for other in others - quiet:
            self._unanswered[other] = self._unanswered.get(other, 0) + 1
            with contextlib.suppress(RuntimeError):  # Closed this moment: its end is noted.
                other.call_soon_threadsafe(weakly(self._answered, None), ref(other))
        if quiet:
            for other in quiet:
                del self._unanswered[other]
            self._silent(loop, quiet)
        loop.call_later(ASK_S, weakly(self.ask, None))

    def _answered(self, other: ref[Loop]) -> None:
        loop = other()
        if loop is not None:
            self._unanswered[loop] = 0
