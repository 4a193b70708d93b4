"""The short way of replies: in pieces of any size, errors among them, and up to the end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import redis.exceptions
from hypothesis import given
from hypothesis import strategies as st
from redis._parsers.base import BaseParser
from redis.asyncio.connection import Connection

from channels_redis._transport.replies import Replies, short_way
from tests.proxy import Proxy

hiredis = pytest.importorskip("hiredis")

SENT = b"+OK\r\n:7\r\n-READONLY no\r\n*2\r\n$3\r\na\r\n\r\n$-1\r\n$0\r\n\r\n"
READ = [b"OK", 7, redis.exceptions.ReadOnlyError, [b"a\r\n", None], b""]


class Stream(asyncio.Protocol):
    """What redis-py put on the transport."""

    ended = False
    aborted = False

    def abort(self) -> None:
        self.aborted = True

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = True


def connected(loop: Any, *, buffered: bytes = b"", at_eof: bool = False) -> tuple[Any, Stream]:
    """A connection whose handshake is over, without a socket."""
    stream = Stream()
    transport = SimpleNamespace(
        get_protocol=lambda: stream,
        set_protocol=lambda protocol: None,
        is_closing=lambda: stream.aborted,
        abort=stream.abort,
    )
    connection = Connection(protocol=2)
    connection._writer = SimpleNamespace(transport=transport)  # type: ignore[assignment]  # no socket
    reader: Any = SimpleNamespace(
        _buffer=bytearray(buffered), at_eof=lambda: at_eof, exception=lambda: None
    )
    connection._reader = reader
    connection._parser = SimpleNamespace(parse_error=BaseParser.parse_error)  # type: ignore[assignment]  # as above
    return connection, stream


def taken(replies: Replies) -> Any:
    """Read one reply that must be there."""
    reading = replies.read()
    try:
        reading.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the reply is not there")


@given(st.lists(st.integers(1, len(SENT) - 1), max_size=10))
def test_replies_arrive_whole_however_they_were_cut(cuts: list[int]) -> None:
    """Any pieces make the same replies; an error reply is read like the others."""
    loop = asyncio.new_event_loop()
    connection, _ = connected(loop)
    replies = Replies(connection, loop)
    edges = [0, *sorted(cuts), len(SENT)]
    for start, end in itertools.pairwise(edges):
        replies.data_received(SENT[start:end])
    for expected in READ:
        reply = taken(replies)
        assert reply == expected or isinstance(reply, expected)  # type: ignore[arg-type]  # a class
    connection._writer = None
    loop.close()


async def test_replies_before_the_end_of_a_connection_are_read_before_the_error() -> None:
    """The stream of redis-py hears of it as well, as its close waits for that."""
    connection, stream = connected(asyncio.get_running_loop())
    replies = Replies(connection, asyncio.get_running_loop())
    reading = asyncio.create_task(replies.read())
    await asyncio.sleep(0)
    replies.data_received(b"+first\r\n+second\r\n$10\r\nhalf")
    replies.connection_lost(None)
    assert (await reading, await replies.read()) == (b"first", b"second")
    assert stream.ended
    for _ in range(2):
        with pytest.raises(redis.exceptions.ConnectionError):
            await replies.read()
    connection._writer = None


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
async def test_a_connection_that_ended_before_it_was_taken_is_lost(
    server: Any, reset: bool
) -> None:
    """The network broke after the handshake, and the stream of redis-py was told, nobody else."""
    with Proxy(server.host, server.port) as proxy:
        connection = Connection(host=proxy.host, port=proxy.port, protocol=2)
        await connection.connect()
        assert connection._writer is not None
        transport = connection._writer.transport
        if reset:
            proxy.cut()
        else:
            transport.close()
        ended = transport.get_protocol()._closed  # type: ignore[attr-defined]  # asyncio's streams
        await asyncio.wait({ended}, timeout=10)
        replies = Replies(connection, asyncio.get_running_loop())
        reading = asyncio.create_task(replies.read())
        await asyncio.wait({reading}, timeout=5)
        assert reading.done(), "a reader that is deaf for ever"
        assert isinstance(reading.exception(), (redis.exceptions.ConnectionError, OSError))
        await connection.disconnect()


async def test_what_is_no_protocol_is_an_end() -> None:
    """A peer that speaks something else is given up, and nobody waits for it."""
    connection, _ = connected(asyncio.get_running_loop())
    replies = Replies(connection, asyncio.get_running_loop())
    replies.data_received(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(redis.exceptions.InvalidResponse):
        await replies.read()
    connection._writer = None


async def test_a_sender_goes_on_before_the_reader_whose_message_came_with_its_reply() -> None:
    """The server has its next command to work on, while the message is dealt with."""
    loop = asyncio.get_running_loop()
    wires = [connected(loop)[0] for _ in range(2)]
    receiving, sending = (Replies(wire, loop) for wire in wires)
    sent = loop.create_future()
    order = []

    def replied(reply: Any) -> bool:
        sent.set_result(reply)
        return False

    async def send() -> None:
        await sent
        order.append("sent")

    async def receive() -> None:
        order.append(await receiving.read())

    tasks = [
        asyncio.create_task(send()),
        asyncio.create_task(receive()),
        asyncio.create_task(sending.hand_over(replied)),
    ]
    await asyncio.sleep(0)
    receiving.data_received(b"+received\r\n")
    sending.data_received(b":1\r\n")
    await asyncio.wait(tasks)
    assert order == ["sent", b"received"]
    for wire in wires:
        wire._writer = None


async def test_a_connection_whose_reply_cannot_be_dealt_with_takes_no_more_commands() -> None:
    """From that moment on: what is written before its owner closes it would have no reply."""
    loop = asyncio.get_running_loop()
    connection, stream = connected(loop)
    replies = Replies(connection, loop)

    def take(reply: Any) -> bool:
        raise KeyError(reply)

    taking = asyncio.create_task(replies.hand_over(take))
    await asyncio.sleep(0)
    replies.data_received(b":1\r\n")
    assert stream.aborted
    with pytest.raises(KeyError):
        await taking
    connection._writer = None


async def test_a_cancelled_read_loses_nothing() -> None:
    """The next one gets the reply that was on its way."""
    connection, _ = connected(asyncio.get_running_loop())
    replies = Replies(connection, asyncio.get_running_loop())
    reading = asyncio.create_task(replies.read())
    await asyncio.sleep(0)
    replies.data_received(b":1\r\n")
    reading.cancel()
    await asyncio.wait({reading})
    assert reading.cancelled()
    assert await replies.read() == 1
    connection._writer = None


class Own(Connection):
    """Reads in its own way."""

    async def read_response(self, *args: Any, **options: Any) -> Any:
        return await super().read_response(*args, **options)


async def test_redis_py_reads_where_there_is_something_only_it_knows() -> None:
    """A class of the user's, or bytes that lie in the stream already."""
    loop = asyncio.get_running_loop()
    own, _ = connected(loop)
    own.__class__ = Own
    behind, _ = connected(loop, buffered=b"+late\r\n")
    for connection in (own, behind):
        assert short_way(connection, loop) is None
        connection._writer = None


def up_to_three(taken: list[int]) -> Callable[[int], bool]:
    """Takes replies into ``taken``, and wants no more after a 3."""

    def take(reply: int) -> bool:
        taken.append(reply)
        return reply < 3

    return take


async def test_replies_are_handed_over_as_they_arrive_until_no_more_is_wanted() -> None:
    """What follows is read by whoever reads next, though the connection has ended meanwhile."""
    connection, _ = connected(asyncio.get_running_loop())
    replies = Replies(connection, asyncio.get_running_loop())
    replies.data_received(b":1\r\n")
    taken: list[int] = []
    take = up_to_three(taken)
    handing = asyncio.create_task(replies.hand_over(take))
    await asyncio.sleep(0)
    replies.data_received(b":2\r\n:3\r\n:4\r\n")
    assert taken == [1, 2, 3]
    replies.connection_lost(None)
    await handing
    assert await replies.read() == 4
    with pytest.raises(redis.exceptions.ConnectionError):
        await replies.hand_over(take)
    connection._writer = None


async def test_what_goes_wrong_with_a_reply_is_raised_in_the_task_that_waits() -> None:
    """Not in the event loop, which nobody watches."""
    connection, _ = connected(asyncio.get_running_loop())
    replies = Replies(connection, asyncio.get_running_loop())
    handing = asyncio.create_task(replies.hand_over(lambda reply: 1 // reply > 0))
    await asyncio.sleep(0)
    replies.data_received(b":1\r\n:0\r\n:1\r\n")
    with pytest.raises(ZeroDivisionError):
        await handing
    connection._writer = None


async def test_a_cancelled_hand_over_loses_nothing() -> None:
    """The next one gets the replies that come in between."""
    connection, _ = connected(asyncio.get_running_loop())
    replies = Replies(connection, asyncio.get_running_loop())
    taken: list[int] = []
    take = up_to_three(taken)
    handing = asyncio.create_task(replies.hand_over(take))
    await asyncio.sleep(0)
    replies.data_received(b":1\r\n")
    handing.cancel()
    await asyncio.wait({handing})
    replies.data_received(b":2\r\n:3\r\n")
    assert taken == [1]
    await replies.hand_over(take)
    assert taken == [1, 2, 3]
    connection._writer = None
