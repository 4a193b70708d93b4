"""How many functions and files of the package one operation goes through, where all is warm.

What is counted, so that figures can be compared: the distinct functions of ``channels_redis`` that
are entered or resumed on the thread of the event loop, as ``sys.setprofile`` sees them, and the
distinct files in which they are; with one server, hiredis, msgpack, no encryption, nobody who
listens to events. A lambda and a property count as functions. A comprehension and a generator
expression count as parts of the function in which they stand. Each operation is done several times,
and what was entered each time counts, so that timers that happen to be due do not.

For the code that became 5.0.0, this way of counting gives 47 functions in 19 files for a send on
core, 60 in 20 for a group_send, 37 in 13 for a delivery; on pubsub 39 in 18 for a group_send, and
19 in 9 for a delivery.

===============  =========================================================================
operation        from, to
===============  =========================================================================
send             the call of ``send()``, its return; another process would receive it
group_send       the same; one member in another process
delivery         the bytes arrive, a ``receive()`` that has waited for them returns; a group
                 message, as most are
first receive    the call of ``receive()`` on a new channel until it waits
===============  =========================================================================
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import channels_redis
from channels_redis.testing.servers import RedisServer
from tests.conftest import class_of
from tests.helpers import ExternalServer, wait_for

pytest.importorskip("hiredis")

PACKAGE = str(Path(channels_redis.__file__).parent)
PARTS_OF_FUNCTIONS = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}
MESSAGE = {"type": "chat.message", "text": "hello"}
TIMES = 5

#: Functions and files. What was reached; these numbers only become smaller.
CEILINGS = {
    ("core", "send"): (44, 20),
    ("core", "group_send"): (62, 25),
    ("core", "delivery"): (49, 17),
    ("core", "first receive"): (12, 8),
    ("pubsub", "send"): (35, 18),
    ("pubsub", "group_send"): (36, 18),
    ("pubsub", "delivery"): (23, 11),
    ("pubsub", "first receive"): (7, 4),
}


class Hops:
    """Notes the functions of the package that are entered while it is in force."""

    def __init__(self) -> None:
        self.codes: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            self.codes.add(code)

    async def note(self, doing: Awaitable[Any]) -> None:
        before = sys.getprofile()
        sys.setprofile(self)
        try:
            await doing
        finally:
            sys.setprofile(before)


async def on_the_path(operation: Callable[[Hops], Coroutine[Any, Any, None]]) -> list[CodeType]:
    """Return the functions that are entered each time that an operation is done."""
    every: list[set[CodeType]] = []
    for _ in range(TIMES):
        hops = Hops()
        await operation(hops)
        every.append(hops.codes)
    codes = [code for code in set.intersection(*every) if code.co_name not in PARTS_OF_FUNCTIONS]
    return sorted(codes, key=lambda code: (code.co_filename, code.co_firstlineno))


class Site:
    """A layer with one channel in one group, and a process without a loop of its own."""

    def __init__(self, kind: str, server: RedisServer | ExternalServer, prefix: str) -> None:
        self.kind = kind
        self.server = server
        self.layer = self.make(prefix)
        self.elsewhere = self.make(prefix)
        self.channel = self.there = ""

    def make(self, prefix: str) -> Any:
        return class_of(self.kind)(hosts=[self.server.url], prefix=prefix)

    async def warm(self) -> None:
        """Do everything a few times, and leave an addressee that nobody reads for."""
        self.there = await self.elsewhere.new_channel()
        await self.elsewhere.group_add("elsewhere", self.there)
        if self.kind == "pubsub":
            await self.elsewhere.close()
        self.channel = await self.layer.new_channel()
        await self.layer.group_add("here", self.channel)
        for _ in range(3):
            await self.layer.send(self.channel, MESSAGE)
            await self.layer.receive(self.channel)
            await self.layer.group_send("here", MESSAGE)
            await self.layer.receive(self.channel)
            await self.layer.send(self.there, MESSAGE)

    async def send(self, hops: Hops) -> None:
        await hops.note(self.layer.send(self.there, MESSAGE))

    async def group_send(self, hops: Hops) -> None:
        await hops.note(self.layer.group_send("elsewhere", MESSAGE))

    async def delivery(self, hops: Hops) -> None:
        waiting = asyncio.create_task(self.layer.receive(self.channel))
        await self.wait_until_it_waits()
        # A thread has a profile of its own.
        sending = threading.Thread(target=self.layer.sync.group_send, args=("here", MESSAGE))

        async def delivered() -> None:
            sending.start()
            await waiting

        await hops.note(delivered())
        await asyncio.to_thread(sending.join)

    async def first_receive(self, hops: Hops) -> None:
        channel = await self.layer.new_channel()
        waiting = asyncio.create_task(self.layer.receive(channel))

        async def two_turns() -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        await hops.note(two_turns())
        assert self.layer.stats().waiting == 1
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting

    async def wait_until_it_waits(self) -> None:
        """Wait until the layer has nothing to do but to wait for a message."""
        await wait_for(lambda: self.layer.stats().waiting)
        if self.kind == "core":
            # Its reader waits in a blocking pop, which is the last that it does.
            command = self.server.command
            while "cmd=bzpopmin" not in str(await asyncio.to_thread(command, "CLIENT", "LIST")):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("operation", ["send", "group_send", "delivery", "first receive"])
async def test_a_message_takes_no_more_hops_than_before(
    kind: str, operation: str, server: RedisServer | ExternalServer, prefix: str
) -> None:
    """The way of a message stays short enough to be followed; ``pytest -s`` shows it."""
    site = Site(kind, server, prefix)
    await site.warm()
    codes = await on_the_path(getattr(site, operation.replace(" ", "_")))
    await site.layer.close()
    await site.elsewhere.close()
    files = {code.co_filename for code in codes}
    print(f"\n{kind} {operation}: {len(codes)} functions in {len(files)} files")
    for code in codes:
        print(f"  {code.co_filename[len(PACKAGE) + 1 :]}:{code.co_firstlineno} {code.co_name}")
    most_functions, most_files = CEILINGS[kind, operation]
    assert (len(codes) <= most_functions, len(files) <= most_files) == (True, True)
