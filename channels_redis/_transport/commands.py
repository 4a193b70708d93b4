"""Commands that are sent to a server, and the replies that mean that one was not executed."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Protocol, TypeGuard

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

#: Replies which say that the command did not run, and may run elsewhere or later.
REFUSALS = (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    ReadOnlyError,
    TryAgainError,
)
#: The same where redis-py has no class of errors for it, and leaves the code in the text.
_REFUSAL_CODES = ("BUSY", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS", "TRYAGAIN")

#: What a cluster says of a key that is not here, by the code in front of it.
_CLASSES = {
    "MOVED": MovedError,
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "TRYAGAIN": TryAgainError,
}

#: What a command takes in memory besides its bytes, about.
_OVERHEAD_BYTES = 1024


class Command:
    """A packed command and the future of its reply.

    In a cluster it knows its slot, and how often it was sent elsewhere.
    """

    __slots__ = (
        "asked_at",
        "data",
        "future",
        "hops",
        "may_have_run",
        "repeatable",
        "slot",
        "written_at",
    )

    def __init__(
        self,
        data: bytes,
        future: asyncio.Future[Any],
        now: float,
        repeatable: bool,
        slot: int | None = None,
    ) -> None:
        self.data = data
        self.future = future
        self.asked_at = now
        self.written_at = now
        self.repeatable = repeatable
        self.slot = slot
        self.hops = 0
        #: Whether it was written to a connection that was lost before the reply came.
        self.may_have_run = False

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.data) + _OVERHEAD_BYTES

    def fail(self, error: Exception) -> None:
        """Raise in the caller, unless it has gone."""
        if not self.future.done():
            self.future.set_exception(error)


class Commands(Protocol):
    """What sends commands about one key: to its server, wherever that is."""

    # For :mod:`.scripts`: what was sent to this server, and whether it forbids EVALSHA.
    @property
    def loaded(self) -> set[Any]: ...
    @property
    def hash_forbidden(self) -> bool: ...
    @hash_forbidden.setter
    def hash_forbidden(self, forbidden: bool) -> None: ...

    def call(self, data: bytes, repeatable: bool = False) -> asyncio.Future[Any]:
        """Queue one packed command; return the future of its reply."""
        ...

    def push(self) -> None:
        """Write what is queued, not only at the end of the tick, if nothing is on its way.

        Whoever waits for its replies alone gains a turn of the event loop.
        """


def recognised(reply: Exception) -> Exception:
    """Return a reply of a cluster in its own class, which some redis-py use in one client only."""
    code, _, details = str(reply).partition(" ")
    if type(reply) is ResponseError and code in _CLASSES:
        return _CLASSES[code](details)
    return reply


def is_ask(reply: Exception | None) -> TypeGuard[AskError]:
    """Return whether a reply names the server that a key is on its way to, for this once."""
    return isinstance(reply, AskError) and not isinstance(reply, MovedError)


def is_refusal(reply: Exception) -> bool:
    """Return whether a reply says that the command did not run, and may run elsewhere or later."""
    return isinstance(reply, REFUSALS) or str(reply).startswith(_REFUSAL_CODES)


def refused_command(reply: BaseException) -> str | None:
    """Return the command, in lower case, that a server refuses to this user or, as it was renamed
    away, to everybody; None for any other reply.
    """
    text = str(reply)
    is_unknown = isinstance(reply, ResponseError) and text.lower().startswith("unknown command")
    if not is_unknown and not isinstance(reply, NoPermissionError):
        return None
    # In quotation marks, and before Redis 7.0 in others.
    found = re.search(r"['`](\w+)", text)
    return found[1].lower() if found else None
