"""One owner for all that lives on an event loop: what is ended when, and what is left."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from channels_redis._runtime.scope import Scope, Stage, shut


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return two connected sockets."""
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def scope_here() -> Scope:
    return Scope(asyncio.get_running_loop())


async def test_parts_are_closed_stage_by_stage() -> None:
    """Whatever came first: a reader puts back what it holds before connections for commands go."""
    scope, closed = scope_here(), list[str]()

    def hold(stage: Stage) -> None:
        async def aclose() -> None:
            await asyncio.sleep(0)
            closed.append(stage.name)

        scope.hold(stage, aclose)

    for stage in reversed(Stage):
        hold(stage)
    task = scope.start(asyncio.sleep(60), "sleep")
    task.add_done_callback(lambda _: closed.append("task"))
    await scope.aclose()
    assert closed == ["RECEIVING", "task", "TASKS", "COMMANDS", "CLIENTS", "CONNECTIONS"]
    assert task.cancelled()
    assert scope.ended
    assert not scope.parts


async def test_what_begins_while_readers_end_is_closed_too() -> None:
    """A last command may make a connection."""
    scope, closed = scope_here(), list[str]()

    async def close_connection() -> None:
        closed.append("connection")

    async def close_reader() -> None:
        scope.hold(Stage.COMMANDS, close_connection)
        closed.append("reader")

    scope.hold(Stage.RECEIVING, close_reader)
    await scope.aclose()
    assert closed == ["reader", "connection"]


async def test_a_released_part_is_not_closed() -> None:
    """It has ended by itself."""
    scope = scope_here()

    async def aclose() -> None:
        raise AssertionError

    scope.hold(Stage.RECEIVING, aclose).release()
    await scope.aclose()


async def test_a_close_that_was_cancelled_is_done_again() -> None:
    """What was not closed is still there."""
    scope, go_on, closed = scope_here(), asyncio.Event(), list[str]()

    async def close_reader() -> None:
        await go_on.wait()
        closed.append("reader")

    async def close_connection() -> None:
        closed.append("connection")

    scope.hold(Stage.RECEIVING, close_reader)
    scope.hold(Stage.COMMANDS, close_connection)
    closing = asyncio.ensure_future(scope.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    assert not closed
    go_on.set()
    await scope.aclose()
    assert closed == ["reader", "connection"]


async def test_no_timer_goes_off_after_the_end() -> None:
    """Though somebody still has it."""
    scope = scope_here()
    fired = list[str]()
    timer, other = scope.timer(fired.append), scope.timer(fired.append)
    timer.start(0, "after the end")
    await scope.aclose()
    assert not timer.running
    other.start(0, "later")  # the loop's timers go off in their order
    while not fired:
        await asyncio.sleep(0)
    assert fired == ["later"]


def test_what_is_sent_to_a_connection_that_was_shut_can_be_read(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """A server may send a message that it has popped before it sees the end."""
    ours, theirs = pair
    shut(ours.fileno())
    theirs.sendall(b"message")
    assert (ours.recv(10), theirs.recv(10)) == (b"message", b"")


def test_what_is_abandoned_is_forgotten_in_the_same_order(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """A reader keeps what its connection has received, before the connection is shut."""
    ours, theirs = pair
    loop = asyncio.new_event_loop()
    scope, forgotten = Scope(loop), list[str]()

    async def aclose() -> None:
        raise AssertionError

    def hold(stage: Stage) -> None:
        def forget() -> None:
            forgotten.append(stage.name)
            raise RuntimeError("must not keep the others")

        scope.hold(stage, aclose, forget=forget, descriptors=lambda: [ours.fileno()])

    hold(Stage.COMMANDS)
    hold(Stage.RECEIVING)
    loop.close()
    scope.abandon()
    assert forgotten == ["RECEIVING", "COMMANDS"]
    assert theirs.recv(1) == b""
    assert scope.ended


def test_sockets_are_silenced_for_a_forked_child(pair: tuple[socket.socket, socket.socket]) -> None:
    """The parent's connection lives on: the other side sees no end of it."""
    ours, theirs = pair
    twin = ours.dup()
    scope = Scope(asyncio.new_event_loop())

    async def aclose() -> None:
        raise AssertionError

    scope.hold(Stage.CONNECTIONS, aclose, descriptors=lambda: [ours.fileno()])
    scope.silence()
    with twin:
        twin.send(b"from the parent")
        assert theirs.recv(100) == b"from the parent"
    with pytest.raises(OSError, match="socket"):
        ours.send(b"from the child")
    scope.loop.close()
