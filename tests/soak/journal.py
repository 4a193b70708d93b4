"""What a process of the soak writes down: every send with its outcome, every message received.

Times are those of ``time.monotonic``, which all processes of a machine share.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SENT, NOT_SENT, UNKNOWN = range(3)


class Sending(NamedTuple):
    """A call of ``send()`` or ``group_send()``; ``target`` is the index of a channel or group."""

    number: int
    target: int
    outcome: int
    began: float
    ended: float


class Receipt(NamedTuple):
    """A message that ``receive()`` returned on the channel with an index."""

    number: int
    channel: int
    at: float


_SENDING = struct.Struct("<QHBdd")
_RECEIPT = struct.Struct("<QHd")
_FLUSH_BYTES = 64 * 1024


class Journal:
    """The two files of one process, written in large pieces."""

    def __init__(self, folder: Path) -> None:
        self._sendings, self._receipts = bytearray(), bytearray()
        self._paths = folder / "sendings", folder / "receipts"

    def sent(self, *sending: float) -> None:
        """Write a `Sending` down."""
        self._sendings += _SENDING.pack(*sending)
        if len(self._sendings) > _FLUSH_BYTES:
            self.flush()

    def received(self, *receipt: float) -> None:
        """Write a `Receipt` down."""
        self._receipts += _RECEIPT.pack(*receipt)
        if len(self._receipts) > _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        for path, pages in zip(self._paths, (self._sendings, self._receipts), strict=True):
            with path.open("ab") as file:
                file.write(pages)
            pages.clear()


def sendings(folder: Path) -> Iterator[Sending]:
    """Yield what one process has sent."""
    pages = (folder / "sendings").read_bytes()
    return map(Sending._make, _SENDING.iter_unpack(pages))


def receipts(folder: Path) -> Iterator[Receipt]:
    """Yield what one process has received."""
    pages = (folder / "receipts").read_bytes()
    return map(Receipt._make, _RECEIPT.iter_unpack(pages))
