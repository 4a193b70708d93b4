"""Which groups have a history, and where: their logs, and the texts of their positions. Does no
I/O.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from .keyspace import Keyspace
from .positions import NOWHERE, Position, PositionText, PositionTexts

#: Groups whose newest position is remembered.
_REMEMBERED = 10_000


class Kept(NamedTuple):
    """How much is kept for the groups of one pattern."""

    #: Messages, about.
    size: int
    #: Whole seconds.
    ttl_s: int


Rules = list[tuple[re.Pattern[str], Kept]]


class Log(NamedTuple):
    """The log of one group: its keys, and how much is kept."""

    group: str
    #: The key (core) or the topic (pubsub) of the group.
    name: str
    key: str
    position_key: str
    kept: Kept
    #: Whole seconds for which the newest position is kept.
    position_ttl_s: int


class Histories:
    """The histories of a layer's groups. May be used in any thread."""

    def __init__(
        self,
        rules: Rules,
        keyspace: Keyspace,
        position_ttl_s: float,
        secret: bytes,
        max_catch_up: int,
    ) -> None:
        self._rules = rules
        self._keyspace = keyspace
        self._position_ttl_s = math.ceil(position_ttl_s)
        self._texts = PositionTexts(secret)
        #: The most messages that one catch-up may have.
        self.max_catch_up = max_catch_up
        # Name of the log -> the newest position that this process knows.
        self._newest: dict[str, Position] = {}
        self._logs: dict[str, Log | None] = {}

    @property
    def on(self) -> bool:
        """Whether any group has a history."""
        return bool(self._rules)

    def log(self, group: str, name: str) -> Log | None:
        """Return the log of a group that the layer keeps under a key or topic; None if it has no
        history.
        """
        try:
            return self._logs[group]
        except KeyError:
            log = self._find(group, name)
        self._logs[group] = log
        if len(self._logs) > _REMEMBERED:
            self._logs.clear()
        return log

    def _find(self, group: str, name: str) -> Log | None:
        kept = next((kept for pattern, kept in self._rules if pattern.match(group)), None)
        if kept is None:
            return None
        keys = self._keyspace
        position_ttl_s = max(kept.ttl_s, self._position_ttl_s)
        return Log(group, name, keys.log(name), keys.position(name), kept, position_ttl_s)

    def with_history(self, groups: Iterable[str]) -> list[str]:
        """Return those of some groups that have a history."""
        return [one for one in groups if any(pattern.match(one) for pattern, _ in self._rules)]

    def text(self, log: Log, position: Position) -> PositionText:
        """Return a position as users have it."""
        return PositionText.of(log.group, self._texts.write(position, log.name))

    def position(self, log: Log, text: object) -> Position:
        """Return the position with a text; raises :class:`InvalidPosition`."""
        return self._texts.read(text, log.name)

    def newest(self, log: Log) -> Position:
        """Return the newest position that this process knows."""
        return self._newest.get(log.name, NOWHERE)

    def note(self, log: Log, position: Position) -> None:
        """Remember the newest position of a group."""
        newest = self._newest
        if position.offset > newest.get(log.name, NOWHERE).offset:
            newest[log.name] = position
            if len(newest) > _REMEMBERED:
                newest.pop(next(iter(newest)), None)
