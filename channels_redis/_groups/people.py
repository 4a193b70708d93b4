"""Who is in groups with presence: what is written for a member, and what was read.

Decides without I/O.  The values of the hash in Redis are described in ``presence_join.lua``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from .._config.presence import Patterns, PresenceOptions
from ..exceptions import InvalidPresence, MessageTooLarge, PresenceDisabled
from ..presence import Member, Presence
from .memberships import Pair

#: The number of groups whose options are remembered.
_GROUPS = 10_000

Encode = Callable[[dict[str, Any], str], bytes]
Decode = Callable[[bytes, str], Any]


class Entry(NamedTuple):
    """What is written for a member: who it is, and encoded info."""

    person: str
    info: bytes


class Stored(NamedTuple):
    """A member as it was read."""

    channel: str
    #: The whole value.
    value: bytes
    process: str
    person: str
    joined_s: float
    info: bytes


class Roll(NamedTuple):
    """All that is stored for a group."""

    members: list[Stored]
    #: Persons whose leave was not announced, and when they will have left, in unix seconds.
    leaving: list[tuple[str, float]]


def read_roll(flat: list[bytes]) -> Roll:
    """Return what the reply to HGETALL says."""
    members: list[Stored] = []
    leaving: list[tuple[str, float]] = []
    for field, value in zip(flat[::2], flat[1::2], strict=True):
        kind, name = field[:2], field[2:].decode("utf-8", "replace")
        if kind == b"m:":
            process, person, joined_s, info = value.split(b"\n", 3)
            who = process.decode("utf-8", "replace"), person.decode("utf-8", "replace")
            members.append(Stored(name, value, *who, float(joined_s), info))
        elif kind == b"l:":
            leaving.append((name, float(value.split(b"\n", 1)[0])))
    members.sort(key=lambda one: one.joined_s)
    return Roll(members, leaving)


class People:
    """The members of this process in groups with presence."""

    def __init__(self, patterns: Patterns, secret: bytes, encode: Encode, decode: Decode) -> None:
        self._patterns = patterns
        self._secret = secret
        self._encode = encode
        self._decode = decode
        self._known: dict[str, PresenceOptions | None] = {}
        #: What was written last, to be written again after a loss.
        self.entries: dict[Pair, Entry] = {}

    @property
    def is_used(self) -> bool:
        """Whether any group may have presence."""
        return bool(self._patterns)

    def options(self, group: str) -> PresenceOptions | None:
        """Return the options of a group; None if it has no presence."""
        if not self._patterns:
            return None
        if group not in self._known:
            if len(self._known) >= _GROUPS:
                self._known.clear()
            found = (options for pattern, options in self._patterns if pattern.match(group))
            self._known[group] = next(found, None)
        return self._known[group]

    def required(self, group: str, method: str) -> PresenceOptions:
        """Return the options of a group; raise :class:`PresenceDisabled` if it has none."""
        options = self.options(group)
        if options is None:
            raise PresenceDisabled(
                f"{method}: the group {group!r} has no presence. Add a pattern that matches it to "
                "the option presence of the channel layer."
            )
        return options

    def entry(self, group: str, channel: str, info: Any) -> Entry:
        """Return what to write for a member; raise for info that can't be written."""
        options = self.required(group, "group_add(presence=...)")
        if not isinstance(info, dict):
            raise InvalidPresence(
                f"group_add(): presence must be a dict, not {type(info).__name__}."
            )
        encoded = self._encode(info, group)
        if len(encoded) > options.max_bytes:
            raise MessageTooLarge(
                f"group_add(): presence takes {len(encoded)} bytes, and the limit is "
                f"{options.max_bytes}. Pass less, such as an id, or raise max_bytes in the "
                "option presence."
            )
        return Entry(self._person(options, channel, info), encoded)

    def of(self, group: str, channels: list[str]) -> list[Entry]:
        """Return what was written for channels."""
        pairs = [Pair(group, channel) for channel in channels]
        return [self.entries[pair] for pair in pairs if pair in self.entries]

    @property
    def has_events(self) -> bool:
        """Whether any group gets messages about joins and leaves."""
        return any(options.events for _, options in self._patterns)

    def _person(self, options: PresenceOptions, channel: str, info: dict[str, Any]) -> str:
        """Return what identifies a user in Redis, which does not reveal the value of the key."""
        value = info.get(options.key) if options.key is not None else None
        if value is not None and not isinstance(value, (str, int)):
            raise InvalidPresence(
                f"group_add(): presence[{options.key!r}] identifies a user and must be a string "
                f"or a whole number, not {type(value).__name__}."
            )
        packed = msgpack.packb(channel if value is None else [value])
        return hashlib.blake2b(packed, digest_size=12, key=self._secret).hexdigest()

    def presence(self, group: str, stored: list[Stored]) -> Presence:
        """Return the members that were read."""
        return Presence(tuple(self._member(group, one) for one in stored))

    def _member(self, group: str, stored: Stored) -> Member:
        info = self.info(group, stored.info)
        return Member(stored.channel, self.key(group, info, stored.channel), info, stored.joined_s)

    def event(self, kind: str, group: str, data: bytes) -> dict[str, Any]:
        """Return the message about a user who has joined or left, with encoded info."""
        info = self.info(group, data)
        return {"type": kind, "group": group, "key": self.key(group, info, None), "info": info}

    def info(self, group: str, data: bytes) -> dict[str, Any]:
        """Return decoded info; empty if it can't be decoded, as with another key."""
        try:
            info = self._decode(data, group)
        except Exception:  # noqa: BLE001 (whatever a serializer raises)
            return {}
        return info if isinstance(info, dict) else {}

    def key(self, group: str, info: dict[str, Any], otherwise: Any) -> Any:
        """Return the value that identifies a user."""
        options = self.options(group)
        value = info.get(options.key) if options is not None and options.key is not None else None
        return value if isinstance(value, (str, int)) else otherwise
