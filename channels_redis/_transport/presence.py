"""The commands of presence: scripts on the hash of a group, and the set of groups of a process."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from .._config.presence import PresenceOptions
from .._runtime.clock import unix_time
from .commands import Arg, Commands, Script
from .packing import pack

_JOIN = Script("presence_join")
_LEAVE = Script("presence_leave")
_ANNOUNCE = Script("presence_announce")

#: A leave that was taken to be announced and was not removed is taken again after this time.
AGAIN_S = 10


class Writing(NamedTuple):
    """What is the same for all members of a group in this process."""

    process: str
    expiry_s: float
    options: PresenceOptions


class Changes(NamedTuple):
    """The persons who have joined, and those who will have left when the grace is over."""

    joined: list[str]
    leaving: list[str]


NO_CHANGES = Changes([], [])


def _texts(persons: list[bytes]) -> list[str]:
    return [person.decode() for person in persons]


async def _run(commands: Commands, script: Script, keys: list[bytes], *args: Arg) -> Any:
    first, *more = keys
    reply = script.call(commands, first, *more, *args, repeatable=True, keys=len(keys))
    commands.push()
    return await reply


async def join(
    commands: Commands,
    keys: list[bytes],
    writing: Writing,
    members: Iterable[tuple[float, str, str, bytes]],
) -> Changes:
    """Write members: seconds since joining, channel, person, and info; may be repeated.

    ``keys`` are the hash of the group, and on core its sorted set.
    """
    options = writing.options
    args: list[Arg] = [writing.expiry_s, unix_time(), writing.process]
    args += [int(options.events), options.grace_s]
    for age_s, channel, person, info in members:
        args += [channel, person, age_s, info]
    joined, leaving = await _run(commands, _JOIN, keys, *args)
    return Changes(_texts(joined), _texts(leaving))


async def leave(
    commands: Commands,
    keys: list[bytes],
    options: PresenceOptions,
    gone: Iterable[tuple[str, bytes]],
) -> list[str]:
    """Remove channels, each with the value that was read, or with ``b""`` in any case; may be
    repeated.  Returns the persons who will have left when the grace is over.
    """
    args: list[Arg] = [unix_time(), int(options.events), options.grace_s]
    for pair in gone:
        args += pair
    return _texts(await _run(commands, _LEAVE, keys, *args))


async def take_leaves(
    commands: Commands, key: bytes, persons: Iterable[str]
) -> list[tuple[str, str, bytes]]:
    """Return the leaves to announce now, of these persons: person, time of leaving, and info."""
    args: list[Arg] = [unix_time(), AGAIN_S]
    for person in persons:
        args += [person, ""]
    flat = await _run(commands, _ANNOUNCE, [key], *args)
    leaves = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
    return [(person.decode(), left_s.decode(), info) for person, left_s, info in leaves]


async def end_leave(commands: Commands, key: bytes, person: str, left_s: str) -> None:
    """Remove a leave that was announced; may be repeated."""
    await _run(commands, _ANNOUNCE, [key], unix_time(), AGAIN_S, person, left_s)


async def read(commands: Commands, key: bytes) -> list[bytes]:
    """Return the hash of a group, as fields and values in turn."""
    found = await commands.call(pack(b"HGETALL", key), True)
    if isinstance(found, dict):  # RESP3
        return [part for pair in found.items() for part in pair]
    flat: list[bytes] = found
    return flat


async def hold(commands: Commands, held: str, group: str) -> None:
    """Add a group to those that a process holds."""
    await commands.call(pack(b"SADD", held, group), True)


async def keep(commands: Commands, key: bytes | str, expiry_s: float) -> None:
    """Let a key expire after ``expiry_s`` seconds from now."""
    await commands.call(pack(b"EXPIRE", key, math.ceil(expiry_s)), True)


async def release(commands: Commands, held: str, groups: Iterable[str]) -> None:
    """Remove groups from those that a process holds."""
    await commands.call(pack(b"SREM", held, *groups), True)


async def held_groups(commands: Commands, held: str) -> list[str]:
    """Return the groups that a process holds."""
    return [name.decode() for name in await commands.call(pack(b"SMEMBERS", held), True)]


async def claim(commands: Commands, cleaner: str, process: str, limit_s: int) -> bool:
    """Claim to clean up after a dead process for ``limit_s`` seconds; return whether nobody else
    does.
    """
    claiming = pack(b"SET", cleaner, process, b"NX", b"EX", limit_s)
    return await commands.call(claiming) is not None
