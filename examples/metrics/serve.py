"""Lets Prometheus find every process of a host: each serves its metrics on a free port, and writes
the address into a folder.

Copy it into your project beside ``prometheus.py``; see docs/observability.rst.
"""

import atexit
import json
import os
from pathlib import Path

from prometheus_client import start_http_server


def serve(folder, address="127.0.0.1", **labels):
    """Call this once per process, after it was forked.  ``folder`` is that of Prometheus'
    ``file_sd_configs``; it must exist, and be writable for this process.
    """
    folder, pid = Path(folder), os.getpid()
    _forget_killed(folder)
    server, _ = start_http_server(0, addr=address)
    entry = {
        "targets": [f"{address}:{server.server_port}"],
        "labels": {"process": str(pid), **labels},
    }
    target = folder / f"{pid}.json"
    # Prometheus must not read half a file.
    unfinished = target.with_suffix(".unfinished")
    unfinished.write_text(json.dumps([entry]))
    unfinished.replace(target)
    atexit.register(_end, target, pid)


def _end(target, pid):
    if os.getpid() == pid:  # Not in a child that was forked later.
        target.unlink(missing_ok=True)


def _forget_killed(folder):
    """Remove the files of processes that could not do it."""
    for target in folder.glob("*.json"):
        try:
            os.kill(int(target.stem), 0)
        except ProcessLookupError:
            target.unlink(missing_ok=True)
        except (PermissionError, ValueError):
            pass  # It belongs to another user, or is not one of these files.
