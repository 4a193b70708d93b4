"""Positions in the history of a group, and the bytes around a published message that has one.

A position is an offset, which counts the entries of a group's log, and the mark of the entry at
this offset: random digits that its sender has chosen. Two servers that have given the same offset
to different messages have different marks there. Does no I/O.

A *marked* message is published as ``0xC1``, 16 hex digits of the offset, 16 of the mark, and the
message as it would be published without a history. No serializer of this package and no encryption
makes bytes that begin with ``0xC1``.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from typing import Any, NamedTuple

from ..exceptions import InvalidPosition

#: The first byte of a marked message.
MARKED = b"\xc1"

_DIGITS = 16
_START_BYTES = 1 + 2 * _DIGITS
_MARKED_START = re.compile(rb"\xc1([0-9a-f]{16})([0-9a-f]{16})")
_PLAIN = re.compile(r"([0-9a-f]{16})\.([0-9a-f]{16})\Z", re.ASCII)
_TEXT = re.compile(r"([0-9a-f]{16})\.([0-9a-f]{16})([0-9a-f]{16})\Z", re.ASCII)

#: What an entry has in place of a message if it is a *break*: from here on the log may lack
#: messages that were sent before. The first kind is written if a sender or receiver knows a
#: position that the log does not have; nobody can say who got the messages up to there.
LOST_BREAK = b""
#: The second kind is written if a message was heard that is in no log. Who listened has it.
UNLOGGED_BREAK = MARKED
BREAKS = (LOST_BREAK, UNLOGGED_BREAK)


class Position(NamedTuple):
    """A place in the log of a group: directly after the entry with this offset and mark."""

    offset: int
    #: 16 hex digits.
    mark: bytes

    @property
    def plain(self) -> str:
        """The position as processes tell it to each other."""
        return f"{self.offset:016x}.{self.mark.decode()}"


#: The position of who knows nothing.
NOWHERE = Position(0, b"0" * _DIGITS)


class PositionText(str):
    """A position as users have it, which also knows the group that it belongs to."""

    group: str

    @classmethod
    def of(cls, group: str, text: str) -> PositionText:
        """Return the text of a position of a group."""
        position = cls(text)
        position.group = group
        return position


class Entry(NamedTuple):
    """An entry of a log, or a marked message as it was heard."""

    position: Position
    payload: bytes
    #: The mark of the entry before it; None if it was heard, as it is not published.
    before: bytes | None = None
    #: What was heard, if it was not ``payload``.
    heard: Any = None

    @property
    def offset(self) -> int:
        """The offset of the entry."""
        return self.position.offset

    @property
    def is_break(self) -> bool:
        """Whether this is no message, but says that messages before it may be missing."""
        return self.payload in BREAKS


class Past(NamedTuple):
    """What a server knows of a group: its newest position, and the entries that were asked for."""

    top: Position
    #: Oldest first.
    entries: list[Entry]
    #: Whether there were more entries than were asked for.
    cut: bool = False


def new_mark() -> bytes:
    """Return the mark of a new entry."""
    return os.urandom(_DIGITS // 2).hex().encode()


def read_marked(data: bytes) -> Entry | None:
    """Return the entry in a marked message; None for all other bytes."""
    found = _MARKED_START.match(data)
    if found is None:
        return None
    return Entry(Position(int(found[1], 16), found[2]), data[_START_BYTES:])


def read_plain(text: object) -> Position | None:
    """Return the position in the text of another process; None for anything else."""
    found = _PLAIN.match(text) if isinstance(text, str) else None
    return Position(int(found[1], 16), found[2].encode()) if found is not None else None


class PositionTexts:
    """Positions as users have them: strings that sort as the positions do, each with digits that
    depend on its group and on ``secret``.

    So a position of another group is refused, and clients can't make up positions.
    """

    def __init__(self, secret: bytes) -> None:
        key = hashlib.sha256(b"channels_redis: positions" + secret).digest()
        # Copied for each position, which is faster than to make one.
        self._hash = hashlib.blake2s(key=key, digest_size=_DIGITS // 2)

    def write(self, position: Position, log: str) -> str:
        """Return the text of a position in the log with a name."""
        return position.plain + self._digits(position.plain, log)

    def read(self, text: object, log: str) -> Position:
        """Return the position with a text; raises :class:`InvalidPosition`."""
        found = _TEXT.match(text) if isinstance(text, str) else None
        if found is None:
            raise InvalidPosition(
                "since: a position must be one that a message or a call of the layer had under "
                '"__position__" or .position, or "start"; this is none.'
            )
        offset, mark, digits = found.groups()
        if not hmac.compare_digest(digits, self._digits(f"{offset}.{mark}", log)):
            raise InvalidPosition(
                "since: this position is of another group or prefix, or of a site with another "
                "SECRET_KEY. Use it with the group that it came from."
            )
        return Position(int(offset, 16), mark.encode())

    def _digits(self, plain: str, log: str) -> str:
        signed = self._hash.copy()
        signed.update(f"{plain} {log}".encode())
        return signed.hexdigest()
