"""Packs commands for writing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

_pack_in_c: Callable[[tuple[Any, ...]], bytes] | None = None
with contextlib.suppress(ImportError):  # an extra, which halves the time of packing
    from hiredis import pack_command as _pack_in_c

#: From here on hiredis takes longer to pack a command than Python does: a hundred times as long
#: for a megabyte, which it copies to fresh memory twice.
_LARGE_BYTES = 32 * 1024


def pack(*args: bytes | str | int | float) -> bytes:
    """Return a packed command: an array of bulk strings (RESP2 and RESP3).

    Commands are packed by their callers, before there is a connection.
    """
    if _pack_in_c is not None:
        for arg in args:
            if type(arg) is bytes and len(arg) > _LARGE_BYTES:
                break
        else:
            return _pack_in_c(args)
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        if isinstance(arg, str):
            arg = arg.encode()
        elif isinstance(arg, (int, float)):
            arg = repr(arg).encode()
        # What is left is bytes, or a bytearray or memoryview of a user's serializer.
        parts += (b"$%d\r\n" % len(arg), arg, b"\r\n")
    return b"".join(parts)
