"""gevent and eventlet replace Python's threads by greenlets, which share one thread."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer
from tests.helpers import SCRIPT_HEAD, receive_numbers, receive_until_marker, run_script

#: ``spawn(function, *args)``, ``wait(greenlets)`` which raises what they raised, and ``nap(s)``.
PATCHED = {
    "gevent": """
from gevent import monkey, sleep as nap, spawn, joinall
monkey.patch_all()
wait = lambda greenlets: [one.get() for one in greenlets]
""",
    # asgiref 3.8 leaves executors in cycles. Their end takes locks of eventlet's, which no other
    # thread must touch, and the garbage collector runs on any thread.
    "eventlet": """
import gc
gc.disable()
import eventlet
from eventlet import sleep as nap, spawn
eventlet.monkey_patch()
wait = lambda greenlets: [one.wait() for one in greenlets]
""",
}
#: eventlet warns of itself.
QUIET = ("-W", "ignore")


@pytest.fixture(params=list(PATCHED))
def head(request: pytest.FixtureRequest) -> str:
    """What a program begins with that replaces its threads; skips where the library is not."""
    # Not imported here: eventlet has each later fork of this process warned of.
    importing = [sys.executable, "-c", f"import {request.param}"]
    if subprocess.run(importing, check=False, capture_output=True).returncode:
        pytest.skip(f"{request.param} can't be imported")
    return PATCHED[request.param] + SCRIPT_HEAD


async def test_neither_library_is_imported_where_it_is_not_in_use(
    script_arguments: tuple[str, str],
) -> None:
    """Both change a process by being imported."""
    script = """
layer.sync.send("work", {"n": 0})
assert not {"gevent", "eventlet", "greenlet"} & set(sys.modules)
"""
    await run_script(SCRIPT_HEAD + script, *script_arguments)


EVERY_WAY = """
async def hear_oneself():
    channel = await layer.new_channel()
    await layer.send(channel, {"n": 1})
    return await layer.receive(channel)

wait([spawn(layer.sync.send, "work", {"n": n}) for n in range(50)])
for n in range(50, 56):
    async_to_sync(layer.send)("work", {"n": n})
assert async_to_sync(hear_oneself)() == {"n": 1}
wait([spawn(layer.sync.send, "work", {"n": n}) for n in range(56, 60)])
"""


async def test_greenlets_send_at_once_and_through_async_to_sync_one_after_the_other(
    head: str, script_arguments: tuple[str, str], make_layer: Callable[..., Any], kind: str
) -> None:
    """Views of ``gunicorn -k gevent``.  The server has a name that has to be looked up."""
    path, options = script_arguments
    await run_script(
        head + EVERY_WAY, path, options.replace("127.0.0.1", "localhost"), options=QUIET
    )
    layer = make_layer(kind)
    assert sorted(await receive_numbers(layer, "work", 60)) == list(range(60))
    assert await receive_until_marker(layer, "work") == []


TWO_LOOPS = """
begun, over = [], []

async def hold():
    begun.append(1)
    while not over:
        await asyncio.sleep(0.01)

holder = spawn(async_to_sync(hold))
while not begun:
    nap(0.01)
try:
    async_to_sync(layer.send)("work", {"n": 0})
except RuntimeError as error:
    print(type(error).__name__)
layer.sync.send("work", {"n": 1})
over.append(1)
wait([holder])
async_to_sync(layer.send)("work", {"n": 2})
"""


async def test_async_to_sync_in_a_second_greenlet_is_refused_without_other_effects(
    head: str, script_arguments: tuple[str, str], make_layer: Callable[..., Any], kind: str
) -> None:
    """asgiref refuses it, whatever is called; the blocking face works there meanwhile."""
    assert await run_script(head + TWO_LOOPS, *script_arguments, options=QUIET) == "RuntimeError\n"
    layer = make_layer(kind)
    assert await receive_numbers(layer, "work", 2) == [1, 2]


WAITING = """
import os, signal

layer.sync.send("work", {"n": 0})
server = int(sys.argv[3])
os.kill(server, signal.SIGSTOP)
senders = [spawn(layer.sync.send, "work", {"n": n}) for n in (1, 2, 3)]
for _ in range(20):
    nap(0.01)
os.kill(server, signal.SIGCONT)
wait(senders)
"""


async def test_a_greenlet_that_waits_for_the_server_lets_the_others_run(
    head: str,
    script_arguments: tuple[str, str],
    private_server: RedisServer,
    make_layer: Callable[..., Any],
    kind: str,
) -> None:
    """The one that has the server go on would not come to it otherwise."""
    path, options = script_arguments
    options = json.dumps({**json.loads(options), "hosts": [private_server.url]})
    arguments = (path, options, str(private_server.pid))
    await run_script(head + WAITING, *arguments, options=QUIET)
    layer = make_layer(kind, hosts=[private_server.url])
    assert sorted(await receive_numbers(layer, "work", 4)) == [0, 1, 2, 3]


PRELOADED = """
import os
from django.conf import settings

settings.configure()  # gevent looks at all objects
layer.sync.send("work", {"n": 0})
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


async def test_threads_may_be_replaced_in_a_child_of_a_process_that_used_the_layer(
    script_arguments: tuple[str, str], make_layer: Callable[..., Any], kind: str
) -> None:
    """``gunicorn --preload -k gevent``.  eventlet wants to come before all imports."""
    if importlib.util.find_spec("gevent") is None:
        pytest.skip("gevent is not installed")
    script = SCRIPT_HEAD + PRELOADED + PATCHED["gevent"] + EVERY_WAY.replace("(50)", "(1, 50)")
    await run_script(script, *script_arguments, options=QUIET)
    layer = make_layer(kind)
    assert sorted(await receive_numbers(layer, "work", 60)) == list(range(60))
