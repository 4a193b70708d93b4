"""Forked children share nothing with their parent but the settings."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tests.contract.steps import SCRIPT_HEAD, run_script, script_environment
from tests.sync.steps import CHILDREN, GROUP, LAST, STRICT, WAYS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

EACH = 20
BOUND_S = 40


@asynccontextmanager
async def forking(way: str, layer: str, options: str) -> AsyncIterator[Callable[..., Any]]:
    """A process that forks, and a function that returns the facts that it and its children tell."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from tests.sync.forked import main; main()", way),
        env={**script_environment(), "FORKED_LAYER": layer, "FORKED_OPTIONS": options},
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    output = process.stdout
    assert output is not None

    async def facts(count: int) -> list[dict[str, Any]]:
        lines = [await asyncio.wait_for(output.readline(), BOUND_S) for _ in range(count)]
        return [json.loads(line) for line in lines]

    try:
        yield facts
        assert await asyncio.wait_for(process.wait(), BOUND_S) == 0
    finally:
        # Whatever a pool leaves behind for a moment holds the pipe open.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


@pytest.mark.parametrize("way", WAYS)
async def test_each_forked_child_receives_its_own_messages_and_the_parent_goes_on(
    way: str, make_layer: Callable[..., Any], kind: str, script_arguments: tuple[str, str]
) -> None:
    """Eight children and their parent, in which the layer was used from sync code and waits on
    a loop in a thread: direct and group messages reach each of them, once and in order.
    """
    sender = make_layer(kind)
    async with forking(way, *script_arguments) as facts:
        begun = await facts(1 + CHILDREN)
        parent, *children = [one["channel"] for one in begun]
        assert [one["inherited"] for one in begun] == [False] + [True] * CHILDREN
        assert len({one["pid"] for one in begun}) == 1 + CHILDREN
        expected: list[Any] = []
        for number in range(EACH):
            for channel in (parent, *children):
                await sender.send(channel, {"n": number})
            await sender.group_send(GROUP, {"n": f"group {number}"})
            expected += [number, f"group {number}"]
        for channel in children:
            await sender.send(channel, {"n": LAST})
        received = {one["channel"]: one["received"] for one in await facts(CHILDREN)}
        assert received == {key: [*expected, LAST] for key in children}
        [last] = await facts(1)
        assert last["channel"] == parent
        assert last["received"] == [*expected, "from the parent", LAST]
        assert (await facts(1))[0]["reconnects"] == 0


LOCKED = """
import os, threading

locks = [
    layer._sessions._lock,
    layer._mailboxes.lock,
    layer._report._lock,
    layer._tallies._lock,
    layer._outage.lock,
    portal._lock,
]
layer.sync.send("work", {"n": 0})
# Something under way keeps the portal from being stopped before the fork.
portal.submit(lambda: asyncio.sleep(3600), lambda: None)
held, over = threading.Event(), threading.Event()

def hold():
    for lock in locks:
        lock.acquire()
    held.set()
    over.wait()
    for lock in reversed(locks):
        lock.release()

holder = threading.Thread(target=hold)
holder.start()
held.wait()

async def consume():
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}
    await layer.group_discard("room", channel)

child = os.fork()
if not child:
    layer.sync.send("work", {"n": 1})
    asyncio.run(consume())
    assert layer.stats().sent == 2
    layer.sync.flush()
    layer.sync.close()
    sys.exit()  # as a script ends, not as multiprocessing does
over.set()
holder.join()
assert os.waitpid(child, 0)[1] == 0
asyncio.run(consume())
for call in list(portal._calls):
    call.cancel()
"""


async def test_a_child_that_was_forked_while_threads_held_locks_is_not_blocked(
    script_arguments: tuple[str, str],
) -> None:
    """Locks are made afresh; the child ends as any script does, and neither says a word."""
    script = SCRIPT_HEAD + "from channels_redis._portal import portal\n" + LOCKED
    await run_script(script, *script_arguments, options=STRICT)


SILENCED = """
import os

async def main():
    client = layer.connection(0)
    await layer.send("work", {"n": 0})
    await client.ping()
    [connection] = client.connection_pool._available_connections
    number = connection._writer.get_extra_info("socket").fileno()
    assert await asyncio.to_thread(fork, number) == 0
    await client.ping()

def fork(number):
    child = os.fork()
    if not child:
        os._exit(os.fstat(number).st_rdev != os.stat(os.devnull).st_rdev)
    return os.waitpid(child, 0)[1]

asyncio.run(main())
"""


async def test_a_child_holds_no_connection_of_its_parents_pools_open(
    script_arguments: tuple[str, str],
) -> None:
    """Not even an idle one of :meth:`connection`: what its finalizer does would reach the
    parent's loop, and the server would go on serving what the parent has closed.
    """
    await run_script(SCRIPT_HEAD + SILENCED, *script_arguments, options=STRICT)
