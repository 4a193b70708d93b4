"""The commands that write memberships to a shard: of groups on core, and of presence.

On core a membership is in the sorted set of its group.  If the group has presence, it is also in a
hash, in the same slot, which both layers have.  Before a process writes to the hash of a group, it
adds the group to the set of those that it holds, so that others find what it leaves behind.
"""

from __future__ import annotations

from collections.abc import Iterable

from .._config.presence import PresenceOptions
from .._format.keyspace import Keyspace
from .._runtime import clock
from .._session import Session
from .._transport import presence as commands
from .._transport import scripts
from .._transport.presence import NO_CHANGES, Changes
from .memberships import Pair
from .people import Entry, People

Ages = list[tuple[float, str]]
"""Seconds since joining, and the channel."""


class Writer:
    """Writes what :class:`.leases.Keeper` decides, for the groups of one entry of ``hosts``.

    ``stores_groups`` is true on core, where groups are sorted sets.  The keys of presence expire
    after ``presence_expiry_s``, which must be longer than the time between two renewals of leases.
    """

    def __init__(
        self,
        shard: int,
        keys: Keyspace,
        process: str,
        group_expiry_s: float,
        presence_expiry_s: float,
        people: People,
        *,
        stores_groups: bool,
    ) -> None:
        self.shard = shard
        self.keys = keys
        self.process = process
        self._group_expiry_s = group_expiry_s
        self._presence_expiry_s = presence_expiry_s
        self.people = people
        self.stores_groups = stores_groups
        self._refreshed_at = clock.monotonic()
        #: The groups that others clean up if this process dies.
        self.held: set[str] = set()

    async def join(self, session: Session, group: str, channel: str) -> Changes:
        """Add a channel to a group."""
        entry = self.people.entries.get(Pair(group, channel))
        if entry is None:
            key = self.keys.group(group)
            there = session.commands(self.shard, key)
            await scripts.join(there, key, channel, self._group_expiry_s)
            return NO_CHANGES
        return await self._write(session, group, [(0.0, channel, entry)], with_group=True)

    async def rejoin(self, session: Session, group: str, ages: Ages, precision_s: float) -> Changes:
        """Add channels to a group again, with the age of their memberships."""
        if self.stores_groups:
            key = self.keys.group(group)
            there = session.commands(self.shard, key)
            await scripts.rejoin(there, key, ages, self._group_expiry_s, precision_s)
        entries = self.people.entries
        known = [(age_s, name, entries.get(Pair(group, name))) for age_s, name in ages]
        members = [(age_s, name, entry) for age_s, name, entry in known if entry is not None]
        if not members:
            return NO_CHANGES
        return await self._write(session, group, members, with_group=False)

    async def leave(self, session: Session, group: str, channels: Iterable[str]) -> list[str]:
        """Remove channels from a group; return the persons who will have left after the grace."""
        options = self.people.options(group)
        if options is not None:
            return await self.remove(session, group, options, [(name, b"") for name in channels])
        key = self.keys.group(group)
        await scripts.leave(session.commands(self.shard, key), key, *channels)
        return []

    async def remove(
        self,
        session: Session,
        group: str,
        options: PresenceOptions,
        gone: list[tuple[str, bytes]],
    ) -> list[str]:
        """Remove channels from a group with presence, each with the value that was read, or with
        ``b""`` in any case; return the persons who will have left after the grace.
        """
        if options.events:
            await self.hold(session, group)  # until the leaves are announced
        keys = self._presence_keys(group)
        return await commands.leave(session.commands(self.shard, keys[0]), keys, options, gone)

    async def hold(self, session: Session, group: str) -> None:
        """Note in Redis that this process has members in a group, or leaves to announce."""
        if group not in self.held:
            key = self.keys.held(self.process)
            there = session.commands(self.shard, key)
            await commands.hold(there, key, group)
            await commands.keep(there, key, self._presence_expiry_s)
            self.held.add(group)

    async def release(self, session: Session, groups: set[str]) -> None:
        """Note that this process has nothing to do with groups any more."""
        key = self.keys.held(self.process)
        # First here: who joins one meanwhile writes it again.
        self.held -= groups
        there = session.commands(self.shard, key)
        await commands.release(there, key, groups)
        for group in groups & self.held:
            await commands.hold(there, key, group)

    async def refresh(self, session: Session) -> None:
        """Let the keys expire later, twice in the time after which they would."""
        if clock.monotonic() - self._refreshed_at < self._presence_expiry_s / 2:
            return
        self._refreshed_at = clock.monotonic()
        keys = [self.keys.held(self.process).encode(), *map(self.presence_key, tuple(self.held))]
        for key in keys:
            await commands.keep(session.commands(self.shard, key), key, self._presence_expiry_s)

    async def _write(
        self,
        session: Session,
        group: str,
        members: list[tuple[float, str, Entry]],
        *,
        with_group: bool,
    ) -> Changes:
        await self.hold(session, group)
        keys = self._presence_keys(group, with_group=with_group)
        options = self.people.required(group, "group_add()")
        there = session.commands(self.shard, keys[0])
        writing = commands.Writing(self.process, self._presence_expiry_s, options)
        rows = [(age_s, name, entry.person, entry.info) for age_s, name, entry in members]
        return await commands.join(there, keys, writing, rows)

    def _presence_keys(self, group: str, *, with_group: bool = True) -> list[bytes]:
        key = self.presence_key(group)
        return [key, self.keys.group(group)] if self.stores_groups and with_group else [key]

    def presence_key(self, group: str) -> bytes:
        """Return the key of the presence of a group."""
        return self.keys.presence_of(group)
