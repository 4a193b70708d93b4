"""What these tests and the processes that they start have in common."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

#: Quiet, but for what Python 3.12 and newer say about any fork of a process with threads.
STRICT = ("-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning")

# See forked.py.
CHILDREN = 8
GROUP = "everybody"
LAST = -1
WAYS = ("os.fork", "fork", "forkserver", "prefork pool")
# See hosted.py.
WORKERS = 3
JOBS = 30
BOUND_S = 40


def holdings() -> tuple[int, int]:
    """Return the numbers of open file descriptors and of threads of this process."""
    gc.collect()
    # asgiref drops the executor of each call, and does not wait for its thread to end.
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor-"):
            thread.join(timeout=1)
    listing = "/proc/self/fd" if Path("/proc/self/fd").exists() else "/dev/fd"
    return len(os.listdir(listing)), threading.active_count()
