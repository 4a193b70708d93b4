"""The presence of groups, as both layers have it: who is there, and what is said of each member."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from .._config.hosts import is_cluster
from .._config.presence import Patterns
from .._format.slots import slot_of
from .._groups.leases import Keeper, Keepers
from .._groups.people import Entry, People
from .._receiving.messages import Recent
from .._runtime.plans import Plan, Then
from .._runtime.weakly import weakly
from .._session import Session
from ..exceptions import ConfigurationError
from ..presence import Presence
from .history import HistoryLayer

#: The type of the messages about users who have left.
LEAVE = "presence.leave"


class PresenceLayer(HistoryLayer):
    """The part of a channel layer that is about the presence of groups."""

    presence: Patterns
    _people: People
    _person_secret: bytes

    def _check_presence_slots(self) -> None:
        """Refuse a prefix with braces that keep the presence of a group out of its slot."""
        if not (self.presence and any(map(is_cluster, self.hosts))):
            return
        keys = self._keys
        if slot_of(keys.group("room")) != slot_of(keys.presence_of("room")):
            raise ConfigurationError(
                "presence: in a cluster, the prefix must not have braces that do not enclose a "
                f"hash tag, as {self.prefix!r} has: the presence of a group would be in another "
                "slot than the group. Use a prefix without braces."
            )

    def _make_people(self) -> People:
        self._leaves = Recent()
        encode, decode = weakly(self._encode_info, b""), weakly(self._decode_info, None)
        people = People(self.presence, self._person_secret, encode, decode)
        self._checks_leaves = people.has_events
        return people

    async def group_presence(self, group: str) -> Presence:
        """Return who is in a group: its members in all processes, with their info.

        The members of a killed process are left out when its lease has run out, 30 seconds after
        its last renewal. Raises :class:`PresenceDisabled` if the option ``presence`` has no pattern
        for the group, and :class:`ConnectionLost` if Redis could not be reached or did not reply.
        """
        found: Presence = await self._run("group_presence", self._group_presence_plan, group)
        return found

    def _group_presence_plan(self, group: str) -> Plan:
        self._check_group(group)
        self._people.required(group, "group_presence()")
        return partial(self._keeper_of(group).presence, group=group)

    async def _send_event(self, session: Session, group: str, message: dict[str, Any]) -> None:
        """Send a message about a member to its group."""
        outcome = await self._group_send_plan(group, message)(session)
        while isinstance(outcome, Then):
            outcome = await outcome.decide()(session)

    def _is_repeated(self, channel: str, message: dict[str, Any]) -> bool:
        """Return whether a channel has got this message about a leave before, from a process that
        died before it could note that.
        """
        if message.get("type") != LEAVE or not isinstance(message.get("id"), str):
            return False
        return self._leaves.has(f"{channel} {message['id']}".encode())

    def _group_send_plan(self, group: str, message: Any, exclude: Iterable[str] = ()) -> Plan:
        raise NotImplementedError

    def _entry(self, group: str, channel: str, info: Any) -> Entry | None:
        """Return what to write for a member; None for a group without presence."""
        if info is None and self._people.options(group) is None:
            return None
        return self._people.entry(group, channel, {} if info is None else info)

    def _keeper_of(self, group: str) -> Keeper:
        """Return what keeps the presence of a group."""
        raise NotImplementedError

    def _all_keepers(self) -> Keepers | None:
        """Return what keeps the presence of all groups; None if no group has any."""
        raise NotImplementedError

    def _encode_info(self, info: dict[str, Any], group: str) -> bytes:
        return self._encoding.encode(info, {}, group, self._keys.presence_place)

    def _decode_info(self, data: bytes, group: str) -> Any:
        return self._encoding.decode(data, group, self._keys.presence_place)
