"""The clocks of the layers, which are not affected by tests that freeze or move the time.

freezegun replaces the functions of :mod:`time` and so also stops the clock of asyncio's loops;
time-machine changes ``time.time`` and ``CLOCK_REALTIME``. Other processes and the server are not
affected, so times that are compared with theirs must be real here, too. A loop whose clock is
stopped fires no timers, so receiving must not depend on one.
"""

from __future__ import annotations

import contextlib
import sys
import time
from functools import partial

if sys.platform == "win32":
    monotonic = time.monotonic
    _unix_time = time.time
else:
    #: Seconds on a clock that never goes back, from an arbitrary start.
    monotonic = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    _unix_time = partial(time.clock_gettime, time.CLOCK_REALTIME)


def unix_time() -> float:
    """Return seconds since 1970."""
    # Asked at each call, as it replaces C functions in place, also for those who kept a reference.
    time_machine = sys.modules.get("time_machine")
    if time_machine is not None:
        with contextlib.suppress(AttributeError, ValueError):  # too old, or it moves no time now
            return float(time_machine.escape_hatch.time.time())
    return _unix_time()
