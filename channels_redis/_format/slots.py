"""The slots of a Redis Cluster: which one a name is in, and who serves it.  Pure."""

from __future__ import annotations

import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

SLOTS = 16384

Address = tuple[str, int]
Remap = Callable[[Address], Address]


class Range(NamedTuple):
    """Slots with one primary; None where the servers don't tell where it is."""

    first: int
    last: int
    owner: Address | None


Ranges = tuple[Range, ...]
"""Who serves what; what is in no range, nobody serves."""

Owners = list[Address | None]
"""The primary of each slot; None where no server serves it."""

#: Where there is no cluster: whichever server it is, it serves everything.
THE_ONE: Address = ("", 0)


@dataclass(frozen=True)
class Served:
    """Who serves what at one moment: the primary of each slot, or one server where there is no
    cluster.
    """

    owners: tuple[Address | None, ...] | None = None

    def by(self, key: bytes | str) -> Address | None:
        """Return who serves a key; None where nobody is known to."""
        return THE_ONE if self.owners is None else self.owners[slot_of(key)]


# What a server says that does not know its own name.
_UNKNOWN = "?"


def slot_of(name: bytes | str) -> int:
    """Return the slot of a key or topic: of the part in its first braces, if there is one."""
    if isinstance(name, str):
        name = name.encode()
    start = name.find(b"{") + 1
    if start:
        end = name.find(b"}", start)
        if end > start:
            name = name[start:end]
    return binascii.crc_hqx(name, 0) % SLOTS


def named_address(host: Any, port: int, asked: Address, remap: Remap | None) -> Address | None:
    """Return where to connect, given what a server said; None where it does not know.

    An empty host stands for the one that was asked.
    """
    if isinstance(host, bytes):
        host = host.decode("utf-8", "replace")
    if host == _UNKNOWN:
        return None
    address = (host or asked[0], int(port))
    return remap(address) if remap is not None else address


def read_ranges(reply: Any, asked: Address, remap: Remap | None) -> Ranges:
    """Return what the reply to ``CLUSTER SLOTS`` says, in the order of the slots."""
    ranges = []
    for first, last, (host, port, *more), *_ in reply:
        address = named_address(host, port, asked, remap)
        if address is None:
            address = named_address(_ip_in(more), port, asked, remap)
        ranges.append(Range(first, last, address))
    return tuple(sorted(ranges, key=lambda one: one.first))


def owners_of(ranges: Ranges) -> Owners:
    """Return the primary of each slot."""
    owners: Owners = [None] * SLOTS
    for first, last, owner in ranges:
        owners[first : last + 1] = [owner] * (last + 1 - first)
    return owners


def _ip_in(more: list[Any]) -> Any:
    """Return the IP address of a server that has no hostname yet, which others ask for."""
    details = more[1] if len(more) > 1 and isinstance(more[1], list) else []
    return dict(zip(details[::2], details[1::2], strict=False)).get(b"ip", _UNKNOWN)
