"""Loops that come and go, in interpreters that turn every warning into an error.

Each script runs under ``-X dev -W error`` and must write nothing to standard error: no warning,
no ``Task exception was never retrieved``, no traceback at the interpreter's exit.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import SCRIPT_HEAD, receive, run_script

STRICT = ("-X", "dev", "-W", "error")
SAY = {"type": "x"}


@pytest.fixture(params=["single"])
def topology(request: pytest.FixtureRequest) -> str:
    """Loops end alike on every topology: one is enough for scripts that take long."""
    return str(request.param)


async def test_many_short_loops_leave_no_warning(script_arguments: tuple[str, str]) -> None:
    """30 times ``asyncio.run``: everything of a loop ends with it."""
    script = """
async def once(number):
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"number": number})
    assert await layer.receive(channel) == {"number": number}
    await layer.send("tasks", {"number": number})
    assert await layer.receive("tasks") == {"number": number}

for number in range(30):
    asyncio.run(once(number))
"""
    await run_script(SCRIPT_HEAD + script, *script_arguments, options=STRICT)


async def test_sync_calls_leave_no_warning(script_arguments: tuple[str, str]) -> None:
    """``async_to_sync`` from a plain script, again and again."""
    script = """
for number in range(20):
    async_to_sync(layer.send)("tasks", {"number": number})
    async_to_sync(layer.group_send)("room", {"number": number})
    assert async_to_sync(layer.receive)("tasks") == {"number": number}
"""
    await run_script(SCRIPT_HEAD + script, *script_arguments, options=STRICT)


async def test_loops_closed_bare_leave_no_warning(script_arguments: tuple[str, str]) -> None:
    """``loop.close()`` without ``shutdown_asyncgens``: sockets are shut, nothing is printed."""
    script = """
async def once(number):
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, {"number": number})
    assert await layer.receive(channel) == {"number": number}
    await layer.send("tasks", {"number": number})

for number in range(10):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(once(number))
    loop.close()
"""
    await run_script(SCRIPT_HEAD + script, *script_arguments, options=STRICT)


async def test_no_message_is_eaten_after_a_bare_close(
    layer: Any, script_arguments: tuple[str, str]
) -> None:
    """A loop closed bare while a worker waited leaves no ghost that pops the next messages."""
    script = """
async def wait_a_moment():
    await layer.send("warm-up", {})
    try:
        await asyncio.wait_for(layer.receive("tasks"), 0.2)
    except asyncio.TimeoutError:
        pass

loop = asyncio.new_event_loop()
loop.run_until_complete(wait_a_moment())
loop.close()
async def send():
    for number in range(5):
        await layer.send("tasks", {"number": number})
asyncio.run(send())
async def read():
    return [(await layer.receive("tasks"))["number"] for _ in range(5)]
print(sorted(asyncio.run(read())))
"""
    output = await run_script(SCRIPT_HEAD + script, *script_arguments, may_warn=True)
    assert output == "[0, 1, 2, 3, 4]\n"


async def test_layers_thrown_away_leave_no_warning(script_arguments: tuple[str, str]) -> None:
    """Settings reloads make layers and drop them: unused, used, and used on a loop that lives."""
    script = """
import gc
for _ in range(20):
    make()
gc.collect()

async def use_and_drop():
    for number in range(10):
        dropped = make()
        channel = await dropped.new_channel()
        await dropped.send(channel, {"number": number})
        assert await dropped.receive(channel) == {"number": number}
        del dropped
        gc.collect()
    await make().send("tasks", {})

asyncio.run(use_and_drop())
gc.collect()
"""
    await run_script(SCRIPT_HEAD + script, *script_arguments, options=STRICT)


CONSUMERS_WAIT_AT_THE_END = """
async def consumer(name, ready):
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    ready.set()
    try:
        while True:
            await layer.receive(channel)
    finally:
        await layer.group_discard("room", channel)
        await layer.send("left", {"name": name})

async def worker():
    while True:
        await layer.receive("tasks")

async def server():
    readies = [asyncio.Event() for _ in range(5)]
    tasks = [asyncio.create_task(consumer(n, ready)) for n, ready in enumerate(readies)]
    tasks.append(asyncio.create_task(worker()))
    for ready in readies:
        await ready.wait()
    await layer.group_send("room", {"type": "x"})
    await asyncio.sleep(0.1)
    return tasks
"""


async def test_the_end_of_asyncio_run_hangs_no_consumer(
    script_arguments: tuple[str, str],
) -> None:
    """``asyncio.run`` cancels all tasks, the layer's too, while each consumer's ``finally``
    leaves its group: every call ends, and nothing is printed.
    """
    script = SCRIPT_HEAD + CONSUMERS_WAIT_AT_THE_END + "asyncio.run(server())\nprint('ended')\n"
    assert await run_script(script, *script_arguments, options=STRICT) == "ended\n"


async def test_the_layer_works_on_the_next_loop_after_a_foreign_cancellation(
    script_arguments: tuple[str, str],
) -> None:
    """Three loops in a row end with waiting consumers; the next one works as if first."""
    script = (
        SCRIPT_HEAD
        + CONSUMERS_WAIT_AT_THE_END
        + """
for _ in range(3):
    asyncio.run(server())

async def after():
    channel = await layer.new_channel()
    await layer.group_add("later", channel)
    await layer.group_send("later", {"type": "works"})
    return await layer.receive(channel)

print(asyncio.run(after()))
"""
    )
    output = await run_script(script, *script_arguments, options=STRICT)
    assert output == "{'type': 'works'}\n"


async def test_calls_on_a_loop_whose_tasks_were_cancelled_finish_or_raise(
    script_arguments: tuple[str, str],
) -> None:
    """Somebody cancels every task on a loop that goes on: pending and new calls hang not."""
    script = """
async def main():
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(channel))
    await layer.send("tasks", {})
    await asyncio.sleep(0.05)
    mine = asyncio.current_task()
    for task in asyncio.all_tasks() - {mine}:
        task.cancel()
    await asyncio.sleep(0)
    for call in (
        lambda: layer.send("tasks", {}),
        lambda: layer.group_add("room", channel),
        lambda: layer.group_send("room", {}),
        lambda: layer.group_discard("room", channel),
        lambda: layer.send(channel, {}),
        lambda: layer.flush(),
    ):
        try:
            await asyncio.wait_for(call(), 8)
        except asyncio.TimeoutError:
            raise SystemExit("hung")
        except Exception as error:
            assert isinstance(error, OSError) or "channels_redis" in type(error).__module__, error
    await asyncio.gather(waiting, return_exceptions=True)

asyncio.run(main())
print("ended")
"""
    output = await run_script(SCRIPT_HEAD + script, *script_arguments, options=STRICT)
    assert output == "ended\n"


async def test_threads_with_own_loops_leave_no_warning(script_arguments: tuple[str, str]) -> None:
    """Eight threads, each with three loops one after the other, on one layer object."""
    script = """
from concurrent.futures import ThreadPoolExecutor

async def once(number):
    channel = await layer.new_channel()
    await layer.group_add(f"room{number}", channel)
    await layer.group_send(f"room{number}", {"number": number})
    assert await layer.receive(channel) == {"number": number}

def thread(number):
    for _ in range(3):
        asyncio.run(once(number))

with ThreadPoolExecutor(8) as pool:
    list(pool.map(thread, range(8)))
"""
    await run_script(SCRIPT_HEAD + script, *script_arguments, options=STRICT)


async def test_a_forgotten_close_leaves_no_warning(script_arguments: tuple[str, str]) -> None:
    """A script that ends with buffered messages and a group joined ends quietly."""
    script = """
async def main():
    channel, sibling = await layer.new_channel(), await layer.new_channel()
    for member in (channel, sibling):
        await layer.group_add("room", member)
    for _ in range(3):
        await layer.group_send("room", {"type": "x"})
    await layer.receive(channel)

asyncio.run(main())
"""
    await run_script(SCRIPT_HEAD + script, *script_arguments, options=STRICT)


async def test_sync_code_reaches_a_consumer_on_a_living_loop(
    layer: Any, script_arguments: tuple[str, str]
) -> None:
    """A plain script sends with ``async_to_sync`` while a server's consumer waits."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    script = """
async_to_sync(layer.send)(sys.argv[3], {"type": "direct"})
async_to_sync(layer.group_send)("room", {"type": "group"})
"""
    await run_script(SCRIPT_HEAD + script, *script_arguments, channel, options=STRICT)
    assert await receive(layer, channel) == {"type": "direct"}
    assert await receive(layer, channel) == {"type": "group"}
