"""Database connections of Django that are looked after for many consumers together.

Channels closes connections that are old or broken before each message of each consumer, which
is a trip to another thread.  Here that trip is made when it is due, or would close something.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from weakref import WeakKeyDictionary

from asgiref.sync import SyncToAsync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections, connections

from .._runtime import clock
from .._runtime.loops import running_loop


class ConnectionCare:
    """The connections of the thread in which the consumers of one event loop use the ORM."""

    def __init__(self) -> None:
        self._known: list[Any] = []
        self._looked_at: float | None = None
        self._is_suspect = False
        self._looking: asyncio.Future[None] | None = None

    def suspect(self) -> None:
        """Have the connections looked at before the next message, as a handler has failed."""
        self._is_suspect = True

    def is_due(self, interval_s: float) -> bool:
        """Return whether to look at the connections before a message is handled."""
        if self._is_suspect or self._looked_at is None:
            return True
        if clock.monotonic() - self._looked_at >= interval_s:
            return True
        return any(map(_is_to_close, self._known))

    async def look(self) -> None:
        """Close what is old or broken, in the thread where it is used; one look serves all who
        ask for it meanwhile.
        """
        if self._looking is not None:
            await asyncio.shield(self._looking)
            if not self._is_suspect:
                return
        while self._looking is not None:
            await asyncio.shield(self._looking)
        self._looking = running_loop().create_future()
        self._is_suspect = False
        try:
            self._known = await sync_to_async(_close_old_connections)()
            self._looked_at = clock.monotonic()
        except BaseException:
            self._is_suspect = True
            raise
        finally:
            self._looking.set_result(None)
            self._looking = None


def _close_old_connections() -> list[Any]:
    close_old_connections()
    try:
        return list(connections.all())
    except ImproperlyConfigured:
        return list(connections.all(initialized_only=True))


def _is_to_close(connection: Any) -> bool:
    """Return whether Django would close a connection, from another thread; else have its health
    checked with the next query, as Django does between requests.
    """
    if connection.connection is None or connection.in_atomic_block:
        return False
    if connection.errors_occurred:
        return True
    # Django's clock, which users' tests may move.
    if connection.close_at is not None and time.monotonic() >= connection.close_at:
        return True
    connection.health_check_done = False
    return False


_cares: WeakKeyDictionary[Any, ConnectionCare] = WeakKeyDictionary()


def care() -> ConnectionCare:
    """Return that of the running task's thread for the ORM, as asgiref chooses it."""
    place: Any = SyncToAsync.thread_sensitive_context.get(None) or running_loop()
    found = _cares.get(place)
    if found is None:
        found = _cares[place] = ConnectionCare()
    return found
