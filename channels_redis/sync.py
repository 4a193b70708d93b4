"""The blocking face of a layer, for code without an event loop: ``layer.sync.send(...)``.

For WSGI views, signal handlers, Celery tasks, management commands and scripts.  Each call is
one hop to the portal's event loop, which keeps its connections; messages are serialized in the
calling thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from ._loops import running_loop_or_none
from ._steps import Steps, run_blocking
from .exceptions import LoopRunning

if TYPE_CHECKING:
    from ._base import BaseRedisLayer


T = TypeVar("T")


class SyncFace:
    """The methods of a channel layer that make sense without an event loop, blocking.

    They raise what the coroutines of the same names raise; :class:`LoopRunning` on a thread
    that runs an event loop, which they would block; and :class:`ConnectionLost` when a call
    does not end within ``timeout_s`` seconds.  Without ``timeout_s`` the options
    ``connect_wait_s`` and ``command_timeout_s`` bound each command.
    """

    __slots__ = ("_layer",)

    def __init__(self, layer: BaseRedisLayer) -> None:
        self._layer = layer

    def send(
        self, channel: str, message: dict[str, Any], *, timeout_s: float | None = None
    ) -> None:
        """Send a message to one channel."""
        self._run("send", self._layer._send_steps(channel, message), timeout_s)

    def group_send(
        self,
        group: str,
        message: dict[str, Any],
        *,
        exclude: Iterable[str] = (),
        timeout_s: float | None = None,
    ) -> None:
        """Send a message to every member of a group but the channels in ``exclude``."""
        steps = self._layer._group_send_steps(group, message, exclude)
        self._run("group_send", steps, timeout_s)

    def group_add(self, group: str, channel: str, *, timeout_s: float | None = None) -> None:
        """Add a channel to a group."""
        self._run("group_add", self._layer._group_add_steps(group, channel), timeout_s)

    def group_discard(self, group: str, channel: str, *, timeout_s: float | None = None) -> None:
        """Remove a channel from a group."""
        self._run("group_discard", self._layer._group_discard_steps(group, channel), timeout_s)

    def group_channels(self, group: str, *, timeout_s: float | None = None) -> list[str]:
        """Return the names of a group's members (core)."""
        return self._run("group_channels", self._layer._group_channels_steps(group), timeout_s)

    def group_size(self, group: str, *, timeout_s: float | None = None) -> int:
        """Return the number of a group's members (core)."""
        return self._run("group_size", self._layer._group_size_steps(group), timeout_s)

    def flush(self, *, timeout_s: float | None = None) -> None:
        """Do what the layer's ``flush()`` does."""
        self._run("flush", self._layer._flush_steps(), timeout_s)

    def close(self, *, timeout_s: float | None = None) -> None:
        """Do what the layer's ``close()`` does."""
        self._run("close", self._layer._close_steps(), timeout_s)

    def _run(self, operation: str, steps: Steps[T], timeout_s: float | None) -> T:
        if running_loop_or_none() is not None:
            raise LoopRunning(
                "An event loop runs in this thread, and layer.sync would block it: "
                "await the layer's own method instead."
            )
        with self._layer._timed(operation):
            return run_blocking(steps, self._layer._sessions, timeout_s)
