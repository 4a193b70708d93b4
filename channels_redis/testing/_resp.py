"""Blocking commands to a server over a separate socket.

Tests must be able to send commands to a server with any version of redis-py, also while redis-py
itself is tested.  So this module implements the small part of RESP that is needed.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import IO, Any

#: ``(host, port)`` of a TCP server, or the path of a Unix socket.
Address = tuple[str, int] | str


Word = str | bytes | int | float


class ErrorReply(Exception):
    """An error reply of the server, with its text."""


def command(address: Address, *words: Word, auth: str = "", timeout_s: float = 5) -> Any:
    """Run one command and return its reply: int, bytes, None or a list of these.

    ``auth`` is ``password`` or ``user password`` if the server requires one.
    Raises :class:`ErrorReply` for an error reply, and ``OSError`` if there is no reply within
    ``timeout_s`` seconds.
    """
    return converse(address, words, auth=auth, timeout_s=timeout_s)[0]


def converse(
    address: Address, *commands: Sequence[Word], auth: str = "", timeout_s: float = 5
) -> list[Any]:
    """Run commands one after the other on one connection and return their replies."""
    with _connect(address, timeout_s) as connection, connection.makefile("rb") as replies:

        def ask(words: Sequence[Word]) -> Any:
            connection.sendall(_pack(*words))
            return _read_reply(replies)

        if auth:
            ask(["AUTH", *auth.split(" ")])
        return [ask(words) for words in commands]


def _connect(address: Address, timeout_s: float) -> socket.socket:
    if not isinstance(address, str):
        return socket.create_connection(address, timeout_s)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _pack(*words: Word) -> bytes:
    packed = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        packed.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(packed)


def _read_reply(replies: IO[bytes]) -> Any:
    line = replies.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("The server closed the connection without a reply.")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise ErrorReply(rest.decode())
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == b"-1" else replies.read(int(rest) + 2)[:-2]
    if kind == b"*":
        return None if rest == b"-1" else [_read_reply(replies) for _ in range(int(rest))]
    return rest
