"""Steps that many contract tests take: waiting receivers, bounded calls, scripts of their own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import pytest

import channels_redis
from tests.helpers import receive

T = TypeVar("T")

# Far above any honest delay: a broken promise ends here, a slow machine does not.
BOUND_S = 15.0
SCRIPT_BOUND_S = 50.0
HELLO = {"type": "hello"}

# For the subset of promises that is checked behind Sentinel too.
ALSO_BEHIND_SENTINEL = pytest.mark.parametrize(
    "topology", ["single", "ring", "sentinel"], indirect=True
)

# The first lines of scripts that use a layer: ``layer`` is what ``script_arguments`` describe.
# A loop in debug mode warns of every slow step; how slow they are is the machine's affair.
SCRIPT_HEAD = """
import asyncio, json, logging, sys
logging.getLogger("asyncio").setLevel(logging.ERROR)
from asgiref.sync import async_to_sync
from django.utils.module_loading import import_string

def make(**options):
    return import_string(sys.argv[1])(**{**json.loads(sys.argv[2]), **options})

layer = make()
"""


async def bounded(awaitable: Awaitable[T], bound_s: float = BOUND_S) -> T:
    """The result of ``awaitable``, or a failure that says it hung."""
    return await asyncio.wait_for(awaitable, bound_s)


async def receive_many(layer: Any, channel: str, count: int) -> list[Any]:
    return [await receive(layer, channel) for _ in range(count)]


async def waiting_receive(layer: Any, channel: str) -> asyncio.Task[Any]:
    """A task that waits in ``receive()``; proved by a first message that went through it."""
    await layer.send(channel, HELLO)
    assert await receive(layer, channel) == HELLO
    task = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def run_script(
    source: str, *arguments: str, options: tuple[str, ...] = (), may_warn: bool = False
) -> str:
    """Run ``source`` in a fresh interpreter; its output, once it ended well and without a word
    on standard error.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *options,
        "-c",
        source,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=script_environment(),
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), SCRIPT_BOUND_S)
    except asyncio.TimeoutError:
        process.kill()
        _, err = await process.communicate()
        pytest.fail(f"the script hung; standard error:\n{err.decode()}")
    assert process.returncode == 0, f"exit status {process.returncode}:\n{err.decode()}"
    assert may_warn or err == b"", f"the script wrote to standard error:\n{err.decode()}"
    return out.decode()


def script_environment() -> dict[str, str]:
    """This process's environment, with the package under test on the path."""
    root = str(Path(channels_redis.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root, "PYTHONWARNINGS": ""}
