"""Forking: a child shares nothing with its parent but the settings.

A forked child inherits sockets, event loops and locks that the parent goes on using.  Closing
an inherited transport would make the parent deaf (epoll is shared), so /dev/null is put over
the descriptors instead, and everything is made afresh on first use.  Nothing of the parent's
is freed, as finalizers would touch it.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any, Protocol

from ._portal import portal


class Forkable(Protocol):
    """What has to be made afresh in a child."""

    def _after_fork(self) -> Any:
        """Start afresh without touching what was inherited; return that."""


_watched: weakref.WeakSet[Any] = weakref.WeakSet()
_inherited: list[Any] = []


def watch(layer: Forkable) -> None:
    """Have a layer start afresh in every forked child."""
    _watched.add(layer)


def silence(descriptor: int) -> None:
    """Put /dev/null over an inherited descriptor: nothing is closed that the parent uses."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, descriptor)
        os.close(null)


def _before() -> None:
    # Python warns about forking with threads; an idle portal is started again when needed.
    portal.pause()


def _in_child() -> None:
    _inherited.append(portal.reset())
    for layer in list(_watched):
        _inherited.append(layer._after_fork())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)
