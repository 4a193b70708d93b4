"""What ``layer.group_presence(group)`` returns: the members of a group, and who they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Member", "Presence"]


@dataclass(frozen=True, slots=True)
class Member:
    """A channel in a group, and what was said of it by ``group_add(..., presence={...})``."""

    channel: str
    #: The value that identifies the user: that of the option's ``key`` in :attr:`info`, or the name
    #: of the channel if there is none.
    key: Any
    #: The dict of ``group_add()``, or an empty one.
    info: dict[str, Any]
    #: The time of joining in unix seconds, on the clock of the server.
    joined_s: float


@dataclass(frozen=True, slots=True)
class Presence:
    """The members of a group at one moment, in the order of joining."""

    members: tuple[Member, ...]

    def __len__(self) -> int:
        """Return the number of channels."""
        return len(self.members)

    def __iter__(self) -> Iterator[Member]:
        """Yield the members."""
        return iter(self.members)

    @property
    def by_channel(self) -> dict[str, Member]:
        """Channel -> member."""
        return {member.channel: member for member in self.members}

    @property
    def by_key(self) -> dict[Any, tuple[Member, ...]]:
        """Key -> members, such as all tabs of one user."""
        found: dict[Any, tuple[Member, ...]] = {}
        for member in self.members:
            found[member.key] = (*found.get(member.key, ()), member)
        return found
