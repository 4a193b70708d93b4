"""A limit in bytes for the messages in the mailboxes of a process.

A payload in several mailboxes counts once, plus a small amount for each mailbox. When the budget is
used up, the oldest message of the largest mailbox is dropped, so that a consumer that never reads
affects itself first. Mailboxes are kept by size, in levels of which each is twice as large as the
one below, so that it is never necessary to look at all of them.
"""

from __future__ import annotations

from typing import Protocol

#: What a message costs in each mailbox where it lies, besides its payload.
ENTRY_BYTES = 16


class Payload(Protocol):
    """The content of a message in mailboxes."""

    #: Bytes that it takes, however many mailboxes share it.
    cost_bytes: int
    #: In how many mailboxes it lies that the budget counts.
    copies: int


class Share:
    """The part of the budget that one mailbox uses."""

    __slots__ = ("ceiling_bytes", "floor_bytes", "used_bytes")

    def __init__(self) -> None:
        self.used_bytes = 0
        # Within these bounds it stays in its level; the lowest level is kept in no list.
        self.floor_bytes = 0
        self.ceiling_bytes = 0


class Budget:
    """The bytes that unread messages may take; used under the lock of the mailboxes."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        # Mailboxes below this size are not told apart.
        self._unit_bytes = max(2 * ENTRY_BYTES, limit_bytes // 4096)
        self._levels: dict[int, dict[Share, None]] = {}

    @property
    def exceeded(self) -> bool:
        """Whether a message has to be dropped."""
        return self.used_bytes > self.limit_bytes

    def add(self, shares: list[Share], payload: Payload) -> None:
        """Count a payload that was put into mailboxes, once in each."""
        if not shares:
            return
        size_bytes = payload.cost_bytes + ENTRY_BYTES
        for share in shares:
            share.used_bytes += size_bytes
            if share.used_bytes >= share.ceiling_bytes:
                self._move(share)
        if not payload.copies:
            self.used_bytes += payload.cost_bytes
        payload.copies += len(shares)
        self.used_bytes += ENTRY_BYTES * len(shares)

    def remove(self, share: Share, payload: Payload) -> None:
        """Count a payload that left a mailbox."""
        share.used_bytes -= payload.cost_bytes + ENTRY_BYTES
        if share.used_bytes < share.floor_bytes:
            self._move(share)
        payload.copies -= 1
        self.used_bytes -= ENTRY_BYTES
        if not payload.copies:
            self.used_bytes -= payload.cost_bytes

    def largest(self) -> Share | None:
        """Return a mailbox of the highest level, each time another; None if all are small."""
        if not self._levels:
            return None
        level = self._levels[max(self._levels)]
        share = next(iter(level))
        del level[share]
        level[share] = None
        return share

    def _move(self, share: Share) -> None:
        """Put a mailbox into the level of its size."""
        level = self._levels.get(share.ceiling_bytes)
        if level is not None and share in level:
            del level[share]
            if not level:
                del self._levels[share.ceiling_bytes]
        doublings = (share.used_bytes // self._unit_bytes).bit_length()
        share.ceiling_bytes = self._unit_bytes << doublings
        share.floor_bytes = share.ceiling_bytes // 2 if doublings else 0
        if doublings:
            self._levels.setdefault(share.ceiling_bytes, {})[share] = None
