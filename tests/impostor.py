"""A server that answers as a test wants, and writes down all that it was told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from channels_redis.testing._certificates import Certificate

Answer = Callable[[list[bytes]], bytes]
"""Takes the words of a command; returns the reply as it is written."""


def greet(words: list[bytes]) -> bytes:
    """Agree to everything in a handshake, and to nothing else."""
    return b"+OK\r\n" if words[0] in (b"AUTH", b"SELECT", b"CLIENT") else b"-ERR not here\r\n"


def bulk(*words: str) -> bytes:
    """Return an array of strings as a reply."""
    parts = [b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words]
    return b"*%d\r\n%s" % (len(parts), b"".join(parts))


class Impostor:
    """Listens on localhost; with a certificate it speaks TLS."""

    def __init__(self, answer: Answer = greet) -> None:
        self.answer = answer
        #: The commands that arrived, in their order.
        self.heard: list[list[bytes]] = []
        self.port = 0

    @asynccontextmanager
    async def listening(self, certificate: Certificate | None = None) -> AsyncIterator[Impostor]:
        """Listen for as long as the block lasts."""
        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.path, certificate.key_path)
        talks: set[asyncio.Task[None]] = set()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            talks.add(task)
            try:
                await self._talk(reader, writer)
            except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in talks:
                task.cancel()
            await asyncio.gather(*talks)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            count = int((await reader.readuntil(b"\r\n"))[1:])
            words = []
            for _ in range(count):
                length = int((await reader.readuntil(b"\r\n"))[1:])
                words.append((await reader.readexactly(length + 2))[:-2])
            self.heard.append(words)
            writer.write(self.answer(words))
