"""A reader loses no message and delivers none twice, whatever happens at whichever await."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError, ReadOnlyError

from channels_redis._transport.multiplexer import Multiplexer
from channels_redis._transport.packing import pack
from channels_redis._transport.pops import Popped
from channels_redis._transport.reader import QueueReader

from .chance import RENEWAL, Action, Player, actions
from .loop import Injection
from .wire import FakeWire
from .world import World, at_every_await

KEY = "queue"
ROOM = 12
EXPIRY_S = 60.0

#: The reader waits at least so long for a reply before it gives a connection up with what it has.
PATIENCE_S = 0.4


class Queue:
    """The local end of a queue (see ``QueueOwner``), and those who receive from it.

    A receiver is a number here: one that waits; one that is woken, as a message is there for it;
    or one that has taken its message.
    """

    key = KEY
    expiry_s = EXPIRY_S
    block_s: float | None = None

    def __init__(self, world: World, *, specific: bool) -> None:
        self.world = world
        self.specific = specific
        self.node = world.node("queue")
        self.commands_node = world.node("commands")
        self.commands = Multiplexer(self.commands_node)
        self.waiting = 0
        self.woken = 0
        self.held: deque[tuple[Popped, float]] = deque()
        self.taken: list[bytes] = []
        self.sent: list[bytes] = []
        self.failures: list[Exception] = []
        self.counted: Counter[str] = Counter()
        self.asked = 0
        self.reader: QueueReader | None = None
        self.closed = False
        #: Whether those who are woken take their messages in the next turn of the loop.
        self.prompt = True

    # What the reader asks for

    def demand(self) -> int:
        return self.waiting

    def limit(self) -> int:
        self.asked = ROOM if self.specific else self.waiting
        return self.asked

    def deliver(self, reader: QueueReader, messages: list[Popped], running: Any) -> None:
        for message in messages:
            if self.specific:
                self.taken.append(message[0])
                continue
            self.held.append((message, self.world.loop.time()))
            if self.waiting:
                self.waiting -= 1
                self.woken += 1
                if self.prompt:
                    self.world.loop.call_soon(self.take)

    def dropped(self, reason: str, count: int) -> None:
        self.counted[reason] += count

    def reclaim(self, reader: QueueReader, before: float) -> tuple[list[Popped], bool]:
        old = [message for message, since in self.held if since <= before]
        self.held = deque((message, since) for message, since in self.held if since > before)
        return old, bool(self.held)

    def failed(self, error: Exception) -> None:
        self.failures.append(error)

    unreadable = failed

    def ended(self, reader: QueueReader) -> None:
        self.reader = None
        if self.waiting and not self.closed:
            self.world.loop.call_soon(self.read)

    # What the test does

    def read(self) -> None:
        """See to it that a reader runs and knows that somebody waits."""
        if self.closed:
            return
        if self.reader is None:
            self.reader = QueueReader(self, self.node, self.commands)
        self.reader.poke(self.world.loop)

    def receive(self, count: int = 1) -> None:
        self.waiting += count
        self.read()

    def send(self, count: int = 1) -> None:
        for _ in range(count):
            self.sent.append(b"m%d" % len(self.sent))
            self.world.server.add(KEY.encode(), self.world.server.now_s(), self.sent[-1])

    def take(self) -> None:
        """Have those who were woken take their messages; who finds none waits again."""
        while self.woken:
            self.woken -= 1
            if self.held:
                self.taken.append(self.held.popleft()[0][0])
            else:
                self.receive()

    def cancel(self) -> None:
        """Have all who wait go, also those who were just woken."""
        self.waiting = self.woken = 0

    def close(self) -> None:
        self.closed = True
        self.cancel()
        if self.reader is not None:
            self.world.finish(self.reader.aclose())
        self.world.finish(self.commands.aclose())
        self.world.loop.settle()

    # The promises

    def check_room(self) -> None:
        """See that what is on its way would not bring more than there was room for."""
        for wire in self.node.wires[-1:]:
            if not wire.lost:
                assert _may_bring(wire) <= self.asked

    def check(self) -> None:
        """See that each message is in one place, once the reader has ended."""
        assert all(wire.lost for wire in (*self.node.wires, *self.commands_node.wires))
        assert not self.held
        assert not self.failures
        queued = [member for _, member in self.world.server.queues.get(KEY.encode(), [])]
        lost = [member for wire in self.node.wires for member in _members(wire)]
        for wire in self.node.wires:
            # What comes at the very end of the time that is left for a renewal is lost.
            if wire.given_up is not None and wire.given_up != RENEWAL and _members(wire):
                assert wire.given_up_after_s > PATIENCE_S
        places = Counter(self.taken) + Counter(queued) + Counter(lost)
        missing = [member for member in self.sent if not places[member]]
        # What has expired before it was popped is counted, too.
        assert len(missing) <= self.counted["put_back"] + self.counted["expired"]
        assert max(places.values(), default=1) == 1
        assert set(places) <= set(self.sent)


def _members(wire: FakeWire) -> list[bytes]:
    """Return the messages in replies that have not arrived."""
    members: list[bytes] = []
    for reply in wire.replies:
        if isinstance(reply, list):
            members += [reply[1]] if reply[0] == KEY.encode() else reply[2::2]
    return members


def _may_bring(wire: FakeWire) -> int:
    """Return how many messages a connection brings at most, with what is on its way there."""
    count = len(_members(wire)) + bool(wire.blocked_on)
    for command in wire.written:
        if command[0] == b"BZPOPMIN":
            count += 1
        elif command[0].startswith(b"EVAL"):
            count += int(command[4])
    return count


def play(injection: Injection, *, specific: bool) -> Queue:
    """Receive while messages are there, while none is, across a loss, and with cancellations."""
    with World(injection) as world:
        queue = injection.subject = Queue(world, specific=specific)
        queue.send(3)
        queue.receive(2)
        world.quiet()
        queue.receive(7)
        world.quiet()
        for _ in range(3):
            queue.send(2)
            world.quiet()
        # What was popped for the last ones comes as they have gone.
        queue.prompt = False
        queue.receive(2)
        world.quiet()
        queue.send(2)
        world.quiet()
        queue.cancel()
        queue.prompt = True
        world.flow(0.5)
        queue.receive(3)
        for wire in queue.node.wires[-1:]:
            wire.break_off()
        queue.node.outcomes.append(ConnectionError("refused"))
        world.flow(2)
        world.server.refusals.append(ReadOnlyError("a replica by now"))
        queue.receive(2)
        queue.send()
        world.flow(7)
        queue.receive(20)
        queue.send(2)
        world.flow(3)
        if queue.waiting:
            assert world.server.queues[KEY.encode()] == []
        queue.close()
        queue.check()
    return queue


def cancel(task: asyncio.Task[Any], queue: Queue) -> None:
    """Cancel a task from outside, as asyncio.run() does at its end."""
    task.cancel()


def lose(task: asyncio.Task[Any], queue: Queue) -> None:
    """Lose the connection."""
    for wire in queue.node.wires[-1:]:
        wire.break_off()


def renew(task: asyncio.Task[Any], queue: Queue) -> None:
    """Go to another server."""
    queue.node.renew(RENEWAL)


def stop(task: asyncio.Task[Any], queue: Queue) -> None:
    """Stop the reader; another takes its place."""
    if queue.reader is not None:
        queue.reader.stop()


def go(task: asyncio.Task[Any], queue: Queue) -> None:
    """Have all receivers go."""
    queue.cancel()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("action", [cancel, lose, renew, stop, go])
@pytest.mark.parametrize("specific", [False, True])
def test_whatever_happens_at_any_await_each_message_is_in_one_place(
    specific: bool, action: Callable[..., None], late: bool
) -> None:
    """Each is delivered or in the queue, and is read as soon as somebody receives again."""

    def once(injection: Injection) -> None:
        play(injection, specific=specific)

    assert at_every_await(once, "channels_redis reader", action, late=late) > 10


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("helper", ["put back", "unblock"])
def test_a_cancellation_of_a_task_that_helps_a_reader_loses_no_message(
    helper: str, late: bool
) -> None:
    """A put-back that is under way is finished, and nothing is counted as dropped."""

    def once(injection: Injection) -> None:
        assert not play(injection, specific=False).counted

    assert at_every_await(once, f"channels_redis {helper}", cancel, late=late) > 0


@pytest.mark.parametrize("written", [False, True])
def test_a_loss_of_the_connection_for_commands_costs_a_reader_that_stops_no_message(
    written: bool,
) -> None:
    """What comes while it is unblocked arrives, though CLIENT UNBLOCK has to be sent again."""
    with World() as world:
        queue = Queue(world, specific=True)
        queue.commands.call(pack("PING"))
        queue.receive()
        world.quiet()
        assert queue.reader is not None
        queue.reader.stop()
        if written:
            world.loop.settle()
        queue.send()
        queue.commands_node.wire.break_off()
        world.loop.settle()
        world.flow(1)
        assert queue.taken == queue.sent
        queue.close()
        queue.check()


def _hold_one(queue: Queue) -> None:
    """Have a message arrive for a receiver that has just gone."""
    queue.prompt = False
    queue.receive()
    queue.world.quiet()
    queue.send()
    queue.world.quiet()
    queue.cancel()
    queue.prompt = True


def test_what_went_back_is_received_before_what_was_sent_after_it() -> None:
    """The reader asks for nothing while a message is on its way back."""
    with World() as world:
        queue = Queue(world, specific=False)
        _hold_one(queue)
        world.loop.advance(0.2)
        queue.receive()
        queue.send()
        world.loop.settle()
        queue.node.wire.run()
        queue.node.wire.deliver()
        world.loop.settle()
        assert queue.taken == []
        world.quiet()
        queue.receive()
        world.quiet()
        assert queue.taken == queue.sent
        queue.close()
        queue.check()


def test_what_cannot_go_back_yet_goes_back_later() -> None:
    """A put-back that has certainly not run is tried again, and nothing is counted as dropped."""
    with World() as world:
        queue = Queue(world, specific=False)
        _hold_one(queue)
        queue.commands_node.outcomes += [ConnectionError("refused")] * 12
        world.flow(10)
        assert [member for _, member in world.server.queues[KEY.encode()]] == queue.sent
        queue.close()
        queue.check()
        assert not queue.counted


class Receiving(Player):
    """Sends and receives, over connections that fail."""

    def __init__(self, world: World, *, specific: bool) -> None:
        self.queue = Queue(world, specific=specific)
        super().__init__(world, self.queue.node)

    def play(self, chosen: list[Action]) -> None:
        for action in chosen:
            super().play([action])
            self.queue.check_room()

    def send(self, number: int) -> None:
        self.queue.send(number + 1)

    def receive(self, number: int) -> None:
        self.queue.receive(number + 1)

    def take(self, number: int) -> None:
        self.queue.take()

    def leave(self, number: int) -> None:
        """Have all receivers go; or have them come back at once for what is there."""
        self.queue.cancel()
        self.queue.prompt = number % 2 > 0

    def stop(self, number: int) -> None:
        if self.queue.reader is not None:
            self.queue.reader.stop()

    def run_commands(self, number: int) -> None:
        """Have the put-backs and CLIENT UNBLOCKs run, or lose their connection."""
        for wire in self.queue.commands_node.wires[-1:]:
            if number == 3:
                wire.break_off()
            wire.run()
            wire.deliver(number)

    def refuse(self, number: int) -> None:
        """Have the server refuse the next pop, as one that is a replica by now."""
        if self.node.wires and self.node.wire.written:
            self.world.server.refusals.append(ReadOnlyError("a replica"))
            self.node.wire.run(1)


OFTEN = "send receive step run deliver run_commands"
SOMETIMES = "take wait flow lose renew leave stop refuse refuse_dial hold_dial let_dial"


@settings(deadline=None)
@given(actions(OFTEN, SOMETIMES), st.booleans())
def test_in_any_order_of_events_each_message_is_in_one_place(
    chosen: list[Action], specific: bool
) -> None:
    """Each is delivered, in the queue, or was lost on a connection; never at two places."""
    with World() as world:
        player = Receiving(world, specific=specific)
        player.play(chosen)
        player.let_dial()
        queue = player.queue
        queue.prompt = True
        queue.take()
        queue.receive(len(queue.sent) + 1)
        world.flow(20)
        assert not world.server.queues.get(KEY.encode())
        queue.close()
        queue.check()
