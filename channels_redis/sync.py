"""The blocking methods of a layer, for code without an event loop: ``layer.sync.send(...)``.

For WSGI views, signal handlers, Celery tasks, management commands and scripts.  Each call is
passed to the portal's event loop, which keeps its connections; messages are serialized in the
calling thread.  If a subclass overrides an operation, its method is called.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from types import MethodType
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import BaseChannelLayer

from ._config.options import check_seconds
from ._runtime import fork
from ._runtime.loops import running_loop_or_none
from ._runtime.plans import Plan
from ._runtime.portal import out_of_time
from .exceptions import LoopRunning
from .history import History, Resumed
from .presence import Presence


class SyncFace:
    """The blocking methods of a channel layer.

    They raise the exceptions of the coroutines of the same names; :class:`LoopRunning` in a thread
    that runs an event loop, which they would block; and :class:`ConnectionLost` if a call does not
    finish within ``timeout_s`` seconds.  Without ``timeout_s`` each command is limited by the
    options ``connect_wait_s`` and ``command_timeout_s``.
    """

    __slots__ = ("_layer", "_prepare", "_run")

    def __init__(
        self,
        layer: BaseChannelLayer,
        prepare: Callable[..., Plan],
        run: Callable[..., Any],
    ) -> None:
        self._layer = layer
        #: ``prepare(name, ...)`` is the first part of an operation; ``run(name, timeout_s, ...)``
        #: does it all.
        self._prepare = prepare
        self._run = run

    def send(
        self, channel: str, message: dict[str, Any], *, timeout_s: float | None = None
    ) -> None:
        """Send a message to one channel."""
        self._call("send", timeout_s, channel, message)

    def group_send(
        self,
        group: str,
        message: dict[str, Any],
        *,
        exclude: Iterable[str] = (),
        timeout_s: float | None = None,
    ) -> None:
        """Send a message to every member of a group except the channels in ``exclude``."""
        # Methods of older subclasses may not accept this keyword.
        keywords = {} if exclude == () else {"exclude": exclude}
        self._call("group_send", timeout_s, group, message, **keywords)

    def group_send_on_commit(
        self,
        group: str,
        message: dict[str, Any],
        *,
        exclude: Iterable[str] = (),
        timeout_s: float | None = None,
        using: str | None = None,
        robust: bool = True,
    ) -> None:
        """Send to a group when the transaction of the database ``using`` is committed, with
        Django's ``transaction.on_commit()``: not at all if it is rolled back, and at once if there
        is no transaction.

        The message is checked and copied by this call, which raises :class:`InvalidMessage`,
        :class:`MessageTooLarge` and :class:`SerializationError`.  With ``robust``, an error while
        it is sent is logged by Django and not raised, because the transaction is committed.
        """
        _refuse_running_loop()
        # The caller may use up the iterable, or change the message, before the commit.
        excluded = tuple(exclude)
        self._prepare("group_send", group, message, excluded)
        when_committed(
            partial(
                self.group_send,
                group,
                copy.deepcopy(message),
                exclude=excluded,
                timeout_s=timeout_s,
            ),
            using=using,
            robust=robust,
        )

    def group_add(
        self,
        group: str,
        channel: str,
        *,
        since: str | None = None,
        formerly: Iterable[str] = (),
        presence: dict[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> Resumed | None:
        """Add a channel to a group, with what it has missed there since a position, and with
        what is said of it.
        """
        # Methods of older subclasses may not accept these keywords.
        keywords: dict[str, Any] = {} if since is None else {"since": since, "formerly": formerly}
        keywords |= {} if presence is None else {"presence": presence}
        resumed: Resumed | None = self._call("group_add", timeout_s, group, channel, **keywords)
        return resumed

    def group_presence(self, group: str, *, timeout_s: float | None = None) -> Presence:
        """Return who is in a group with presence."""
        presence: Presence = self._call("group_presence", timeout_s, group)
        return presence

    def group_history(
        self,
        group: str,
        *,
        since: str | None = None,
        limit: int | None = None,
        timeout_s: float | None = None,
    ) -> History:
        """Return the messages of a group that Redis still has."""
        history: History = self._call("group_history", timeout_s, group, since=since, limit=limit)
        return history

    def group_discard(self, group: str, channel: str, *, timeout_s: float | None = None) -> None:
        """Remove a channel from a group."""
        self._call("group_discard", timeout_s, group, channel)

    def group_channels(self, group: str, *, timeout_s: float | None = None) -> list[str]:
        """Return the names of a group's members (on pubsub: with presence)."""
        channels: list[str] = self._call("group_channels", timeout_s, group)
        return channels

    def group_size(self, group: str, *, timeout_s: float | None = None) -> int:
        """Return the number of a group's members (on pubsub: with presence)."""
        size: int = self._call("group_size", timeout_s, group)
        return size

    def flush(self, *, timeout_s: float | None = None) -> None:
        """Call the layer's ``flush()``."""
        self._call("flush", timeout_s)

    def close(self, *, timeout_s: float | None = None) -> None:
        """Call the layer's ``close()``."""
        self._call("close", timeout_s)

    def _call(self, name: str, timeout_s: float | None, *args: Any, **keywords: Any) -> Any:
        _refuse_running_loop()
        fork.check()
        method = getattr(self._layer, name)
        if not _is_ours(method):
            return _run_overriding(partial(method, *args, **keywords), timeout_s)
        return self._run(name, timeout_s, *args, **keywords)


def when_committed(send: Callable[[], None], *, using: str | None, robust: bool) -> None:
    """Call ``send`` when Django's current transaction is committed."""
    from django.db import (
        transaction,
    )  # Imported here, as many users of this module need no database.

    # A function, because Django logs its name, and a partial has none.
    def group_send_after_commit() -> None:
        send()

    transaction.on_commit(group_send_after_commit, using=using, robust=robust)


def _refuse_running_loop() -> None:
    if running_loop_or_none() is not None:
        raise LoopRunning(
            "An event loop runs in this thread, and layer.sync would block it: "
            "await the layer's own method instead."
        )


def _is_ours(method: Any) -> bool:
    """Return whether an operation is not overridden by a subclass or by instrumentation."""
    if type(method) is not MethodType:
        return False
    module = getattr(method.__func__, "__globals__", {}).get("__name__", "")
    return str(module).startswith("channels_redis.")


def _run_overriding(call: Callable[[], Awaitable[Any]], timeout_s: float | None) -> Any:
    """Run a coroutine of a subclass with the caller's context variables.  Its commands use the
    portal, as always on loops of ``async_to_sync``.
    """
    if timeout_s is None:
        return async_to_sync(call)()
    limit_s = check_seconds("timeout_s", timeout_s)

    async def in_time() -> Any:
        return await asyncio.wait_for(call(), limit_s)

    try:
        return async_to_sync(in_time)()
    except asyncio.TimeoutError:
        raise out_of_time(limit_s) from None
