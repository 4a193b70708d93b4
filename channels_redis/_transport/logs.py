"""The logs of groups with a history: appended to, and read, with one script each."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from redis.exceptions import ResponseError

from .._format.histories import Log
from .._format.positions import LOST_BREAK, NOWHERE, Entry, Past, Position, new_mark
from .._runtime.clock import unix_time
from .._runtime.tasks import ignore
from ..exceptions import ConnectionLost, WrongKeyType
from .commands import Commands, Script

T = TypeVar("T")
Reply = asyncio.Future[Any]
"""The reply to a command that was called."""

_LOG = Script("log")
_PAST = Script("past")
_MARK = re.compile(rb"[0-9a-f]{16}")


class Way(NamedTuple):
    """How a script publishes: with which command, and with which bytes in front."""

    command: str
    head: bytes = b""


PUBLISHED = Way("PUBLISH")
#: The script only appends: its caller delivers the message.
UNPUBLISHED = Way("")


class Append(NamedTuple):
    """A message, or a break, to be appended to a log."""

    log: Log
    payload: bytes
    #: What its sender knows of the log.
    known: Position = NOWHERE


def call(commands: Commands, new: Append, way: Way, mark: bytes, *, again: bool) -> Reply:
    """Call the script that appends and publishes, for an entry with a mark; ``again`` if the same
    call may have been executed before.
    """
    log, payload, known = new
    packed = _LOG.packed_for(
        (log.key, log.position_key),
        payload,
        mark,
        known.offset,
        known.mark,
        log.kept.size,
        log.kept.ttl_s,
        log.position_ttl_s,
        unix_time(),
        way.command,
        log.name,
        way.head,
        int(again),
    )
    return commands.call(packed, again, script=_LOG)


async def append(
    commands: Callable[[], Commands],
    new: Append,
    way: Way,
    then: Callable[[Reply], Awaitable[T]] | None = None,
) -> tuple[Position, T | None]:
    """Append to a log and publish; return the newest position then, and what ``then(reply)``
    returns, which may call more commands in the same turn and has to await the reply.

    If the reply is lost, the call is made once more, with the same mark, by which the script finds
    what it has appended before.  Raises :class:`ConnectionLost`, which may have been executed if
    the second reply is lost too, and :class:`WrongKeyType`.
    """
    mark, again = new_mark(), False
    while True:
        there = commands()
        reply = call(there, new, way, mark, again=again)
        result = None
        try:
            if then is not None:
                reply.add_done_callback(ignore)
                result = await then(reply)
            else:
                there.push()
            offset, its_mark = await reply
            return Position(int(offset), its_mark), result
        except ResponseError as error:
            raise _told(error, new.log) from None
        except ConnectionLost as error:
            if again:
                raise ConnectionLost(str(error), maybe_executed=True) from None
            if not _may_have_run(reply, error):
                raise
        again = True


def _may_have_run(reply: Reply, error: ConnectionLost) -> bool:
    """Return whether an append may have been executed, given what was raised after it."""
    if reply.done() and not reply.cancelled() and reply.exception() is None:
        return True
    return error.maybe_executed


async def past(commands: Commands, log: Log, offset: int, limit: int) -> Past:
    """Return the newest position of a group, and the newest ``limit`` entries of its log from an
    offset on; may be repeated.  Raises :class:`WrongKeyType`.
    """
    wanted = limit + 1 if limit else 0
    packed = _PAST.packed_for(
        (log.key, log.position_key),
        offset,
        wanted,
        new_mark(),
        log.position_ttl_s,
        unix_time(),
    )
    reply = commands.call(packed, True, script=_PAST)
    commands.push()
    try:
        top, mark, found = await reply
    except ResponseError as error:
        raise _told(error, log) from None
    entries = [_entry(*one) for one in reversed(found)]
    cut = bool(limit) and len(entries) > limit
    return Past(Position(int(top), mark), entries[-limit:] if limit else [], cut)


def _entry(identity: bytes, fields: list[bytes]) -> Entry:
    """Return an entry of a stream; one that this package has not written is a break, as what was
    in its place is lost.
    """
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    offset = int(identity.partition(b"-")[0])
    mark = named.get(b"m", b"")
    if not _MARK.fullmatch(mark) or not named.keys() >= {b"p", b"b"}:
        return Entry(Position(offset, b""), LOST_BREAK, b"")
    return Entry(Position(offset, mark), named[b"p"], named[b"b"])


def _told(error: ResponseError, log: Log) -> ResponseError:
    if "WRONGTYPE" not in str(error):
        return error
    return WrongKeyType(
        f"The key {log.key!r} in Redis is not a stream, or {log.position_key!r} is not a string. "
        "Delete it, and check that nothing else uses the prefix of the channel layer."
    )
