"""Forked children share nothing with their parent but the settings."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import SCRIPT_HEAD, receive_numbers, run_script, script_environment
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


#: A thread that holds ``locks`` until ``over`` is set.
HOLDING = """
held, over = threading.Event(), threading.Event()

def hold():
    for lock in locks:
        lock.acquire()
    held.set()
    over.wait()
    for lock in reversed(locks):
        lock.release()

holder = threading.Thread(target=hold, daemon=True)
holder.start()
held.wait()
"""

LOCKED = f"""
import os, threading

locks = [
    layer._sessions._lock,
    layer._mailboxes.lock,
    layer._report._lock,
    layer._tallies._lock,
    layer._outage.lock,
    portal._lock,
]
layer.sync.send("work", {{"n": 0}})
# Something under way keeps the portal from being stopped before the fork.
portal.submit(lambda: asyncio.sleep(3600), lambda: None)
{HOLDING}
async def consume():
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {{"n": 1}})
    assert await layer.receive(channel) == {{"n": 1}}
    await layer.group_discard("room", channel)

child = os.fork()
if not child:
    layer.sync.send("work", {{"n": 1}})
    asyncio.run(consume())
    assert layer.stats().sent == 2
    layer.sync.flush()
    layer.sync.close()
    sys.exit()  # as a script ends, not as multiprocessing does
over.set()
holder.join()
assert os.waitpid(child, 0)[1] == 0
asyncio.run(consume())
for call in list(portal._run.calls):
    call.cancel()
"""


async def test_a_child_that_was_forked_while_threads_held_locks_is_not_blocked(
    script_arguments: tuple[str, str],
) -> None:
    """Locks are made afresh; the child ends as any script does, and neither says a word."""
    script = SCRIPT_HEAD + "from channels_redis._runtime.portal import portal\n" + LOCKED
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


NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
FORK = """
import contextlib, ctypes, os, pathlib, threading, time

def statuses():
    read = {}
    for task in pathlib.Path("/proc/self/task").iterdir():
        if task.name != str(threading.get_native_id()):
            with contextlib.suppress(OSError):  # It has ended.
                read[task.name] = (task / "status").read_text()
    return read

def fork():
    # Python's own locks are in danger too: other threads have to be at rest.  Their status counts
    # what they do.
    before = None
    while before != (before := statuses()):
        time.sleep(0.02)
    # As uWSGI: with the interpreter's lock held, and without a word to Python.
    return ctypes.PyDLL(None).fork()
"""

UNTOLD = """

async def consume():
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}
    await layer.group_discard("room", channel)
    return channel

def child(number):
    try:
        layer.sync.send("work", {"n": number})
        async_to_sync(consume)()
        child_of_child = fork()
        if child_of_child == 0:
            layer.sync.send("work", {"n": number + 10})
            os._exit(0)
        assert os.waitpid(child_of_child, 0)[1] == 0
        asyncio.run(consume())
        layer.stats()
        layer.sync.close()
    except BaseException as error:
        print(repr(error))
        raise
    sys.exit()  # as a script ends

layer.sync.send("work", {"n": 0})
prefix = layer.client_prefix
children = []
for number in (1, 2, 3):
    forked = fork()
    if not forked:
        child(number)
    children.append(forked)
assert [os.waitpid(one, 0)[1] for one in children] == [0, 0, 0]
assert layer.client_prefix == prefix
layer.sync.send("work", {"n": 20})
asyncio.run(consume())
assert layer.stats().reconnects == 0
"""


@NEEDS_PROC
async def test_a_fork_without_the_fork_hooks_is_noticed_at_the_next_use(
    make_layer: Callable[..., Any], kind: str, script_arguments: tuple[str, str]
) -> None:
    """The portal runs in the parent while it forks; the children have no such thread."""
    await run_script(SCRIPT_HEAD + FORK + UNTOLD, *script_arguments, options=STRICT)
    layer = make_layer(kind)
    numbers = await receive_numbers(layer, "work", 8)
    assert sorted(numbers) == [0, 1, 2, 3, 11, 12, 13, 20]


FIRST_USES = {
    "send": "asyncio.run(layer.send('work', {}))",
    "new_channel": "assert layer.client_prefix not in asyncio.run(layer.new_channel())",
    "receive": "asyncio.run(asyncio.wait_for(layer.receive('work'), 5))",
    "connection": "asyncio.run(ping())",
    "stats": "assert layer.stats().sent == 0",
    "close": "asyncio.run(layer.close())",
    "the exit": "pass",
}


@NEEDS_PROC
@pytest.mark.parametrize("use", list(FIRST_USES))
async def test_it_is_noticed_whatever_comes_first(
    use: str, script_arguments: tuple[str, str]
) -> None:
    """Locks that a thread of the parent held at the fork are not waited for."""
    script = f"""
async def ping():
    await layer.connection(0).ping()

layer.sync.send("work", {{"n": 0}})
locks = [layer._sessions._lock, layer._mailboxes.lock, layer._report._lock, layer._tallies._lock]
{HOLDING}child = fork()
if not child:
    {FIRST_USES[use]}
    sys.exit()
over.set()
holder.join()
assert os.waitpid(child, 0)[1] == 0
layer.sync.send("work", {{"n": 1}})
"""
    await run_script(SCRIPT_HEAD + FORK + script, *script_arguments, options=STRICT)
