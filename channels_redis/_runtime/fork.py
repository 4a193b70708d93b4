"""Forking: a child shares nothing with its parent but the settings.

A forked child inherits sockets, event loops and locks that the parent goes on using.  Closing
an inherited transport would make the parent deaf (epoll is shared), so /dev/null is put over
the descriptors instead, and everything is made afresh on first use.  Nothing of the parent's
is freed, as finalizers would touch it.

Python's hooks tell of forks by ``os.fork()``.  Programs that embed Python fork by themselves, as
uWSGI does; so the process id is looked at whenever something is about to be used.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any, Protocol

from .native import RLock


class Forkable(Protocol):
    """What has to be made afresh in a child."""

    def _after_fork(self) -> Any:
        """Start afresh without touching what was inherited; return that."""


_watched: weakref.WeakSet[Any] = weakref.WeakSet()
_inherited: list[Any] = []
#: The process in which everything that is watched was made, or made afresh.
_pid = os.getpid()
#: By process id: what is here was locked by threads of another process, if at all.
_locks: dict[int, Any] = {}


def watch(one: Forkable) -> None:
    """Have something start afresh in every forked child."""
    _watched.add(one)


def check() -> None:
    """Start afresh if this process is a child, and Python has not been told of the fork."""
    if os.getpid() != _pid:
        _in_child()


def silence(descriptor: int) -> None:
    """Put /dev/null over an inherited descriptor: nothing is closed that the parent uses."""
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
