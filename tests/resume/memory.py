"""A layer with history in the memory of this process: for tests of what rests on layers."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from channels.layers import InMemoryChannelLayer

from channels_redis._format.positions import PositionText
from channels_redis.exceptions import InvalidPosition


@dataclass(frozen=True)
class Resumed:
    complete: bool
    position: str
    count: int


@dataclass(frozen=True)
class History:
    messages: list[dict[str, Any]]
    position: str
    complete: bool


class Entry(NamedTuple):
    position: str
    message: dict[str, Any]
    exclude: list[str]


class Log:
    """What is kept of one group."""

    def __init__(self, group: str, size: int) -> None:
        self._group = group
        self._size = size
        self._all: list[Entry] = []
        self._bottom = 0

    @property
    def top(self) -> str:
        return self._all[-1].position if self._all else f"{0:016x}.{'0' * 16}"

    def add(self, message: dict[str, Any], exclude: Iterable[str]) -> dict[str, Any]:
        text = f"{len(self._all) + 1:016x}.{secrets.token_hex(8)}"
        position = PositionText.of(self._group, text)
        self._all.append(Entry(position, {**message, "__position__": position}, list(exclude)))
        self._bottom = max(self._bottom, len(self._all) - self._size)
        return self._all[-1].message

    def after(self, since: str) -> tuple[bool, list[Entry]]:
        """Return whether all entries after a position are kept, and these."""
        if since == "start":
            return True, self._all[self._bottom :]
        known = [f"{0:016x}.{'0' * 16}", *(one.position for one in self._all)]
        if since not in known:
            raise InvalidPosition(f"{since!r} is no position of this group.")
        offset = known.index(since)
        return (True, self._all[offset:]) if offset >= self._bottom else (False, [])


class MemoryLayer(InMemoryChannelLayer):
    """Channels' layer, with the history of every group."""

    def __init__(self, size: int = 100) -> None:
        super().__init__(expiry=3600, capacity=10_000)
        self._size = size
        self._logs: dict[str, Log] = {}

    def _log(self, group: str) -> Log:
        return self._logs.setdefault(group, Log(group, self._size))

    async def group_history(
        self, group: str, since: str | None = None, limit: int | None = None
    ) -> History:
        log = self._log(group)
        complete, entries = log.after(since or "start")
        messages = [{**one.message} for one in entries]
        return History(messages if limit is None else messages[:limit], log.top, complete)

    async def group_add(
        self, group: str, channel: str, *, since: str | None = None, formerly: Iterable[str] = ()
    ) -> Resumed | None:
        log = self._log(group)
        if since is None:
            await super().group_add(group, channel)
            return None
        complete, entries = log.after(since)
        entries = [one for one in entries if not set(one.exclude) & {channel, *formerly}]
        for one in entries:
            await self.send(channel, one.message)
        await super().group_add(group, channel)
        return Resumed(complete, log.top, len(entries))

    async def group_send(
        self, group: str, message: dict[str, Any], exclude: Iterable[str] = ()
    ) -> None:
        message = self._log(group).add(message, exclude)
        for channel in self.groups.get(group, ()):
            if channel not in exclude:
                await self.send(channel, message)
