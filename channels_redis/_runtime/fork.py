"""Forking: a child process shares only the settings with its parent.

A forked child inherits sockets, event loops and locks that the parent goes on using.  Closing
an inherited transport would end receiving in the parent (epoll is shared), so /dev/null is put over
the descriptors instead, and everything is made afresh on first use.  Nothing of the parent's
is freed, as finalizers would touch it.

Python's hooks are called for forks by ``os.fork()``.  Programs that embed Python fork by
themselves, as uWSGI does, so the process id is checked at each use.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any, Protocol

from .native import RLock


class Forkable(Protocol):
    """State that has to be created anew in a child."""

    def _after_fork(self) -> Any:
        """Reset the state without using the inherited one; return the inherited one."""


_watched: weakref.WeakSet[Any] = weakref.WeakSet()
_inherited: list[Any] = []
#: The process in which the watched state was created or reset.
_pid = os.getpid()
#: By process id: what is here was locked by threads of another process, if at all.
_locks: dict[int, Any] = {}


def watch(one: Forkable) -> None:
    """Reset an object in every forked child."""
    _watched.add(one)


def check() -> None:
    """Reset the state if this process is a child of a fork without Python's fork hooks."""
    if os.getpid() != _pid:
        _in_child()


def silence(descriptor: int) -> None:
    """Replace an inherited descriptor with /dev/null, which does not affect the parent."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, descriptor)
        os.close(null)


def _in_child() -> None:
    global _pid  # noqa: PLW0603 (there is one process)
    pid = os.getpid()
    with _locks.setdefault(pid, RLock()):
        if _pid == pid:
            return
        for one in list(_watched):
            _inherited.append(one._after_fork())
        _pid = pid


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
