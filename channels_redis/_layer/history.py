"""The history of groups, as both layers have it: what it is asked for, and what is returned."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .._config.hosts import is_cluster
from .._format.encryption import Place
from .._format.histories import Histories, Kept, Log, Rules
from .._format.keyspace import EXCLUDE_KEY, POSITION_KEY
from .._format.positions import Entry, Past, Position
from .._receiving.lines import Verdict, after_offset, judge, unbroken_end
from .._receiving.resuming import Since
from .._runtime.plans import Plan, Then
from .._session import Session
from .._watch.traces import TRACE_KEYS
from ..exceptions import ConfigurationError, HistoryDisabled
from ..history import History
from .receiving import ReceivingLayer

#: More entries than any log has.
_ALL = 10**9
#: The position before everything that is kept.
START = "start"


class HistoryLayer(ReceivingLayer):
    """The part of a channel layer that is about the history of groups."""

    hosts: list[dict[str, Any]]
    prefix: str
    group_expiry: float
    history: Rules
    max_catch_up: int

    def _check_history_slots(self) -> None:
        """Refuse what keeps the keys of one group out of one slot."""
        if self.history and set("{}") & set(self.prefix) and any(map(is_cluster, self.hosts)):
            raise ConfigurationError(
                f"history: in a cluster, the prefix must not have braces, as {self.prefix!r} has: "
                "the log of a group would be in another slot than the group."
            )

    def _compiled_rules(self, history: dict[Any, tuple[int, float]]) -> Rules:
        """Return the option ``history`` with globs as patterns, as for ``channel_capacity``."""
        kept = [Kept(size, math.ceil(ttl_s)) for size, ttl_s in history.values()]
        patterns = self.compile_capacities({one: place for place, one in enumerate(history)})
        return [(pattern, kept[place]) for pattern, place in patterns]

    def _make_histories(self) -> Histories:
        secret = _site_secret() if self.history else b""
        return Histories(self.history, self._keys, self.group_expiry, secret, self.max_catch_up)

    async def group_history(
        self, group: str, *, since: str | None = None, limit: int | None = None
    ) -> History:
        """Return the messages of a group that Redis still has: all, or those after the position
        ``since``; if there are more than ``limit``, the newest. ``limit=0`` returns only the
        position.

        ``complete`` is true if nothing is missing among them, nor, with ``since``, between the
        position and them. Raises :class:`HistoryDisabled`, :class:`InvalidPosition`,
        :class:`InvalidName`, :class:`WrongKeyType` and :class:`ConnectionLost`.
        """
        history: History = await self._run(
            "group_history", partial(self._group_history_plan, since=since, limit=limit), group
        )
        return history

    def _group_history_plan(
        self, group: str, since: str | None = None, limit: int | None = None
    ) -> Plan:
        self._check_group(group)
        log = self._log_or_refuse("group_history()", group)
        if limit is not None and (not isinstance(limit, int) or limit < 0):
            raise ValueError(f"group_history(): limit must be None or at least 0, not {limit!r}.")
        position = self._position(log, since)
        shard = self._history_shard(group)
        first = position.offset if position is not None else 0
        # One more, as the entry at the position is read too.
        count = _ALL if limit is None else limit and limit + 1

        async def read(session: Session) -> Then:
            past = await session.past(shard, log, first, count)
            # User code may run to decode what was read.
            return Then(partial(self._history_decided, log, position, past, limit))

        return read

    def _history_decided(
        self, log: Log, since: Position | None, past: Past, limit: int | None
    ) -> Plan:
        history = self._history_of(log, since, past, limit)

        async def decided(_: Session) -> History:
            return history

        return decided

    def _history_of(
        self, log: Log, since: Position | None, past: Past, limit: int | None
    ) -> History:
        entries, text = past.entries, self._histories.text(log, past.top)
        if since is None:
            complete = len(unbroken_end(entries)) == len(entries)
        else:
            complete = judge(past, since) is Verdict.COMPLETE
            entries = after_offset(entries, since.offset)
        kept = [one for one in entries if not one.is_break]
        if limit is not None and len(kept) > limit:
            kept, complete = kept[len(kept) - limit :], complete and since is None
        messages = [self._message_of(log, one) for one in kept]
        readable = [message for message in messages if message is not None]
        return History(readable, text, complete and len(readable) == len(messages))

    def _message_of(self, log: Log, entry: Entry) -> dict[str, Any] | None:
        """Return the message of an entry; None if it can't be decoded, which is counted."""
        try:
            message: dict[str, Any] = self._encoding.decode(
                entry.payload, log.name, self._log_place
            )
            for key in (EXCLUDE_KEY, *TRACE_KEYS):
                message.pop(key, None)
        except Exception as error:  # noqa: BLE001 (whatever a serializer raises)
            self._undecodable(log.group, error)
            return None
        message[POSITION_KEY] = self._histories.text(log, entry.position)
        return message

    # What is asked for

    def _log_or_refuse(self, what: str, group: str) -> Log:
        log = self._log(group)
        if log is None:
            raise HistoryDisabled(
                f"{what}: the group {group!r} has no history. Add a pattern that matches it to "
                "the option history of the layer."
            )
        return log

    def _log(self, group: str) -> Log | None:
        """Return the log of a group; None if it has no history."""
        return self._histories.log(group, self._log_name(group)) if self.history else None

    def _position(self, log: Log, since: str | None) -> Position | None:
        if since is None or since == START:
            return None
        return self._histories.position(log, since)

    def _since(self, group: str, channel: str, since: str | None, formerly: Any) -> Since | None:
        """Return where a channel resumes; None if it does not."""
        if since is None:
            return None
        log = self._log_or_refuse("group_add(since=...)", group)
        names = self._check_names("group_add(): formerly", formerly)
        return Since(log, self._position(log, since), names | {channel})

    # What the layers define

    def _log_name(self, group: str) -> str:
        """Return the key or topic of a group."""
        raise NotImplementedError

    def _history_shard(self, group: str) -> int:
        """Return the shard of a group."""
        raise NotImplementedError

    def _log_place(self, name: str) -> Place:
        """Return the place to which the messages in the log of a name are bound."""
        raise NotImplementedError

    def _check_group(self, name: Any) -> None:
        raise NotImplementedError

    def _check_names(self, what: str, names: Iterable[str]) -> frozenset[str]:
        raise NotImplementedError

    async def _run(self, operation: str, prepare: Any, *args: Any) -> Any:
        raise NotImplementedError


def _site_secret() -> bytes:
    """Return Django's ``SECRET_KEY``, which all processes of a site share; nothing without it."""
    try:
        key = settings.SECRET_KEY
    except ImproperlyConfigured:
        return b""
    return key if isinstance(key, bytes) else str(key).encode()
