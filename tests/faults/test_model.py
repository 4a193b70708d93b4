"""Both layers beside a small model of what a channel layer is, over thousands of random steps.

Two processes (two layers) share a server behind a bad network. The model knows for each message
whether it has to come, or may: a message is *certain* if its sender was told that it was sent and
no fault can have swallowed it since. Whatever the steps were, in the end

* every certain message has come, to everybody it was for,
* no message has come twice, or to somebody it was not for,
* messages of one channel have come in the order in which they were sent.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Container, Coroutine
from functools import partial
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from channels_redis.exceptions import ConnectionLost
from channels_redis.testing.servers import RedisServer
from tests.conftest import class_of, find_server_or_skip
from tests.helpers import subscribers, wait_for
from tests.proxy import Proxy

BOUND_S = 10.0
#: In place of the number of a message that was certainly not sent.
UNSENT = -1
GROUPS = ["red", "green", "blue"]
WORK = ["work.a", "work.b"]
FAULTS = [
    "forget_scripts",
    "cut_in_a_quiet_moment",
    "cut",
    "kill_subscribers",
    "kill_others",
    "cut_while_sending",
    "close_a_process",
]

indices = st.integers(0, 100)
processes = st.integers(0, 1)
ticks = st.integers(0, 5)


class Pending:
    """A message on its way to one channel."""

    def __init__(self, number: int, certain: bool) -> None:
        self.number = number
        self.certain = certain


class Inbox:
    """What the model expects on one channel."""

    def __init__(self, name: str, process: int, *, ordered: bool) -> None:
        self.name = name
        self.process = process
        self.pending: deque[Pending] = deque()
        #: All that were ever for it, and what it may overhear, as it joined a group on their way.
        self.due: set[int] = set()
        self.overheard: set[int] = set()
        self.waiting: asyncio.Task[Any] | None = None
        self._ordered = ordered

    @property
    def certain(self) -> int:
        return sum(message.certain for message in self.pending)

    def doubt(self, numbers: Container[int] | None = None) -> None:
        """Whatever is on its way may not come, or whichever of these messages."""
        for message in self.pending:
            if numbers is None or message.number in numbers:
                message.certain = False

    def expect(self, number: int, certain: bool) -> None:
        """Note a message that has to come, or may."""
        self.due.add(number)
        self.pending.append(Pending(number, certain))

    def take(self, number: int) -> None:
        """Compare what came with what was expected."""
        if number in self.overheard:
            self.overheard.remove(number)
            self.due.add(number)
            return
        expected = [message.number for message in self.pending]
        assert number in expected, f"{number} came to {self.name}, unlike {expected}"
        if not self._ordered:
            del self.pending[expected.index(number)]
            return
        while (message := self.pending.popleft()).number != number:
            assert not message.certain, f"{number} came before {message.number} to {self.name}"


async def pass_ticks(ticks: int) -> None:
    """Let the event loop go round."""
    for _ in range(ticks):
        await asyncio.sleep(0)


class Fleet:
    """The layers, the faults, and the model."""

    def __init__(self, kind: str, server: RedisServer, proxy: Proxy, prefix: str) -> None:
        self.kind = kind
        self.server = server
        self.proxy = proxy
        self.errors: list[Any] = []
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        options = {"hosts": [proxy.url], "prefix": prefix, "capacity": 10_000}
        self.layers = [class_of(kind)(**options) for _ in range(2)]
        self.inboxes: list[Inbox] = []
        self.work = {name: Inbox(name, 0, ordered=False) for name in WORK}
        self.groups: dict[str, set[Inbox]] = {name: set() for name in GROUPS}
        self.sent_to: dict[str, set[int]] = {name: set() for name in GROUPS}
        self.numbers = itertools.count()
        #: What was done, and what callers were told: times make each run another, so that
        #: hypothesis often can't play a failure again.
        self.history: list[str] = []
        self.probes: list[str] = []
        # Whether subscriptions may be missing since the last cut.
        self.shaken = False
        self.run(self._open())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 3 * BOUND_S))

    async def _open(self) -> None:
        self.probes = [await layer.new_channel() for layer in self.layers]

    # What applications do

    async def new_channel(self, process: int) -> None:
        name = await self.layers[process].new_channel()
        self.inboxes.append(Inbox(name, process, ordered=True))

    async def group_add(self, group: str, inbox: Inbox) -> None:
        if self.kind == "pubsub" and inbox not in self.groups[group]:
            # Where the process listens to the group already, what is on its way is for all members.
            inbox.overheard |= self.sent_to[group] - inbox.due
        await self.layers[inbox.process].group_add(group, inbox.name)
        self.groups[group].add(inbox)

    async def group_discard(self, group: str, inbox: Inbox) -> None:
        if self.kind == "pubsub":
            # It goes to those who are members when it arrives.
            inbox.doubt(self.sent_to[group])
        await self.layers[inbox.process].group_discard(group, inbox.name)
        self.groups[group].discard(inbox)

    async def send_to(self, process: int, inbox: Inbox) -> None:
        layer = self.layers[process]
        await self._send([inbox], lambda message: layer.send(inbox.name, message))

    async def group_send(self, process: int, group: str) -> None:
        layer, members = self.layers[process], list(self.groups[group])
        number = await self._send(members, lambda message: layer.group_send(group, message))
        self.sent_to[group].add(number)

    async def _send(self, targets: list[Inbox], sending: Callable[[Any], Awaitable[None]]) -> int:
        """Send, and note what has to come of it; return the number of the message."""
        number = next(self.numbers)
        names = [inbox.name[-8:] for inbox in targets]
        try:
            await sending({"type": "test.model", "number": number})
            certain = True
        except ConnectionLost as error:
            self.history.append(f"{number} to {names}: {error}")
            if not error.maybe_executed:
                return UNSENT
            certain = False
        else:
            self.history.append(f"{number} to {names}: sent")
        for inbox in targets:
            may_be_deaf = self.shaken and self.kind == "pubsub" and inbox.name not in self.work
            inbox.expect(number, certain and not may_be_deaf)
        return number

    async def receive(self, process: int, inbox: Inbox) -> None:
        """Receive what has to come next, and what may come before it."""
        await self._collect(inbox)
        certain = inbox.certain
        while inbox.certain and inbox.certain == certain and inbox.waiting is None:
            receiving = self.layers[process].receive(inbox.name)
            inbox.take((await asyncio.wait_for(receiving, BOUND_S))["number"])

    async def receive_a_moment(self, process: int, inbox: Inbox, ticks: int) -> None:
        """Start to receive, and cancel it some ticks of the loop later."""
        if inbox.waiting is not None:
            return
        task = asyncio.create_task(self.layers[process].receive(inbox.name))
        await pass_ticks(ticks)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            inbox.take(task.result()["number"])

    async def wait(self, inbox: Inbox) -> None:
        """Have somebody wait on a channel for as long as it takes."""
        if inbox.waiting is None:
            receiving = self.layers[inbox.process].receive(inbox.name)
            inbox.waiting = asyncio.create_task(receiving)
            await asyncio.sleep(0)

    async def _collect(self, inbox: Inbox) -> None:
        """Take what the one who waits has received, if anything has to come."""
        task = inbox.waiting
        if task is not None and (inbox.certain or task.done()):
            await asyncio.wait({task}, timeout=BOUND_S)
            assert task.done(), f"{inbox.name} is deaf"
            inbox.waiting = None
            inbox.take(task.result()["number"])

    # What goes wrong

    async def forget_scripts(self, process: int, ticks: int) -> None:
        self.server.command("SCRIPT", "FLUSH")

    async def cut_in_a_quiet_moment(self, process: int, ticks: int) -> None:
        """Nothing is on its way, so nothing is lost."""
        await self.settle()
        self._cut()

    async def cut(self, process: int, ticks: int) -> None:
        """Whatever is on its way may be lost."""
        self._doubt_all()
        self._cut()

    async def kill_subscribers(self, process: int, ticks: int) -> None:
        self._doubt_all()
        self.shaken = True
        self.server.command("CLIENT", "KILL", "TYPE", "pubsub")

    async def kill_others(self, process: int, ticks: int) -> None:
        self._doubt_all()
        self.shaken = True
        self.server.command("CLIENT", "KILL", "TYPE", "normal")

    async def cut_while_sending(self, process: int, ticks: int) -> None:
        """Send to all channels at once, and cut some ticks of the loop later."""
        self.shaken = True
        sends = [self.send_to(process, inbox) for inbox in (*self.inboxes, *self.work.values())]
        sending = asyncio.gather(*sends)
        await pass_ticks(ticks)
        self._cut()
        await sending
        self._doubt_all()

    async def close_a_process(self, process: int, ticks: int) -> None:
        """Its channels are gone; it works again with new ones."""
        await self.layers[process].close()
        mine = {inbox for inbox in self.inboxes if inbox.process == process}
        for inbox in mine:
            if inbox.waiting is not None:
                await asyncio.wait({inbox.waiting}, timeout=BOUND_S)
                assert inbox.waiting.done()
                inbox.waiting.exception()
        self.inboxes = [inbox for inbox in self.inboxes if inbox not in mine]
        for members in self.groups.values():
            members -= mine
        self.probes[process] = await self.layers[process].new_channel()
        await self.new_channel(process)

    def _cut(self) -> None:
        self.proxy.cut()
        self.shaken = True
        for inbox in self.work.values():
            # A message on its way back to its queue is not sent again.
            inbox.doubt()

    def _doubt_all(self) -> None:
        for inbox in (*self.inboxes, *self.work.values()):
            inbox.doubt()

    async def settle(self) -> None:
        """Wait until whatever is on its way to a channel has arrived in its process."""
        for layer, probe in zip(self.layers, self.probes, strict=True):
            await wait_for(partial(self._hears, layer, probe))
        if self.shaken and self.kind == "pubsub":
            prefix = self.layers[0].prefix
            topics = [inbox.name for inbox in self.inboxes]
            topics += [f"{prefix}__group__{name}" for name, some in self.groups.items() if some]
            await wait_for(lambda: all(subscribers(self.server, topic) for topic in topics))
        self.shaken = False

    async def _hears(self, layer: Any, probe: str) -> bool:
        """Send a message that overtakes nothing, and receive it; False if it was lost."""
        number = next(self.numbers)
        try:
            await layer.send(probe, {"type": "test.probe", "number": number})
            while (await asyncio.wait_for(layer.receive(probe), 0.1))["number"] != number:
                pass
        except (ConnectionLost, asyncio.TimeoutError):
            return False
        return True

    # Ends

    async def finish(self) -> None:
        """Receive all that has to come, and find nothing besides."""
        await self.settle()
        for inbox in self.inboxes:
            while inbox.certain:
                await self.receive(inbox.process, inbox)
            if inbox.waiting is not None:
                inbox.waiting.cancel()
                await asyncio.wait({inbox.waiting})
            await self._nothing_besides(inbox, self.layers[inbox.process])
        for inbox in self.work.values():
            while inbox.certain:
                await self.receive(0, inbox)
        for layer in self.layers:
            await layer.close()

    async def _nothing_besides(self, inbox: Inbox, layer: Any) -> None:
        marker = next(self.numbers)
        await layer.send(inbox.name, {"type": "test.marker", "number": marker})
        while True:
            message = await asyncio.wait_for(layer.receive(inbox.name), BOUND_S)
            if message["number"] == marker:
                return
            inbox.take(message["number"])

    def close(self) -> None:
        try:
            self.run(self.finish())
            assert asyncio.all_tasks(self.loop) == set()
            assert self.errors == []
        finally:
            for layer in self.layers:
                self.run(layer.close())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


class LayerMachine(RuleBasedStateMachine):
    """The random steps."""

    kind: ClassVar[str]
    server: ClassVar[RedisServer]
    proxy: ClassVar[Proxy]
    serial: ClassVar[Any] = itertools.count()
    steps: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        prefix = f"model-{next(self.serial)}-"
        self.fleet = Fleet(self.kind, self.server, self.proxy, prefix)
        for process in (0, 0, 1):
            self._do("new_channel", self.fleet.new_channel(process))
        for name, inbox in zip(GROUPS, self.fleet.inboxes, strict=True):
            self._do("group_add", self.fleet.group_add(name, inbox))

    def _inbox(self, index: int) -> Inbox:
        return self.fleet.inboxes[index % len(self.fleet.inboxes)]

    def _do(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        self.steps[name] += 1
        self.fleet.history.append(name)
        try:
            self.fleet.run(work)
        except BaseException:
            print("\n  ".join(["\nWhat was done:", *self.fleet.history]))
            raise

    # What applications do

    @precondition(lambda self: len(self.fleet.inboxes) < 6)
    @rule(process=processes)
    def new_channel(self, process: int) -> None:
        self._do("new_channel", self.fleet.new_channel(process))

    @rule(process=processes, index=indices, count=st.integers(1, 5))
    def send(self, process: int, index: int, count: int) -> None:
        inbox = self._inbox(index)
        for _ in range(count):
            self._do("send", self.fleet.send_to(process, inbox))

    @rule(process=processes, name=st.sampled_from(WORK), count=st.integers(1, 5))
    def send_to_workers(self, process: int, name: str, count: int) -> None:
        for _ in range(count):
            self._do("send_to_workers", self.fleet.send_to(process, self.fleet.work[name]))

    @rule(process=processes, name=st.sampled_from(GROUPS), count=st.integers(1, 3))
    def group_send(self, process: int, name: str, count: int) -> None:
        for _ in range(count):
            self._do("group_send", self.fleet.group_send(process, name))

    @rule(index=indices, name=st.sampled_from(GROUPS))
    def group_add(self, index: int, name: str) -> None:
        self._do("group_add", self.fleet.group_add(name, self._inbox(index)))

    @rule(index=indices, name=st.sampled_from(GROUPS))
    def group_discard(self, index: int, name: str) -> None:
        self._do("group_discard", self.fleet.group_discard(name, self._inbox(index)))

    @rule(index=indices, count=st.integers(1, 5))
    def receive(self, index: int, count: int) -> None:
        inbox = self._inbox(index)
        for _ in range(count):
            self._do("receive", self.fleet.receive(inbox.process, inbox))

    @rule(process=processes, name=st.sampled_from(WORK), count=st.integers(1, 5))
    def work(self, process: int, name: str, count: int) -> None:
        for _ in range(count):
            self._do("work", self.fleet.receive(process, self.fleet.work[name]))

    @rule(index=indices)
    def wait(self, index: int) -> None:
        self._do("wait", self.fleet.wait(self._inbox(index)))

    @rule(index=indices, ticks=ticks)
    def receive_a_moment(self, index: int, ticks: int) -> None:
        inbox = self._inbox(index)
        self._do("cancel", self.fleet.receive_a_moment(inbox.process, inbox, ticks))

    @rule(process=processes, name=st.sampled_from(WORK), ticks=ticks)
    def work_a_moment(self, process: int, name: str, ticks: int) -> None:
        inbox = self.fleet.work[name]
        self._do("cancel", self.fleet.receive_a_moment(process, inbox, ticks))

    # What goes wrong

    @rule(what=st.sampled_from(FAULTS), process=processes, ticks=ticks, calm=st.booleans())
    def fault(self, what: str, process: int, ticks: int, calm: bool) -> None:
        self._do(what, getattr(self.fleet, what)(process, ticks))
        if calm:
            self._do("settle", self.fleet.settle())

    def teardown(self) -> None:
        self.fleet.close()


EXAMPLES = 25
STEPS = 40


@pytest.mark.parametrize(
    "examples", [EXAMPLES, pytest.param(EXAMPLES * 20, marks=[pytest.mark.slow])]
)
def test_a_layer_does_what_the_model_says(kind: str, examples: int) -> None:
    """Thousands of random sends, receives, joins, cancellations, closes, cuts and kills."""
    find_server_or_skip()
    profile = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=examples == EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    with RedisServer() as server, Proxy(server.host, server.port) as proxy:
        machine: Any = type(
            "Machine",
            (LayerMachine,),
            {"kind": kind, "server": server, "proxy": proxy, "steps": Counter()},
        )
        run_state_machine_as_test(machine, settings=profile)
    print(f"\n{kind}: {machine.steps.total()} steps, {dict(machine.steps.most_common())}")
