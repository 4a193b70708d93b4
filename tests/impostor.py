"""A server that answers as a test wants, and writes down all that it was told."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from channels_redis.testing._certificates import Certificate
from tests.helpers import close_listener

Answer = Callable[[list[bytes]], bytes]
"""Takes the words of a command; returns the reply as it is written."""


def greet(words: list[bytes]) -> bytes:
    """Agree to everything in a handshake, and to nothing else."""
    return b"+OK\r\n" if words[0] in (b"AUTH", b"SELECT", b"CLIENT") else b"-ERR not here\r\n"


def bulk(*words: str) -> bytes:
    """Return an array of strings as a reply."""
    parts = [b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words]
    return b"*%d\r\n%s" % (len(parts), b"".join(parts))


def sentinel_answer(words: list[bytes], port: int) -> bytes | None:
    """Return what a Sentinel says whose primary is at a port of localhost; None to other words."""
    if words[0].upper() != b"SENTINEL":
        return None
    if b"GET-MASTER" in words[1].upper():
        return bulk("localhost", str(port))
    facts = {"name": "main", "ip": "localhost", "port": str(port), "flags": "master"}
    facts |= {"num-other-sentinels": "0"}
    return b"*1\r\n" + bulk(*[word for fact in facts.items() for word in fact])


def cluster_answer(words: list[bytes], port: int) -> bytes | None:
    """Return what a server says of a cluster whose only server is at a port of localhost."""
    if words[:2] != [b"CLUSTER", b"SLOTS"]:
        return None
    node = b"*3\r\n$9\r\nlocalhost\r\n:%d\r\n$40\r\n%s\r\n" % (port, b"a" * 40)
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n" + node


class Impostor:
    """Listens on localhost; with a certificate it speaks TLS."""

    def __init__(self, answer: Answer = greet) -> None:
        self.answer = answer
        #: The commands that arrived, in their order.
        self.heard: list[list[bytes]] = []
        self.port = 0
        self.closed = False
        self.transports: set[asyncio.Transport] = set()

    @asynccontextmanager
    async def listening(self, certificate: Certificate | None = None) -> AsyncIterator[Impostor]:
        """Listen for as long as the block lasts."""
        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.path, certificate.key_path)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Talk(self), "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.closed = True
            await close_listener(server)
            await self._hang_up()

    async def _hang_up(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
            for transport in tuple(self.transports):
                _end(transport)


class _Talk(asyncio.Protocol):
    """One connection."""

    def __init__(self, impostor: Impostor) -> None:
        self._impostor = impostor
        self._unread = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._impostor.transports.add(transport)
        if self._impostor.closed:
            _end(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._impostor.transports.discard(self._transport)
        _end(self._transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (words := self._next_command()) is not None:
            self._impostor.heard.append(words)
            self._transport.write(self._impostor.answer(words))

    def _next_command(self) -> list[bytes] | None:
        """Return the words of the next command that is complete, taken from what is unread."""
        first, *parts = self._unread.split(b"\r\n")
        count = int(first[1:] or 0)
        if len(parts) < 2 * count + 1 or not count:
            return None
        self._unread = b"\r\n".join(parts[2 * count :])
        return parts[1 : 2 * count : 2]


def _end(transport: asyncio.Transport) -> None:
    # Until Python 3.11 a TLS transport that was only aborted counts as left open.
    transport.close()
    # Until Python 3.11.4 one whose connection was lost can't be aborted.
    with contextlib.suppress(AttributeError):
        transport.abort()
