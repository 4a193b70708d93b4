"""Gunicorn and Celery themselves, where other tests fork as they do."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.contract.steps import receive_many, script_environment
from tests.helpers import receive_until_marker
from tests.sync.steps import BOUND_S, GROUP, JOBS, WORKERS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

GUNICORN = ("gunicorn", "--preload", f"--workers={WORKERS}")
VIEWS = (*GUNICORN, "tests.sync.hosted:wsgi")
ASGI = (*GUNICORN, "--worker-class=uvicorn_worker.UvicornWorker", "tests.sync.hosted:asgi")
CELERY = ("celery", "--app=tests.sync.hosted_tasks", "worker")


@pytest.fixture
def environment(script_arguments: tuple[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of a server whose processes use the test's layer."""
    path, options = script_arguments
    home = str(tmp_path)  # where Gunicorn puts a socket
    return {**script_environment(), "HOME": home, "HOSTED_LAYER": path, "HOSTED_OPTIONS": options}


@asynccontextmanager
async def running(*command: str, **options: Any) -> AsyncIterator[None]:
    """A server, which is asked to end afterwards, and has to end well and without complaint."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command),
        **options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    printed = asyncio.ensure_future(process.communicate())
    try:
        yield
        process.terminate()
        await asyncio.wait({printed}, timeout=BOUND_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output = (await printed)[0].decode()
        print(output)  # for the report of a failure
    assert process.returncode == 0
    assert "Traceback" not in output


async def member(layer: Any) -> str:
    """A channel that hears the reports of all jobs."""
    channel: str = await layer.new_channel()
    await layer.group_add(GROUP, channel)
    return channel


def pids(reports: list[dict[str, Any]]) -> set[int]:
    """The processes that did the jobs."""
    return {one["pid"] for one in reports}


def check(reports: list[dict[str, Any]]) -> None:
    """Each job was done once; all forked processes took part; each heard its own message."""
    assert sorted(one["n"] for one in reports) == list(range(len(reports)))
    assert all(one["forked"] and one["heard"] == one["pid"] for one in reports)
    assert len(pids(reports)) == WORKERS


@pytest.mark.parametrize("command", [VIEWS, ASGI], ids=["wsgi", "asgi"])
async def test_workers_of_gunicorn_preload_send_to_a_group_and_receive_their_own_messages(
    command: tuple[str, ...],
    make_layer: Callable[..., Any],
    kind: str,
    environment: dict[str, str],
) -> None:
    """The layer was used in gunicorn's main process before it forked."""
    layer = make_layer(kind)
    channel = await member(layer)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def ask(number: int) -> None:
            opener.open(f"{address}/?{number}", timeout=BOUND_S).close()

        async def hear_all() -> list[dict[str, Any]]:
            reports: list[dict[str, Any]] = []
            while len(reports) < JOBS or len(pids(reports)) < WORKERS:
                numbers = range(len(reports), len(reports) + WORKERS)
                await asyncio.gather(*[asyncio.to_thread(ask, number) for number in numbers])
                reports += await receive_many(layer, channel, WORKERS)
            return reports

        bind = f"--bind=fd://{listening.fileno()}"
        async with running(*command, bind, env=environment, pass_fds=[listening.fileno()]):
            reports = await asyncio.wait_for(hear_all(), BOUND_S)
    check(reports + await receive_until_marker(layer, channel))


async def test_tasks_in_a_prefork_pool_of_celery_send_to_a_group_and_receive_their_own_messages(
    make_layer: Callable[..., Any], kind: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """The layer was used in the worker's main process before it forked."""
    layer = make_layer(kind)
    channel = await member(layer)
    environment["HOSTED_FOLDER"] = str(tmp_path)
    async with running(*CELERY, env=environment):
        reports = await asyncio.wait_for(receive_many(layer, channel, JOBS), BOUND_S)
    check(reports + await receive_until_marker(layer, channel))
