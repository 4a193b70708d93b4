"""Commands that are sent to a server, their scripts, and what error replies mean."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any, Protocol, TypeGuard

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from ..exceptions import WrongKeyType
from .packing import pack

#: Error replies which say that the command was not executed, and may be sent again.
RETRYABLE = (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    ReadOnlyError,
    TryAgainError,
)
#: The same where redis-py has no class of errors for it, and leaves the code in the text.
_RETRYABLE_CODES = ("BUSY", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS", "TRYAGAIN")

#: What a cluster says of a key that is not here, by the code in front of it.
_CLASSES = {
    "MOVED": MovedError,
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "TRYAGAIN": TryAgainError,
}

Arg = bytes | str | int | float
"""An argument of a command."""

#: What a command takes in memory besides its bytes, about.
_OVERHEAD_BYTES = 1024


class Script:
    """A file of ``lua/``. Its calls are packed as EVALSHA, which is short."""

    def __init__(self, name: str) -> None:
        files = resources.files("channels_redis._transport")
        source = (files / "lua" / f"{name}.lua").read_bytes()
        self._sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
        self._by_hash = b"$7\r\nEVALSHA\r\n$40\r\n%s\r\n" % self._sha
        self._by_source = b"$4\r\nEVAL\r\n$%d\r\n%s\r\n" % (len(source), source)

    def call(
        self,
        commands: Commands,
        key: bytes | str,
        *args: Arg,
        repeatable: bool = False,
        keys: int = 1,
    ) -> asyncio.Future[Any]:
        """Queue a call of the script; return the future of its reply.

        ``keys`` is the number of its keys, all in one slot: ``key``, and the first of ``args``.
        """
        data = pack(b"EVALSHA", self._sha, keys, key, *args)
        return commands.call(data, repeatable, script=self, key=key)

    def packed(self, key: bytes | str, *args: Arg) -> bytes:
        """Return the packed EVALSHA."""
        return pack(b"EVALSHA", self._sha, 1, key, *args)

    def packed_for(self, keys: Sequence[bytes | str], *args: Arg) -> bytes:
        """The same for several keys of one slot."""
        return pack(b"EVALSHA", self._sha, len(keys), *keys, *args)

    def as_source(self, packed: bytes) -> bytes:
        """Return the same call as EVAL, which also loads the script."""
        return packed.replace(self._by_hash, self._by_source, 1)


class Command:
    """A packed command and the future of its reply.

    ``script`` is the script that it calls with EVALSHA, ``key`` the key for error texts. In a
    cluster it also has its slot, and the number of its redirections.
    """

    __slots__ = (
        "asked_at",
        "data",
        "future",
        "hops",
        "key",
        "may_have_run",
        "repeatable",
        "script",
        "size_bytes",
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
        *,
        script: Script | None = None,
        key: bytes | str | None = None,
    ) -> None:
        self.data = data
        #: The memory that it takes, about.
        self.size_bytes = len(data) + _OVERHEAD_BYTES
        self.future = future
        self.asked_at = now
        self.written_at = now
        self.repeatable = repeatable
        self.slot = slot
        self.script = script
        self.key = key
        self.hops = 0
        #: Whether it was written to a connection that was lost before the reply came.
        self.may_have_run = False

    def fail(self, error: Exception) -> None:
        """Raise an error in the caller, unless it has been cancelled."""
        if not self.future.done():
            self.future.set_exception(error)


class Commands(Protocol):
    """Sends commands about one key to its server."""

    def call(
        self,
        data: bytes,
        repeatable: bool = False,
        *,
        script: Script | None = None,
        key: bytes | str | None = None,
    ) -> asyncio.Future[Any]:
        """Queue one packed command; return the future of its reply."""
        ...

    def push(self) -> None:
        """Write queued commands at once if no other is in flight, not only at the end of the
        iteration.

        A caller that only waits for its replies saves an iteration of the event loop.
        """


def recognised(reply: Exception) -> Exception:
    """Return a cluster's error reply in its own class, which some versions of redis-py use in one
    client only.
    """
    code, _, details = str(reply).partition(" ")
    if type(reply) is ResponseError and code in _CLASSES:
        return _CLASSES[code](details)
    return reply


def is_ask(reply: Exception | None) -> TypeGuard[AskError]:
    """Return whether a reply is ASK: the server to which the key is being moved, for this command
    only.
    """
    return isinstance(reply, AskError) and not isinstance(reply, MovedError)


def is_retryable(reply: Exception) -> bool:
    """Return whether an error reply means that the command was not executed, and may be sent again,
    here or to another server.
    """
    return isinstance(reply, RETRYABLE) or str(reply).partition(" ")[0] in _RETRYABLE_CODES


def forbidden_command(reply: BaseException) -> str | None:
    """Return the name, in lower case, of a command that this user may not call, or that is unknown
    because it was renamed; None for any other reply.
    """
    text = str(reply)
    is_unknown = isinstance(reply, ResponseError) and text.lower().startswith("unknown command")
    if not is_unknown and not isinstance(reply, NoPermissionError):
        return None
    # In quotation marks, and before Redis 7.0 in others.
    found = re.search(r"['`](\w+)", text)
    return found[1].lower() if found else None


def is_hash_unusable(reply: BaseException) -> bool:
    """Return whether EVALSHA failed, so that EVAL should be tried: the script is unknown, or the
    user may not call EVALSHA.
    """
    return isinstance(reply, NoScriptError) or forbidden_command(reply) == "evalsha"


def error_for_key(error: Exception, key: bytes | str | None) -> Exception:
    """Return the error to raise for a key: :class:`WrongKeyType` if the key has another type."""
    if key is None or "WRONGTYPE" not in str(error):
        return error
    name = key.decode("utf-8", "replace") if isinstance(key, bytes) else key
    return WrongKeyType(
        f"The key {name!r} in Redis is not a sorted set. Delete it, and check "
        "that nothing else uses the prefix of the channel layer."
    )
