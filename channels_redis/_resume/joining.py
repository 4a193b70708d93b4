"""Joins a group from the position that a client names, or tells that this is not possible."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from .._format.keyspace import POSITION_KEY
from .._layer.history import HistoryLayer
from ..exceptions import InvalidPosition

#: What the application may give as a position, and a client may not.
START = "start"
#: The type of the message that names groups of which the layer has missed messages, where the
#: option ``on_reconnect`` is unset.  Channels calls ``ResumeMixin.resume_missed()`` with it.
MISSED_TYPE = "resume.missed"
#: The part of a position that is the offset, in hex digits.
OFFSET_DIGITS = 16


@dataclass(frozen=True)
class Joined:
    """How a channel has joined a group."""

    group: str
    #: Whether the client named a position, and what it missed can't be delivered.
    failed: bool
    #: Where live messages begin; None for layers without history.
    position: str | None
    #: How many messages are received before these.
    pending: int = 0
    #: What a client that failed gets instead.
    kept: list[dict[str, Any]] = field(default_factory=list)


async def join(
    layer: Any,
    channel: str,
    group: str,
    *,
    named: str = "",
    since: str | None = None,
    formerly: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Joined:
    """Add a channel to a group after the position ``named`` by a client, else after ``since``, else
    for live messages only.  ``options`` are further arguments of ``group_add()``.
    """
    add = partial(layer.group_add, group, channel, **(options or {}))
    if not hasattr(layer, "group_history"):  # of another package
        await add()
        return Joined(group, failed=bool(named), position=None)
    if isinstance(layer, HistoryLayer):
        layer._tell_of_missed(channel, MISSED_TYPE)
    add = partial(add, formerly=formerly)
    if named and named != START:
        try:
            return await _joined(layer, group, add, named, since)
        except InvalidPosition:
            pass  # Nothing was joined yet.
    # The position first, so that a client has one even if nothing is sent before it comes back.
    begin = since or (await layer.group_history(group, limit=0)).position
    joined = await _joined(layer, group, add, begin, since)
    return replace(joined, failed=bool(named))


async def _joined(
    layer: Any, group: str, add: Callable[..., Awaitable[Any]], begin: str, since: str | None
) -> Joined:
    resumed = await add(since=begin)
    if resumed.complete:
        return Joined(group, failed=False, position=resumed.position, pending=resumed.count)
    kept = []
    if since is not None:
        # It is in the group already, so what is later than that comes live.
        messages = (await layer.group_history(group)).messages
        kept = [one for one in messages if _offset(one) <= resumed.position[:OFFSET_DIGITS]]
    return Joined(group, failed=True, position=resumed.position, kept=kept)


def _offset(message: dict[str, Any]) -> str:
    return str(message[POSITION_KEY][:OFFSET_DIGITS])
