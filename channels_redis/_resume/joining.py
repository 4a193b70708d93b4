"""Joins a group from the position that a client names, or tells that this is not possible."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import Any

from .._format.keyspace import POSITION_KEY
from ..exceptions import InvalidPosition, Unsupported

#: What the application may give as a position, and a client may not.
START = "start"
#: The part of a position that is the offset, in hex digits.
OFFSET_DIGITS = 16


@dataclass(frozen=True)
class Joined:
    """How a channel has joined a group."""

    group: str
    #: Whether the client named a position, and what it missed can't be had.
    failed: bool
    #: Where live messages begin; None for layers without history.
    position: str | None
    #: How many messages are received before these.
    pending: int = 0
    #: What a client that failed gets instead.
    kept: list[dict[str, Any]] = field(default_factory=list)


async def join(
    layer: Any, channel: str, group: str, *, named: str, since: str | None, formerly: list[str]
) -> Joined:
    """Add a channel to a group after the position ``named`` by a client (empty: none), else after
    ``since``, else for live messages only.
    """
    if hasattr(layer, "group_history"):
        with contextlib.suppress(Unsupported):
            return await _after(layer, channel, group, named, since, formerly)
    # Another package's layer, or one that does not resume.
    await layer.group_add(group, channel)
    return Joined(group, failed=bool(named), position=None)


async def _after(
    layer: Any, channel: str, group: str, named: str, since: str | None, formerly: list[str]
) -> Joined:
    if named and named != START:
        try:
            return await _joined(layer, channel, group, named, since, formerly, is_named=True)
        except InvalidPosition:
            pass  # Nothing was joined yet.
    # The position first, so that a client has one even if nothing is sent before it comes back.
    begin = since or (await layer.group_history(group, limit=0)).position
    joined = await _joined(layer, channel, group, begin, since, formerly, is_named=False)
    return replace(joined, failed=bool(named))


async def _joined(
    layer: Any,
    channel: str,
    group: str,
    begin: str,
    since: str | None,
    formerly: list[str],
    *,
    is_named: bool,
) -> Joined:
    resumed = await layer.group_add(group, channel, since=begin, formerly=formerly)
    if resumed.complete:
        return Joined(group, failed=False, position=resumed.position, pending=resumed.count)
    kept = []
    if since is not None:
        # It is in the group already, so what is later than that comes live.
        messages = (await layer.group_history(group)).messages
        kept = [one for one in messages if _offset(one) <= resumed.position[:OFFSET_DIGITS]]
    return Joined(group, failed=is_named, position=resumed.position, kept=kept)


def _offset(message: dict[str, Any]) -> str:
    return str(message[POSITION_KEY][:OFFSET_DIGITS])
