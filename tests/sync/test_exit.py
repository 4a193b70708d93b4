"""The interpreter's exit: it hangs on nothing, warns of nothing, and what was sent is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer
from tests.helpers import SCRIPT_HEAD, receive_numbers, run_script
from tests.sync.steps import STRICT

#: The portal is the same for both layers.
ONE_KIND = pytest.mark.parametrize("kind", ["core"])


async def test_a_plain_script_that_sends_ends_quietly(
    make_layer: Callable[..., Any], kind: str, script_arguments: tuple[str, str]
) -> None:
    """Nothing needs to be closed, neither after ``layer.sync`` nor after ``async_to_sync``."""
    script = """
layer.sync.send("work", {"n": 0})
layer.sync.group_send("room", {"n": 0})
async_to_sync(layer.send)("work", {"n": 1})
make().sync.send("work", {"n": 2})
"""
    await run_script(SCRIPT_HEAD + script, *script_arguments, options=STRICT)
    assert await receive_numbers(make_layer(kind), "work", 3) == [0, 1, 2]


@ONE_KIND
async def test_what_threads_send_after_the_main_thread_has_ended_is_sent(
    make_layer: Callable[..., Any], kind: str, script_arguments: tuple[str, str]
) -> None:
    """Python waits for them, and for the jobs of a pool; so does the portal."""
    script = """
import threading
from concurrent.futures import ThreadPoolExecutor

layer.sync.send("work", {"n": 0})
pool = ThreadPoolExecutor(4)
for number in range(1, 21):
    pool.submit(layer.sync.send, "work", {"n": number})

def later():
    threading.main_thread().join()
    layer.sync.send("work", {"n": 21})

threading.Thread(target=later).start()
"""
    await run_script(SCRIPT_HEAD + script, *script_arguments, options=STRICT)
    assert sorted(await receive_numbers(make_layer(kind), "work", 22)) == list(range(22))


@ONE_KIND
async def test_handlers_of_the_exit_itself_may_send(
    make_layer: Callable[..., Any], kind: str, script_arguments: tuple[str, str]
) -> None:
    """Those registered after the import of the layer run before the portal's end.  Others have
    it started again, or are told that Python starts no thread any more.
    """
    before = """
import atexit

def last_words(number):
    try:
        layer.sync.send("work", {"n": number})
    except LayerClosed as error:
        assert "none can be started" in str(error), error
        print("refused")

atexit.register(last_words, 2)
"""
    after = """
from channels_redis.exceptions import LayerClosed
atexit.register(last_words, 1)
layer.sync.send("work", {"n": 0})
"""
    script = before + SCRIPT_HEAD + after
    told = await run_script(script, *script_arguments, options=STRICT)
    expected = {"": [0, 1, 2], "refused\n": [0, 1]}[told]
    assert await receive_numbers(make_layer(kind), "work", len(expected)) == expected


@ONE_KIND
async def test_daemon_threads_that_go_on_sending_do_not_spoil_the_exit(
    script_arguments: tuple[str, str],
) -> None:
    """Calls under way are finished, new ones have the portal started again, and Python ends
    the threads where they are.
    """
    script = """
import threading, time
from channels_redis.exceptions import LayerClosed

def send_for_ever():
    try:
        while True:
            layer.sync.group_send("room", {"n": 0})
            begun.set()
    except LayerClosed:
        pass

begun = threading.Event()
for _ in range(8):
    threading.Thread(target=send_for_ever, daemon=True).start()
begun.wait()
time.sleep(0.1)
"""
    await run_script(SCRIPT_HEAD + script, *script_arguments, options=STRICT)


HANGING = """
import os, signal, threading, time

logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
layer.sync.send("work", {"n": 0})
os.kill(int(sys.argv[3]), signal.SIGSTOP)
"""
A_DAEMON_THREAD = """
threading.Thread(target=layer.sync.send, args=("work", {}), daemon=True).start()
from channels_redis._runtime.portal import portal
while not (portal._run and portal._run.calls):
    time.sleep(0.01)
"""
CTRL_C = """
# A shell has its background jobs ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    layer.sync.send("work", {})
except KeyboardInterrupt:
    print("interrupted")
"""


@ONE_KIND
@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            A_DAEMON_THREAD,
            "channels_redis.sync WARNING Abandoned calls that did not finish within 3 s: 1\n",
        ),
        (CTRL_C, "interrupted\n"),
    ],
    ids=["daemon thread", "Ctrl-C"],
)
async def test_a_call_that_hangs_does_not_hold_the_exit_up(
    script: str, told: str, private_server: RedisServer, script_arguments: tuple[str, str]
) -> None:
    """It gets three seconds, and the log tells that it was given up; a call that Ctrl-C has
    ended gets none.
    """
    path, options = script_arguments
    options = json.dumps({**json.loads(options), "hosts": [private_server.url]})
    script = SCRIPT_HEAD + HANGING + script
    # What the thread itself raises then is the script's affair.
    arguments = (path, options, str(private_server.pid))
    assert await run_script(script, *arguments, options=STRICT, may_warn=True) == told
