"""The Lua scripts, and one typed function per script.

Each runs as EVAL once on a connection and as EVALSHA from then on.  Where the server has
forgotten the script (NOSCRIPT) or may not be asked that way (NOPERM), the same command goes out
as EVAL: a refused EVALSHA did certainly not run.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Generator, Iterable
from importlib import resources
from typing import Any, NamedTuple, cast

from redis.exceptions import NoScriptError, ResponseError

from .._runtime.clock import unix_time
from .._runtime.tasks import ignore
from ..exceptions import WrongKeyType
from .commands import Commands, refused_command
from .packing import pack

Arg = bytes | str | int | float

#: What :func:`send` returns: bits of an integer.
ADDED = 1
SENDER_CLOCK = 2

#: A batch of messages stops growing when it reaches this size, in bytes.
BATCH_BYTES = 256 * 1024


class Script:
    """A file of ``lua/``."""

    def __init__(self, name: str) -> None:
        files = resources.files("channels_redis._transport")
        self._source = (files / "lua" / f"{name}.lua").read_bytes()
        self._sha = hashlib.sha1(self._source, usedforsecurity=False).hexdigest().encode()

    def by_hash(self, *args: Arg) -> bytes:
        """Return the packed EVALSHA; the first argument is the key."""
        return pack(b"EVALSHA", self._sha, 1, *args)

    def by_source(self, *args: Arg) -> bytes:
        """Return the packed EVAL; the first argument is the key."""
        return pack(b"EVAL", self._source, 1, *args)


_SEND = Script("send")
_POP = Script("pop")
_PUT_BACK = Script("put_back")
_JOIN = Script("join")
_PRUNE = Script("prune")
_SIZE = Script("size")
_REJOIN = Script("rejoin")
_RENEW = Script("renew")


def is_hash_refused(reply: BaseException) -> bool:
    """Return whether EVALSHA was refused, so that EVAL is worth a try."""
    return isinstance(reply, NoScriptError) or refused_command(reply) == "evalsha"


def told(error: Exception, key: bytes | str) -> Exception:
    """Return the error to raise for a key: :class:`WrongKeyType` for one of another type."""
    if "WRONGTYPE" not in str(error):
        return error
    name = key.decode("utf-8", "replace") if isinstance(key, bytes) else key
    return WrongKeyType(
        f"The key {name!r} in Redis is not a sorted set. Delete it, and check "
        "that nothing else uses the prefix of the channel layer."
    )


class Running:
    """A script on its way: issued when this is made, and awaited for its result."""

    __slots__ = ("_args", "_commands", "_repeatable", "_script", "future", "ran_late")

    def __init__(
        self, commands: Commands, script: Script, *args: Arg, repeatable: bool = False
    ) -> None:
        self._commands = commands
        self._script = script
        self._args = args
        self._repeatable = repeatable
        #: Whether it was refused at first, and ran behind what was asked for after it.
        self.ran_late = False
        form = script.by_source
        if script in commands.loaded and not commands.hash_forbidden:
            form = script.by_hash
        # Commands run in order, so those that follow may go by the hash from now on.
        commands.loaded.add(script)
        self.future = commands.call(form(*args), repeatable)

    def __await__(self) -> Generator[Any, None, Any]:
        self._commands.push()
        try:
            return (yield from self.future)
        except ResponseError as refusal:
            if not is_hash_refused(refusal):
                raise told(refusal, self._key) from None
            self._commands.hash_forbidden = not isinstance(refusal, NoScriptError)
        self.ran_late = True
        late = self._commands.call(self._script.by_source(*self._args), self._repeatable)
        try:
            return (yield from late)
        except ResponseError as error:
            raise told(error, self._key) from None

    @property
    def _key(self) -> bytes | str:
        return cast("bytes | str", self._args[0])

    def cancel(self) -> None:
        """Ask for no result any more; take the command back if it was not yet written."""
        if not self.future.get_loop().is_closed():
            self.future.cancel()


class Bound(NamedTuple):
    """A queue is full at so many messages, if they take so many bytes, about."""

    messages: int
    size_bytes: int = 0


def send(commands: Commands, queue: str, member: bytes, expiry_s: float, bound: Bound) -> Running:
    """Add a message to a queue; awaiting gives bits :data:`ADDED` and :data:`SENDER_CLOCK`."""
    messages, size_bytes = bound
    return Running(commands, _SEND, queue, member, expiry_s, messages, unix_time(), size_bytes)


def pop(queue: str, limit: int, expiry_s: float, *, by_hash: bool) -> bytes:
    """Return the packed command that takes up to ``limit`` messages from a queue.

    Its reply is ``[now_s, expired, member, score, ...]``.
    """
    form = _POP.by_hash if by_hash else _POP.by_source
    return form(queue, limit, BATCH_BYTES, expiry_s, unix_time())


def put_back(
    commands: Commands, queue: str, expiry_s: float, messages: Iterable[tuple[bytes, bytes]]
) -> asyncio.Future[Any]:
    """Give ``(member, score)`` pairs back to their queue.

    Always an EVAL: where a loop is about to end there may be no time for a second try.
    """
    pairs = [part for member, score in messages for part in (score, member)]
    return commands.call(_PUT_BACK.by_source(queue, expiry_s, *pairs))


async def join(commands: Commands, group: bytes, channel: str, group_expiry_s: float) -> None:
    """Add a channel to a group; may be repeated."""
    await Running(commands, _JOIN, group, channel, group_expiry_s, unix_time(), repeatable=True)


async def members(commands: Commands, group: bytes, group_expiry_s: float) -> list[bytes]:
    """Return the full names of the channels in a group, in the order of joining; may be repeated.

    A plain ZRANGE lists them, behind the script that drops some: to hand out a long list takes a
    script seven times as long.
    """
    while True:
        pruned = Running(commands, _PRUNE, group, group_expiry_s, unix_time(), repeatable=True)
        listed = commands.call(pack(b"ZRANGE", group, 0, -1), True)
        listed.add_done_callback(ignore)  # where the wait for the first one ends otherwise
        answered: list[asyncio.Future[Any]] = []
        for future in (pruned.future, listed):
            future.add_done_callback(answered.append)
        await pruned
        names: list[bytes] = await listed
        # One that was refused runs late: as EVAL, or at the server that is the primary by now.
        if not pruned.ran_late and answered[0] is pruned.future:
            return names


async def size(commands: Commands, group: bytes, group_expiry_s: float) -> int:
    """Return the number of channels in a group; may be repeated."""
    reply = await Running(commands, _SIZE, group, group_expiry_s, unix_time(), repeatable=True)
    return cast("int", reply)


async def leave(commands: Commands, group: bytes, *channels: str) -> None:
    """Remove channels from a group; may be repeated.  A plain ZREM."""
    try:
        await commands.call(pack(b"ZREM", group, *channels), True)
    except ResponseError as error:
        raise told(error, group) from None


async def rejoin(
    commands: Commands,
    group: bytes,
    ages: Iterable[tuple[float, str]],
    group_expiry_s: float,
    precision_s: float,
) -> None:
    """Add channels to a group as of an age in seconds, unless they are in it as of a time that is
    not older by more than ``precision_s``; may be repeated.
    """
    args: list[Arg] = [group_expiry_s, unix_time(), precision_s]
    for pair in ages:
        args += pair
    await Running(commands, _REJOIN, group, *args, repeatable=True)


async def renew(
    commands: Commands, leases: str, process: str, lease_s: float, kept_s: float
) -> tuple[float, float | None]:
    """Extend the lease of a process; return its new end and the one that it had, unix seconds.

    Never repeated: the answer to a repetition would be the end that nobody was told.
    """
    now_s = unix_time()
    end_s, known_s = await Running(commands, _RENEW, leases, process, lease_s, kept_s, now_s)
    return float(end_s), None if known_s is None else float(known_s)


def end_lease(commands: Commands, leases: str, process: str) -> asyncio.Future[Any]:
    """Forget the lease of a process; may be repeated.  A plain ZREM."""
    return commands.call(pack(b"ZREM", leases, process), True)
