"""What a client names when it comes back, and where positions are in the frames that it gets.

A place is ``group:position``, as names of groups have no colon.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from .._format.keyspace import POSITION_KEY
from .._format.positions import PositionText
from .joining import Joined

#: The key of frames that are not the application's, in both directions.
RESUME_KEY = "__resume__"
FORMERLY_KEY = "formerly"
#: How many groups and former channels a client may name during one connection.
MAX_GROUPS = 100
MAX_FORMERLY = 20
#: How much of a position is read, in characters; positions are shorter.
MAX_POSITION = 99
#: Stands for a position that a client has, but that was not read.  No log has it.
UNREAD = "unread"

_PLACE = re.compile(r"([a-zA-Z\d\-_.]{1,99}):(.*)", re.ASCII | re.DOTALL)
_CHANNEL = re.compile(r"[a-zA-Z\d\-_.]{1,99}(![a-zA-Z\d\-_.]{0,99})?", re.ASCII)


class Named(NamedTuple):
    """The positions by group, empty for a client that has none; and former channel names."""

    positions: dict[str, str]
    formerly: list[str]
    #: Whether the client has named more groups than were read.
    is_cut: bool = False

    def position(self, group: str) -> str:
        """Return the client's position in a group: empty if it has none."""
        return self.positions.get(group, UNREAD if self.is_cut else "")

    def followed_by(self, later: Named) -> Named:
        """Return this with what the client names later.  What it has named first counts, as it was
        answered.
        """
        positions = {**self.positions, **later.positions, **self.positions}
        return Named(
            dict(islice(positions.items(), MAX_GROUPS)),
            [*self.formerly, *later.formerly][-MAX_FORMERLY:],
            self.is_cut or later.is_cut or len(positions) > MAX_GROUPS,
        )


NOTHING = Named({}, [])


def named_in_query(query: bytes) -> Named:
    """Return what ``?resume=group:position&formerly=channel`` names; both may be repeated.

    The number and the encoding of the application's own fields do not matter.
    """
    if b"resume=" not in query:
        return NOTHING
    fields = query.split(b"&")
    return _named(_values(fields, b"resume="), _values(fields, b"formerly="))


def _values(fields: list[bytes], start: bytes) -> list[str]:
    found = [field for field in fields if field.startswith(start)]
    return [unquote_plus(field[len(start) :].decode(errors="replace")) for field in found]


def named_in_frame(text: str | None) -> Named | None:
    """Return what ``{"__resume__": ["group:position"], "formerly": ["channel"]}`` names; None for
    any other frame.
    """
    if not text or RESUME_KEY not in text[:40]:
        return None
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(frame, dict) or RESUME_KEY not in frame:
        return None
    return _named(frame[RESUME_KEY], frame.get(FORMERLY_KEY))


def _named(places: Any, formerly: Any) -> Named:
    """Return what is well-formed, of the last items of two lists."""
    found = [_PLACE.fullmatch(text) for text in _texts(places, MAX_GROUPS)]
    positions = {match[1]: match[2][:MAX_POSITION] for match in found if match}
    channels = [text for text in _texts(formerly, MAX_FORMERLY) if _CHANNEL.fullmatch(text)]
    is_cut = isinstance(places, list) and len(places) > MAX_GROUPS
    return Named(positions, channels, is_cut)


def _texts(found: Any, limit: int) -> list[str]:
    if not isinstance(found, list):
        return []
    return [text for text in found[-limit:] if isinstance(text, str)]


def place(group: str, position: str) -> str:
    """Return a position with its group, as clients name it."""
    return f"{group}:{position}"


def positioned(content: Any, message: dict[str, Any]) -> Any:
    """Return the content of a frame with the place of the message; only a dict has room for it."""
    position = message.get(POSITION_KEY)
    if not isinstance(position, PositionText) or not isinstance(content, dict):
        return content
    return {**content, POSITION_KEY: place(position.group, position)}


def notice(joined: Joined, channel: str) -> str:
    """Return the frame that tells a client how it has joined a group.

    It has no position if messages are still to come that were missed: each of these has its own.
    """
    told = {"group": joined.group, "channel": channel, "complete": not joined.failed}
    frame: dict[str, Any] = {RESUME_KEY: told}
    if joined.position is not None and not joined.pending:
        frame[POSITION_KEY] = place(joined.group, joined.position)
    return json.dumps(frame)


def refusal(group: str | None) -> str:
    """Return the frame that tells a client that it may not join a group; None for all groups that
    it has named beyond the limit.
    """
    return json.dumps({RESUME_KEY: {"group": group, "refused": True}})
