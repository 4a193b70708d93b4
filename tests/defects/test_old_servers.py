"""Servers too old for the layers say so once, in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from channels_redis.exceptions import ConfigurationError
from tests.helpers import close_listener, receive

VERSION = "4.0.14"
KNOWN = {b"PING": b"+PONG\r\n", b"SELECT": b"+OK\r\n", b"AUTH": b"+OK\r\n"}
SCRIPT_ERROR = (
    b"-ERR Error running script (call to f_1): @user_script:1: "
    b"@user_script: 1: Unknown Redis command called from Lua script\r\n"
)


class OldServer:
    """Answers as a server does that is too old: it has no BZPOPMIN, no ZPOPMIN and no HELLO."""

    def __init__(self) -> None:
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while header := await reader.readline():
                words = [await self._word(reader) for _ in range(int(header[1:]))]
                writer.write(self._reply(words))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _word(self, reader: asyncio.StreamReader) -> bytes:
        length = int((await reader.readline())[1:])
        return (await reader.readexactly(length + 2))[:-2]

    def _reply(self, words: list[bytes]) -> bytes:
        name = words[0].upper()
        if name == b"INFO":
            text = f"# Server\r\nredis_version:{VERSION}\r\nredis_mode:standalone\r\n".encode()
            return b"$%d\r\n%s\r\n" % (len(text), text)
        if name == b"EVALSHA":
            return b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
        if name == b"EVAL":
            return SCRIPT_ERROR
        return KNOWN.get(name, b"-ERR unknown command `%s`\r\n" % words[0])


@pytest.fixture
async def old_server() -> AsyncIterator[OldServer]:
    server = OldServer()
    async with AsyncExitStack() as stack:
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        stack.push_async_callback(close_listener, listener)
        host, port = listener.sockets[0].getsockname()
        server.url = f"redis://{host}:{port}"
        yield server


def assert_clear(error: ConfigurationError) -> None:
    assert VERSION in str(error), "says what the server is"
    assert "5.0" in str(error) or "6." in str(error), "says what is needed"


async def test_sending_to_a_server_that_is_too_old_names_the_version_needed(
    make_layer: Callable[..., Any], kind: str, old_server: OldServer
) -> None:
    """One clear error instead of an obscure crash per socket (203 and six more)."""
    layer = make_layer(kind, hosts=[old_server.url])
    with pytest.raises(ConfigurationError) as refusal:
        await layer.send("work", {"type": "x"})
    assert_clear(refusal.value)


async def test_receiving_from_a_server_that_is_too_old_names_the_version_needed(
    make_layer: Callable[..., Any], kind: str, old_server: OldServer
) -> None:
    """A worker and a consumer see the same clear error."""
    layer = make_layer(kind, hosts=[old_server.url])
    with pytest.raises(ConfigurationError) as refusal:
        await receive(layer, "work")
    assert_clear(refusal.value)


async def test_resp3_on_a_server_that_has_it_not_names_the_option(
    make_layer: Callable[..., Any], kind: str, old_server: OldServer
) -> None:
    """It came with Redis 6.0; the layers need it only to renew credentials."""
    layer = make_layer(kind, hosts=[{"address": old_server.url, "protocol": 3}])
    with pytest.raises(ConfigurationError, match=r"6\.0.*'protocol'"):
        await layer.send("work", {"type": "x"})
