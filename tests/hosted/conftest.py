"""Programs of others that run a site with the test's layer.

``CHANNELS_REDIS_HOSTED_PYTHON`` names an interpreter with the programs and another release of
channels_redis, which the site uses instead of this one; the audience stays of this one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest

from tests.conftest import class_of
from tests.helpers import receive, receive_until_marker

#: Seconds until something must have happened, however busy the machine is.
BOUND_S = 60
JOBS = 20
HERE = Path(__file__).parent
ROOT = HERE.parents[1]

PYTHON = os.environ.get("CHANNELS_REDIS_HOSTED_PYTHON", sys.executable)
#: Whether the site uses this release, which has ``layer.sync``.
IS_OURS = sys.executable == PYTHON


class Host:
    """Starts programs in a folder with the site, and hears of the jobs that are done."""

    def __init__(self, layer: Any, folder: Path, environment: dict[str, str]) -> None:
        self._layer = layer
        self._folder = folder
        self._environment = environment
        self._channel = ""

    async def open(self) -> None:
        """Join the audience."""
        self._channel = await self._layer.new_channel()
        await self._layer.group_add("audience", self._channel)

    async def run(self, *command: str, **environment: str) -> asyncio.subprocess.Process:
        """Start one of the interpreter's programs."""
        program = str(Path(PYTHON).with_name(command[0]))
        return await asyncio.create_subprocess_exec(
            *(program, *command[1:]),
            cwd=self._folder,
            env={**self._environment, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )

    @asynccontextmanager
    async def running(self, *command: str, **environment: str) -> AsyncIterator[None]:
        """A program, which is asked to end afterwards, and has to end without complaint."""
        process = await self.run(*command, **environment)
        printed = asyncio.ensure_future(process.communicate())
        try:
            yield
            process.send_signal(signal.SIGTERM if command[0] != "uwsgi" else signal.SIGINT)
            await asyncio.wait({printed}, timeout=BOUND_S)
            assert process.returncode is not None, "did not end"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            output = (await printed)[0].decode()
            print(output)  # for the report of a failure
        # A worker that was still loading its application is interrupted in the midst of it.
        assert output.count("Traceback") == output.count("\nKeyboardInterrupt")

    async def hear(self, count: int) -> list[dict[str, Any]]:
        """The next reports."""
        return [await receive(self._layer, self._channel, BOUND_S) for _ in range(count)]

    async def check(
        self, way: str, work: Callable[[], Awaitable[None]], *, forked: bool | None = None
    ) -> None:
        """Do all jobs: each is heard of once, and was done by who heard its own message."""
        await work()
        reports = await self.hear(JOBS)
        reports += await receive_until_marker(self._layer, self._channel)
        assert sorted(one["n"] for one in reports) == list(range(JOBS)), way
        assert all(one["heard"] == one["pid"] for one in reports), way
        assert all(forked in (None, one["forked"]) for one in reports), way


@pytest.fixture
async def host(
    make_layer: Callable[..., Any], kind: str, redis_url: str, prefix: str, tmp_path: Path
) -> Host:
    """A host of a site whose layer is like the test's."""
    copyfile(HERE / "site.py", tmp_path / "hosted_site.py")
    copyfile(HERE / "jobs.py", tmp_path / "hosted_jobs.py")
    of_kind = class_of(kind)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),  # where Gunicorn puts a socket
        "HOSTED_LAYER": f"{of_kind.__module__}.{of_kind.__name__}",
        "HOSTED_OPTIONS": json.dumps({"hosts": [redis_url], "prefix": prefix}),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *[str(ROOT)] * IS_OURS]),
        "PYTHONWARNINGS": "",
    }
    host = Host(make_layer(kind), tmp_path, environment)
    await host.open()
    return host
