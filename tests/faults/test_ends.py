"""A process that has closed its layer has nothing left of it: no task, no socket, no warning."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.proxy import Proxy

#: Uses a layer in every way, closes it in the midst of it, and tells what is left.
PROGRAM = """
import asyncio, gc, logging, os, sys
from tests.conftest import class_of

logging.disable()


def sockets():
    if not os.path.isdir("/proc/self/fd"):
        return set()
    paths = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    links = {os.readlink(path) for path in paths if os.path.lexists(path)}
    return {link for link in links if link.startswith("socket")}


async def main(kind, url, prefix):
    layer = class_of(kind)(hosts=[url], prefix=prefix, connect_wait_s=20)
    before, open_before = asyncio.all_tasks(), sockets()
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("room", channel)
    receiving = [asyncio.create_task(layer.receive(name)) for name in (*channels, "work", "work")]
    await layer.group_send("room", {"type": "x"})
    await layer.send("work", {"type": "x"})
    await asyncio.wait(receiving[:4])
    print("in use", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    sending = [asyncio.create_task(layer.send(channels[0], {"type": "y"})) for _ in range(50)]
    await asyncio.sleep(0)
    await layer.close()
    results = await asyncio.gather(*receiving, *sending, return_exceptions=True)
    kinds = {type(one).__name__ for one in results if isinstance(one, BaseException)}
    assert kinds <= {"LayerClosed", "ConnectionLost"}, kinds
    assert asyncio.all_tasks() == before, asyncio.all_tasks() - before
    assert sockets() <= open_before, sockets() - open_before


asyncio.run(main(*sys.argv[1:]))
gc.collect()
print("nothing left", flush=True)
"""


@pytest.mark.parametrize("trouble", ["none", "stalled", "refused"])
async def test_close_leaves_no_task_no_socket_and_no_warning(
    kind: str, prefix: str, proxy: Proxy, trouble: str
) -> None:
    """Under load, with every warning an error; also while the network is away."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM, kind, proxy.url, prefix),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None and process.stdin is not None
    used = await process.stdout.readline()
    changes: dict[str, Callable[[], Any]] = {"stalled": proxy.stall, "refused": proxy.refuse}
    if trouble in changes:
        changes[trouble]()
    process.stdin.write(b"\n")
    try:
        output, errors = await asyncio.wait_for(process.communicate(), 30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    # Debug mode prints how slow the machine was.
    noise = [line for line in errors.splitlines() if not line.startswith(b"Executing <")]
    assert noise == [], errors.decode()
    assert used == b"in use\n"
    assert (output, process.returncode) == (b"nothing left\n", 0)
