"""The Lua scripts, and one typed function per script.

Each runs as EVAL once on a connection and then as EVALSHA, which :mod:`.multiplexer` handles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

from .._runtime.clock import unix_time
from .._runtime.tasks import ignore
from .commands import Arg, Commands, Script
from .packing import pack

#: What :func:`send` returns: bits of an integer.
ADDED = 1
SENDER_CLOCK = 2

#: A batch of messages stops growing when it reaches this size, in bytes.
BATCH_BYTES = 256 * 1024


_SEND = Script("send")
_POP = Script("pop")
_PUT_BACK = Script("put_back")
_JOIN = Script("join")
_PRUNE = Script("prune")
_SIZE = Script("size")
_REJOIN = Script("rejoin")
_RENEW = Script("renew")
_REMOVE_DEAD = Script("remove_dead")


async def _run(commands: Commands, script: Script, key: bytes | str, *args: Arg) -> Any:
    """Run a script that may be repeated; it is written at once if no command is in flight."""
    reply = script.call(commands, key, *args, repeatable=True)
    commands.push()
    return await reply


class Bound(NamedTuple):
    """The limit of a queue: full at this number of messages, if they take about this number of
    bytes.
    """

    messages: int
    size_bytes: int = 0


def send(
    commands: Commands, queue: str, member: bytes, expiry_s: float, bound: Bound
) -> asyncio.Future[Any]:
    """Add a message to a queue; the result has bits :data:`ADDED` and :data:`SENDER_CLOCK`."""
    messages, size_bytes = bound
    return _SEND.call(commands, queue, member, expiry_s, messages, unix_time(), size_bytes)


def pop(queue: str, limit: int, expiry_s: float, *, by_hash: bool) -> bytes:
    """Return the packed command that takes up to ``limit`` messages from a queue.

    Its reply is ``[now_s, expired, member, score, ...]``.
    """
    packed = _POP.packed(queue, limit, BATCH_BYTES, expiry_s, unix_time())
    return packed if by_hash else _POP.as_source(packed)


def put_back(
    commands: Commands, queue: str, expiry_s: float, messages: Iterable[tuple[bytes, bytes]]
) -> asyncio.Future[Any]:
    """Put ``(member, score)`` pairs back into their queue.

    Always an EVAL: when a loop is about to end, there may be no time for a second attempt.
    """
    pairs = [part for member, score in messages for part in (score, member)]
    return commands.call(_PUT_BACK.as_source(_PUT_BACK.packed(queue, expiry_s, *pairs)))


async def join(commands: Commands, group: bytes, channel: str, group_expiry_s: float) -> None:
    """Add a channel to a group; may be repeated."""
    await _run(commands, _JOIN, group, channel, group_expiry_s, unix_time())


async def members(
    commands: Commands,
    group: bytes,
    group_expiry_s: float,
    before: asyncio.Future[Any] | None = None,
) -> list[bytes]:
    """Return the full names of the channels in a group, in the order of joining; may be repeated.

    They are listed with ZRANGE, after a script that removes expired ones, because a script takes
    seven times as long to return a long list. ``before`` is the reply to a command that was just
    called, and after which they have to be listed; its exceptions are raised.
    """
    pruned = _PRUNE.call(commands, group, group_expiry_s, unix_time(), repeatable=True)
    list_all = pack(b"ZRANGE", group, 0, -1)
    listed = commands.call(list_all, True)
    listed.add_done_callback(ignore)  # where the wait for the first one ends otherwise
    answered: list[asyncio.Future[Any]] = []
    first = [pruned] if before is None else [before, pruned]
    pruned.add_done_callback(ignore)
    for reply in (*first, listed):
        reply.add_done_callback(answered.append)
    commands.push()
    for reply in first:
        await reply
    if listed in answered[: len(first)]:
        # A script was refused at first, by a server that had forgotten it or is not the primary
        # any more: so the list was made before the script ran, and perhaps at another server.
        listed = commands.call(list_all, True)
    names: list[bytes] = await listed
    return names


async def size(commands: Commands, group: bytes, group_expiry_s: float) -> int:
    """Return the number of channels in a group; may be repeated."""
    return cast("int", await _run(commands, _SIZE, group, group_expiry_s, unix_time()))


async def leave(commands: Commands, group: bytes, *channels: str) -> None:
    """Remove channels from a group with ZREM; may be repeated."""
    await commands.call(pack(b"ZREM", group, *channels), True, key=group)


async def rejoin(
    commands: Commands,
    group: bytes,
    ages: Iterable[tuple[float, str]],
    group_expiry_s: float,
    precision_s: float,
) -> None:
    """Add channels to a group with an age in seconds, unless they are already members and their
    time of joining is not older by more than ``precision_s``; may be repeated.
    """
    args: list[Arg] = [group_expiry_s, unix_time(), precision_s]
    for pair in ages:
        args += pair
    await _run(commands, _REJOIN, group, *args)


class Renewal(NamedTuple):
    """What a server says of a lease and of other processes; times in unix seconds on its clock."""

    end_s: float
    known_end_s: float | None
    now_s: float
    #: The processes that were found dead.
    dead: list[str]


class Judgement(NamedTuple):
    """What a process asks about others; times in unix seconds on the server's clock."""

    #: When it asks, to find those dead whose leases have run out; 0 where it must not judge.
    asked_s: float = 0.0
    #: The time since which processes were found dead that it wants to know.
    since_s: float = 0.0


async def renew(
    commands: Commands,
    leases: str,
    process: str,
    lease_s: float,
    kept_s: float,
    judgement: Judgement,
) -> Renewal:
    """Extend the lease of a process by ``lease_s``, or leave it as it is for 0, and find dead
    processes.

    Never repeated: a repetition would return an end that the caller never got.
    """
    times = lease_s, kept_s, unix_time(), *judgement
    reply = _RENEW.call(commands, leases, process, *times)
    commands.push()
    end_s, known_s, now_s, *dead = await reply
    known_end_s = None if known_s is None else float(known_s)
    return Renewal(float(end_s), known_end_s, float(now_s), [name.decode() for name in dead])


async def members_with_times(commands: Commands, group: bytes) -> list[tuple[str, bytes]]:
    """Return the channels in a group with their times of joining, as the server has them."""
    flat = await commands.call(pack(b"ZRANGE", group, 0, -1, b"WITHSCORES"), True, key=group)
    names = [name.decode("utf-8", "replace") for name in flat[::2]]
    return list(zip(names, flat[1::2], strict=True))


async def remove_dead(commands: Commands, group: bytes, gone: list[tuple[str, bytes]]) -> None:
    """Remove channels that have not joined again since :func:`members_with_times`; may be
    repeated.
    """
    args = [part for name, joined_s in gone for part in (joined_s, name)]
    await _run(commands, _REMOVE_DEAD, group, *args)


def end_lease(commands: Commands, leases: str, process: str) -> asyncio.Future[Any]:
    """Delete the lease of a process with ZREM; may be repeated."""
    return commands.call(pack(b"ZREM", leases, process), True)
