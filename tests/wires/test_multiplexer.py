"""Commands over a connection that may fail at any await, and in any order of events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import AskError, ConnectionError, ReadOnlyError, ResponseError

from channels_redis._transport.cluster.cluster import Cluster
from channels_redis._transport.cluster.servers import Entry
from channels_redis._transport.commands import Command
from channels_redis._transport.multiplexer import WINDOW_BYTES, Multiplexer
from channels_redis._transport.node import NodeContext
from channels_redis._transport.packing import pack
from channels_redis._transport.wire import NO_ANSWER
from channels_redis.exceptions import ConnectionLost

from .chance import RENEWAL, Action, Player, actions
from .loop import Injection
from .world import World, at_every_await

TASK = "channels_redis multiplexer"


class Call:
    """One command, its future, and how often it was written when its caller went away."""

    def __init__(self, number: int, future: asyncio.Future[Any], repeatable: bool) -> None:
        self.args = (b"ECHO", b"%d" % number)
        self.future = future
        self.repeatable = repeatable
        self.written_before_cancel: int | None = None
        self.ended = 0
        future.add_done_callback(self._end)

    def _end(self, future: asyncio.Future[Any]) -> None:
        self.ended += 1


class Caller:
    """Makes calls, and compares what becomes of them with what the server did."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.node = world.node()
        self.multiplexer = Multiplexer(self.node)
        self.calls: list[Call] = []

    def call(self, *, repeatable: bool = False) -> Call:
        number = len(self.calls)
        future = self.multiplexer.call(pack("ECHO", number), repeatable)
        self.calls.append(Call(number, future, repeatable))
        return self.calls[-1]

    def cancel(self, call: Call) -> None:
        if call.future.cancel():
            call.written_before_cancel = self.written(call)

    def written(self, call: Call) -> int:
        """Return how often a command was written, on all connections together."""
        return sum(wire.log.count(list(call.args)) for wire in self.node.wires)

    def close(self) -> None:
        self.world.finish(self.multiplexer.aclose())
        self.world.loop.settle()

    def check(self) -> None:
        """Compare everything with the promises, once all calls have ended."""
        assert all(wire.lost for wire in self.node.wires)
        for call in self.calls:
            assert call.ended == 1, call.args
            self._check_fate(call)
        for wire in self.node.wires:
            numbers = [int(args[1]) for args in wire.log if args[0] == b"ECHO"]
            assert numbers == sorted(set(numbers))

    def _check_fate(self, call: Call) -> None:
        ran = self.world.server.ran[call.args]
        refused = self.world.server.refused[call.args]
        written = self.written(call)
        if not call.repeatable:
            assert ran <= 1
            assert written <= 1 + refused
        if call.future.cancelled():
            assert written == call.written_before_cancel
            return
        error = call.future.exception()
        if error is None:
            assert call.future.result() == call.args[1]
            assert ran >= 1
        elif isinstance(error, ConnectionLost):
            assert written >= 1 if error.maybe_executed else ran == 0
        else:
            assert isinstance(error, ResponseError)
            assert refused >= 1
            assert call.repeatable or written == refused


def play(injection: Injection) -> None:
    """Send on a connection that is new, lost, refused, refusing, idle, and given up for another."""
    with World(injection) as world:
        caller = injection.subject = Caller(world)
        server, loop = world.server, world.loop
        caller.call()
        caller.call(repeatable=True)
        world.quiet()
        for repeatable in (True, False):
            # Ran, but nobody heard of it; and one behind it that is only written.
            caller.call(repeatable=repeatable)
            caller.call(repeatable=repeatable)
            loop.settle()
            for wire in caller.node.wires[-1:]:
                wire.run(1)
                wire.break_off()
            caller.node.outcomes.append(ConnectionError("refused"))
            loop.settle()
            caller.cancel(caller.call())
            caller.call()
            world.flow(1)
        server.refusals += [ReadOnlyError("a replica by now"), ResponseError("wrong")]
        caller.call()
        caller.call()
        world.flow(5)
        caller.call()
        world.quiet()
        caller.multiplexer.renew("elsewhere")
        caller.call()
        world.flow(10)
        assert all(call.future.done() for call in caller.calls)
        caller.call()
        loop.settle()
        caller.close()
        caller.check()


def cancel(task: asyncio.Task[Any], caller: Caller) -> None:
    """Cancel the task from outside, as asyncio.run() does at its end."""
    task.cancel()


def lose(task: asyncio.Task[Any], caller: Caller) -> None:
    """Lose the connection."""
    if caller.node.wires:
        caller.node.wire.break_off()


def renew(task: asyncio.Task[Any], caller: Caller) -> None:
    """Go to another server."""
    caller.node.renew(RENEWAL)


def close(task: asyncio.Task[Any], caller: Caller) -> None:
    """Close while everything goes on; what is called from then on fails at once."""
    caller.world.start(caller.multiplexer.aclose())


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("action", [cancel, lose, renew, close])
def test_whatever_happens_at_any_await_of_its_task_each_call_ends_as_promised(
    action: Callable[..., None], late: bool
) -> None:
    """It ends once; what may have run is not written again, nor is what its caller took back."""
    assert at_every_await(play, TASK, action, late=late) > 10


class Calling(Player):
    """Makes calls and cancels some, over a connection that fails."""

    def __init__(self, world: World) -> None:
        self.caller = Caller(world)
        super().__init__(world, self.caller.node)

    def call(self, number: int) -> None:
        for _ in range(number + 1):
            self.caller.call()

    def call_repeatable(self, number: int) -> None:
        for _ in range(number + 1):
            self.caller.call(repeatable=True)

    def cancel(self, number: int) -> None:
        calls = self.caller.calls
        if calls:
            self.caller.cancel(calls[-1 - number % len(calls)])

    def refuse(self, number: int) -> None:
        """Have the next command run nowhere, and be sent to the next server."""
        self._reply(ReadOnlyError("a replica"))

    def fail(self, number: int) -> None:
        """Reply with an error to the next command."""
        self._reply(ResponseError("wrong"))

    def _reply(self, error: Exception) -> None:
        if self.node.wires and self.node.wire.written:
            self.world.server.refusals.append(error)
            self.node.wire.run(1)


OFTEN = "call call_repeatable step run deliver"
SOMETIMES = "cancel wait flow lose renew refuse fail refuse_dial hold_dial let_dial cancel_tasks"


@settings(deadline=None)
@given(actions(OFTEN, SOMETIMES), st.booleans())
def test_in_any_order_of_events_each_call_ends_as_promised(
    chosen: list[Action], closes: bool
) -> None:
    """The same promises, where calls, losses, refusals and replies come in any order."""
    with World() as world:
        player = Calling(world)
        player.play(chosen)
        if not closes:
            player.let_dial()
            world.flow(6)
            assert all(call.future.done() for call in player.caller.calls)
        player.caller.close()
        player.caller.check()


def test_nothing_is_written_on_an_idle_connection_before_it_has_shown_life() -> None:
    """A command that may run only once is not lost with a connection that has died unnoticed."""
    with World() as world:
        caller = Caller(world)
        caller.call()
        world.quiet()
        world.loop.advance(5)
        late = caller.call()
        world.loop.settle()
        idle = caller.node.wire
        assert idle.log[-1] == [b"PING"]
        idle.break_off()
        world.flow(1)
        assert late.future.result() == late.args[1]
        # Nobody has lost anything, and so there was no outage.
        assert caller.node.events == []
        caller.close()
        caller.check()


@pytest.mark.parametrize("refusal", [None, ReadOnlyError("a replica")])
def test_nothing_more_is_written_to_a_server_that_is_to_be_left(refusal: Exception | None) -> None:
    """The replies on their way are awaited; what is called meanwhile goes to the next one."""
    with World() as world:
        caller = Caller(world)
        caller.call()
        world.quiet()
        calls = [caller.call(), caller.call()]
        world.loop.settle()
        old = caller.node.wire
        if refusal is not None:
            world.server.refusals.append(refusal)
            old.run(1)
            old.deliver()
        else:
            caller.node.renew(RENEWAL)
        calls.append(caller.call())
        world.loop.settle()
        assert list(calls[2].args) not in old.log
        world.flow(1)
        assert [call.future.result() for call in calls] == [call.args[1] for call in calls]
        caller.close()
        caller.check()


def test_without_a_connection_a_call_is_given_up_in_time_and_says_whether_it_may_have_run() -> None:
    """One that was never written did not run; one that may be repeated was written before."""
    with World() as world:
        caller = Caller(world)
        written = caller.call(repeatable=True)
        world.loop.settle()
        caller.node.wire.run()
        caller.node.wire.break_off()
        caller.node.outcomes += [ConnectionError("refused")] * 20
        unwritten = caller.call()
        world.flow(4)
        errors = [call.future.exception() for call in (written, unwritten)]
        assert [isinstance(error, ConnectionLost) for error in errors] == [True, True]
        assert [getattr(error, "maybe_executed", None) for error in errors] == [True, False]
        caller.close()
        caller.check()


def test_a_connection_is_given_up_where_a_reply_does_not_come_or_was_not_asked_for() -> None:
    """Whatever came on it later would be taken for the reply to another command."""
    with World() as world:
        caller = Caller(world)
        silent = caller.call()
        world.loop.settle()
        world.loop.advance(15)
        assert isinstance(silent.future.exception(), ConnectionLost)
        assert caller.node.wires[0].given_up == NO_ANSWER
        caller.call()
        world.flow(1)
        confused = caller.node.wire
        assert not confused.lost
        confused.reply(b"unasked")
        confused.deliver()
        assert confused.lost
        caller.close()
        caller.check()


def test_what_does_not_fit_the_window_is_written_as_replies_come() -> None:
    """No more than the window is on its way, and the last call gets its reply all the same."""
    with World() as world:
        node = world.node()
        multiplexer = Multiplexer(node)
        third = b"." * (WINDOW_BYTES // 3 + 1)
        replies = [multiplexer.call(pack("ECHO", third)) for _ in range(5)]
        world.loop.settle()
        assert len(node.wire.log) == 3
        world.quiet()
        assert [reply.result() for reply in replies] == [third] * 5
        world.finish(multiplexer.aclose())


def test_it_ends_although_a_cancellation_was_swallowed() -> None:
    """As ``asyncio.wait_for()`` may do until Python 3.12, if it ends at that moment."""
    with World() as world:
        caller = Caller(world)
        dial = caller.node.dial

        async def dial_all_the_same() -> Any:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)
            return await dial()

        with mock.patch.object(caller.node, "dial", dial_all_the_same):
            caller.call()
            world.loop.settle()
            caller.close()
        caller.check()


HERE, THERE = ("here", 1), ("there", 2)


@pytest.mark.parametrize("others", range(16))
def test_nothing_comes_between_asking_and_its_command(others: int) -> None:
    """However much waits, so that it is written in the middle of the tick, or at its end."""
    with World() as world:
        fake = world.node()
        unused: Any = None
        cluster = Cluster(
            Entry([HERE], None, None),
            unused,
            NodeContext(
                fake.health, fake.scope, fake.tally, connect_wait_s=3, command_timeout_s=10
            ),
        )
        server = cluster.server(THERE)
        with mock.patch.multiple(server.node, connect=fake.dial, silence=fake.silence):
            server.multiplexer.call(pack("PING"))
            world.quiet()
        loop = world.loop
        moved = Command(pack("ECHO", "moved"), loop.create_future(), loop.time(), False, 5)
        loop.advance(0.01)
        for _ in range(others):
            server.multiplexer.call(pack("ECHO", "other"))
        cluster.redirect(moved, AskError("5 there:2"), HERE)
        for _ in range(others):
            server.multiplexer.call(pack("ECHO", "other"))
        world.quiet()
        log = fake.wire.log
        assert log[log.index([b"ASKING"]) + 1] == [b"ECHO", b"moved"]
        assert moved.future.result() == b"moved"
        world.finish(fake.scope.aclose())
