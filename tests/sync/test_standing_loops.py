"""Event loops that stand still, are held up, or are closed bare, beside ones that run."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from channels_redis._receiving import mailbox
from channels_redis._receiving.mailboxes import Mailboxes
from channels_redis._receiving.messages import Whole
from channels_redis._runtime import scope
from channels_redis._transport.multiplexer import Multiplexer
from channels_redis._transport.packing import pack
from channels_redis._watch.outages import Health, Outage
from channels_redis.core import RedisChannelLayer
from channels_redis.testing.servers import RedisServer, wait_until
from tests.helpers import numbered, receive, wait_for


class Running:
    """An event loop that runs in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what a coroutine returns there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a task there."""

        async def begin() -> asyncio.Task[Any]:
            return asyncio.create_task(work)

        task: asyncio.Task[Any] = self.do(begin())
        return task

    def end(self) -> None:
        """Cancel all tasks, and close."""

        async def cancel_all() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            if others:
                await asyncio.wait(others)
            await self.loop.shutdown_asyncgens()

        self.do(cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture
def running() -> Iterator[Running]:
    """One such loop."""
    loop = Running()
    yield loop
    loop.end()


@pytest.fixture
def layer(redis_url: str, prefix: str) -> Iterator[RedisChannelLayer]:
    """A core layer, for all loops of the test."""
    layer = RedisChannelLayer(hosts=[redis_url], prefix=prefix)
    yield layer
    layer.sync.close()


async def collect(layer: RedisChannelLayer, channel: str, got: list[Any]) -> None:
    """Receive for ever."""
    while True:
        got.append(await layer.receive(channel))


@pytest.mark.parametrize("general", [False, True], ids=["specific", "general"])
def test_consumers_receive_although_the_loop_that_reads_for_them_is_stopped(
    layer: RedisChannelLayer, running: Running, general: bool
) -> None:
    """They began to wait while it ran, several of one queue, and wait on."""
    still = asyncio.new_event_loop()
    channels = ["work"] * 3
    if not general:
        channels = [still.run_until_complete(layer.new_channel()) for _ in range(3)]
    got: list[Any] = []

    async def read_for_all() -> None:
        waiting = asyncio.create_task(layer.receive(channels[0]))
        await asyncio.sleep(0.1)
        for channel in channels[1:]:
            asyncio.run_coroutine_threadsafe(collect(layer, channel, got), running.loop)
        await asyncio.sleep(0.2)
        waiting.cancel()
        await asyncio.wait({waiting})

    still.run_until_complete(read_for_all())
    # The first may have been popped by the reader that stands still, and comes when that goes on.
    for number in range(3):
        layer.sync.send(channels[1], numbered(number))
    wait_until(lambda: numbered(2) in got, "heard", timeout_s=10)
    still.run_until_complete(wait_for(lambda: len(got) == 3))
    still.run_until_complete(still.shutdown_asyncgens())
    still.close()


@pytest.mark.parametrize("closed", [False, True], ids=["standing", "closed bare"])
def test_a_message_goes_to_another_where_the_loop_of_the_woken_one_has_stopped(
    layer: RedisChannelLayer, running: Running, closed: bool
) -> None:
    """It stopped after the handler during which the message came."""
    channel, other = (running.do(layer.new_channel()) for _ in range(2))
    running.start(layer.receive(other))
    got: list[Any] = []
    still = asyncio.new_event_loop()
    sending = threading.Thread(target=lambda: layer.sync.send(channel, numbered(1)))

    async def wait_first() -> asyncio.Task[Any]:
        first = asyncio.create_task(layer.receive(channel))
        first._log_destroy_pending = False  # type: ignore[attr-defined]  # see sync.rst
        await asyncio.sleep(0.1)
        asyncio.run_coroutine_threadsafe(collect(layer, channel, got), running.loop)
        await asyncio.sleep(0.1)
        sending.start()
        # Blocks the loop, as a handler does, until the message is there.
        wait_until(lambda: layer._mailboxes.boxes[channel].items, "there")
        return first

    first = still.run_until_complete(wait_first())
    if closed:
        still.close()
    wait_until(lambda: got == [numbered(1)], "heard", timeout_s=10)
    sending.join()
    if not closed:
        first.cancel()
        still.run_until_complete(asyncio.wait({first}))
        still.run_until_complete(still.shutdown_asyncgens())
        still.close()


def test_loops_that_only_received_and_were_closed_bare_are_forgotten(
    layer: RedisChannelLayer, running: Running
) -> None:
    """The reader that serves them runs on another loop."""
    running.start(layer.receive(running.do(layer.new_channel())))
    loops = []

    async def wait_a_moment() -> None:
        waiting = asyncio.create_task(layer.receive(await layer.new_channel()))
        waiting._log_destroy_pending = False  # type: ignore[attr-defined]  # see sync.rst
        await asyncio.sleep(0.01)

    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(wait_a_moment())
        loop.close()
        loops.append(weakref.ref(loop))
        del loop
    wait_until(lambda: gc.collect() is not None and not any(one() for one in loops), "forgotten")


def test_a_batch_that_arrived_as_its_loop_was_closed_bare_is_kept_whole(
    layer: RedisChannelLayer, server: Any
) -> None:
    """Also behind a message for so many that it wakes them in parts."""
    loop = asyncio.new_event_loop()

    async def prepare() -> list[str]:
        channels = [await layer.new_channel() for _ in range(150)]
        await asyncio.gather(*[layer.group_add("room", channel) for channel in channels])
        await layer.group_send("room", numbered(0))
        await layer.send(channels[0], numbered(1))
        return channels

    async def pop_and_stop(channel: str) -> asyncio.Task[Any]:
        waiting = asyncio.create_task(layer.receive(channel))
        waiting._log_destroy_pending = False  # type: ignore[attr-defined]  # see sync.rst
        while not any(
            reader._pops.pending
            for queue in layer._queues.values()
            for reader in queue._readers.values()
        ):
            await asyncio.sleep(0)
        # The loop stands still from here on, until the server has answered the pop.
        (queue,) = layer._queues.values()
        wait_until(lambda: server.command("ZCARD", queue.key) == 0, "popped")
        server.command("PING")
        return waiting

    async def receive_two(channel: str) -> list[Any]:
        return [await receive(layer, channel, timeout_s=5) for _ in range(2)]

    channels = loop.run_until_complete(prepare())
    abandoned = loop.run_until_complete(pop_and_stop(channels[1]))
    loop.close()
    assert asyncio.run(receive_two(channels[0])) == [numbered(0), numbered(1)]
    del abandoned


async def wait_and_stop(layer: RedisChannelLayer, server: Any) -> tuple[str, asyncio.Task[Any]]:
    """Receive, and return when the server waits for a message."""
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(channel))
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]  # see sync.rst
    while "cmd=bzpopmin" not in str(await asyncio.to_thread(server.command, "CLIENT", "LIST")):
        await asyncio.sleep(0.01)
    return channel, waiting


def test_a_message_that_arrives_for_a_stopped_loop_is_kept_where_that_is_closed_bare(
    layer: RedisChannelLayer, server: Any
) -> None:
    """Nobody has read it, and it is not in its queue any more."""
    pytest.importorskip("hiredis")  # redis-py's own parser can't go on without its loop
    loop = asyncio.new_event_loop()
    channel, abandoned = loop.run_until_complete(wait_and_stop(layer, server))
    layer.sync.send(channel, numbered(0))
    (queue,) = layer._queues.values()
    wait_until(lambda: server.command("ZCARD", queue.key) == 0, "popped")
    loop.close()
    assert asyncio.run(receive(layer, channel, timeout_s=5)) == numbered(0)
    del abandoned


@pytest.mark.parametrize("closed", [True, False], ids=["closed bare", "left by its thread"])
def test_a_message_that_is_popped_as_its_loop_goes_is_kept(
    private_server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    """A server drops a message if it sees the end of the connection before it has replied."""
    pytest.importorskip("hiredis")  # redis-py's own parser can't go on without its loop
    layer, sender = (RedisChannelLayer(hosts=[private_server.url], prefix=prefix) for _ in "12")
    loop, stopped, leave, going = asyncio.new_event_loop(), *(threading.Event() for _ in "123")
    abandoned: list[tuple[str, asyncio.Task[Any]]] = []
    # Either of them: the server is asked to end the pop, or sees the end of the connection.
    monkeypatch.setattr(Multiplexer, "write_now", followed_by(Multiplexer.write_now, going))
    monkeypatch.setattr(scope.Scope, "shut", followed_by(scope.Scope.shut, going))
    monkeypatch.setattr(scope, "LEAVE_S", 20)

    def live() -> None:
        loop.run_until_complete(layer.send("work", numbered(0)))
        abandoned.append(loop.run_until_complete(wait_and_stop(layer, private_server)))
        stopped.set()
        leave.wait(20)
        if closed:
            loop.close()
            going.set()

    living = threading.Thread(target=live)
    living.start()
    assert stopped.wait(20)
    ((channel, waiting),) = abandoned
    sending = send_to_frozen(private_server, sender, channel)
    leave.set()
    assert going.wait(20)
    private_server.thaw()
    for thread in (living, sending):
        thread.join()
    assert asyncio.run(receive(layer, channel, timeout_s=5)) == numbered(1)
    if not closed:
        waiting.cancel()
        loop.run_until_complete(asyncio.wait({waiting}))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    layer.sync.close()
    sender.sync.close()


def followed_by(method: Callable[..., Any], event: threading.Event) -> Callable[..., Any]:
    """Return a method that also sets an event, unless it returns False."""

    def call(*args: Any) -> Any:
        result = method(*args)
        if result is not False:
            event.set()
        return result

    return call


def send_to_frozen(
    server: RedisServer, sender: RedisChannelLayer, channel: str
) -> threading.Thread:
    """Freeze a server, and write a message to it; return the thread that waits for its reply."""
    sender.sync.send("work", numbered(0))
    server.freeze()
    sending = threading.Thread(target=lambda: sender.sync.send(channel, numbered(1)))
    sending.start()
    (session,) = sender._sessions.all().values()
    backend: Any = session.backend(0)
    wait_until(lambda: backend._multiplexer._written, "written")
    return sending


def test_what_was_written_for_a_stopped_loop_takes_no_reply_of_others(
    layer: RedisChannelLayer,
) -> None:
    """If the loop goes on after all."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(layer.send("work", numbered(0)))
    (session,) = layer._sessions.all().values()
    backend: Any = session.backend(0)

    async def echo(text: str) -> Any:
        return await backend._multiplexer.call(pack("ECHO", text))

    assert backend._multiplexer.write_now(pack("ECHO", "nobody's"))
    assert loop.run_until_complete(echo("mine")) == b"mine"
    loop.run_until_complete(layer.close())
    loop.close()


async def test_a_message_that_was_read_as_another_loop_took_over_is_delivered(
    layer: RedisChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop that reads was slow, and goes on in that moment."""
    pytest.importorskip("hiredis")  # without it, nothing is taken over
    channel = await layer.new_channel()
    waiting = asyncio.create_task(receive(layer, channel, timeout_s=5))
    await wait_for(lambda: any(queue._readers for queue in layer._queues.values()))
    (queue,) = layer._queues.values()
    (reader,) = queue._readers.values()
    # A blocking pop, without a batch before it that would be repeated.
    await wait_for(lambda: list(reader._pops._asked) == [False])
    taken = []

    def take_over(*_: Any) -> None:
        monkeypatch.undo()
        taken.extend(reader.move_out(None))

    monkeypatch.setattr(reader._node, "reply_came", take_over)
    await layer.send(channel, numbered(0))
    assert await waiting == numbered(0)
    for late in taken:
        late.left.close()
    await layer.close()


async def test_a_consumer_that_was_woken_and_has_not_come_yet_keeps_its_mailbox(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its loop is held up, and the task that made its channel ended while it waited."""
    monkeypatch.setattr(mailbox, "GONE_S", 0)
    loop = asyncio.get_running_loop()
    mailboxes = Mailboxes(lambda channel: None, lambda channel, reason, count: None, 60, 60, 10_000)
    box = mailboxes.open("channel")
    home = FakeHome(loop)
    box.subscribed, box.home = True, home

    async def make() -> None:
        mailboxes.made_here(box)

    making = loop.create_task(make())
    waiter = mailboxes.wait(box, loop)
    assert waiter is not None
    await making
    await asyncio.sleep(0)
    mailboxes.put(box, Whole({}), loop)
    assert waiter.done()
    assert mailboxes.sweep(box.home) == []
    assert mailboxes.take(box) is not None


async def test_a_channel_that_was_closed_while_it_was_made_is_remembered_nowhere() -> None:
    """Another thread may end its mailbox before the task that makes it is noted."""
    mailboxes = Mailboxes(lambda channel: None, lambda channel, reason, count: None, 60, 60, 10_000)
    box = mailboxes.open("channel")
    mailboxes.discard(box)

    async def make() -> None:
        mailboxes.made_here(box)

    making = asyncio.get_running_loop().create_task(make())
    await making
    assert making not in mailboxes._made
    assert mailboxes._unheard == set()


class FakeHome:
    """Stands for the session of a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def taken_over(self, box: Any) -> None:
        pass


def test_hooks_are_called_for_an_outage_without_holding_a_lock() -> None:
    """A hook that waits for a thread which asks for the statistics holds up neither for ever."""
    told: list[tuple[bool, bool]] = []

    def changed(began: bool, outage_s: float) -> None:
        asking = threading.Thread(target=outage.seconds)
        asking.start()
        asking.join(5)
        told.append((began, not asking.is_alive()))

    outage = Outage(changed)
    report: Any = list[Any]().append
    health = Health("server", report, outage)
    user = Outage(changed)  # as good as any
    health.works(user)
    health.lost(user, "closed")
    health.works(user)
    assert told == [(True, True), (False, True)]


def test_what_the_reader_of_a_standing_loop_has_popped_reaches_the_loop_that_runs(
    redis_url: str, prefix: str
) -> None:
    """It read for a consumer that is busy; nobody reads its socket until it runs again."""
    pytest.importorskip("hiredis")  # without it, redis-py alone can read what came
    layer, sender = (RedisChannelLayer(hosts=[redis_url], prefix=prefix) for _ in range(2))

    async def converse() -> str:
        channel: str = await layer.new_channel()
        await sender.send(channel, numbered(1))
        assert await receive(layer, channel) == numbered(1)
        return channel

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    busy = first.run_until_complete(converse())
    # Both come while the first loop stands still, with a pop of its own on its way.
    second.run_until_complete(converse())
    second.run_until_complete(sender.send(busy, numbered(2)))
    assert first.run_until_complete(receive(layer, busy)) == numbered(2)
    for loop in (first, second):
        for one in (layer, sender):
            loop.run_until_complete(one.close())
        loop.close()
