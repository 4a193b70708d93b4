"""The slots of a Redis Cluster: which one a name is in, and who serves it.  Pure."""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import Any

SLOTS = 16384

Address = tuple[str, int]
Remap = Callable[[Address], Address]
Owners = list[Address | None]
"""The primary of each slot; None where no server serves it."""

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


def read_owners(reply: Any, asked: Address, remap: Remap | None) -> Owners:
    """Return what the reply to ``CLUSTER SLOTS`` says."""
    owners: Owners = [None] * SLOTS
    for first, last, (host, port, *more), *_ in reply:
        address = named_address(host, port, asked, remap)
        if address is None:
            address = named_address(_ip_in(more), port, asked, remap)
        owners[first : last + 1] = [address] * (last + 1 - first)
    return owners


def _ip_in(more: list[Any]) -> Any:
    """Return the IP address of a server that has no hostname yet, which others ask for."""
    details = more[1] if len(more) > 1 and isinstance(more[1], list) else []
    return dict(zip(details[::2], details[1::2], strict=False)).get(b"ip", _UNKNOWN)
