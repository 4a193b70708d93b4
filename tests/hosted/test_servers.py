"""A site in the servers that people use: ``tox -e servers`` installs and runs them all."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest

from channels_redis.testing.servers import reserved_port
from tests.hosted.conftest import BOUND_S, IS_OURS, JOBS, Host

WSGI = "hosted_site:wsgi"
ASGI = "hosted_site:asgi"
GUNICORN = ("gunicorn", "--bind=127.0.0.1:{port}", "--workers=3")
# One worker: a second one that starts late may miss granian's order to end.
GRANIAN = ("granian", "--port={port}", "--interface=asgi")
UWSGI = ("uwsgi", "--http-socket=127.0.0.1:{port}", "--module", WSGI)
MASTER = ("--master", "--processes=3", "--need-app", "--die-on-term")

VIEWS = {
    "gunicorn sync": (*GUNICORN, WSGI),
    "gunicorn threads": (*GUNICORN, "--worker-class=gthread", "--threads=4", WSGI),
    "gunicorn gevent": (*GUNICORN, "--worker-class=gevent", WSGI),
    "gunicorn preload": (*GUNICORN, "--preload", WSGI),
    "gunicorn preload gevent": (*GUNICORN, "--preload", "--worker-class=gevent", WSGI),
    "uwsgi": (*UWSGI, *MASTER),
    "uwsgi lazy-apps": (*UWSGI, *MASTER, "--lazy-apps"),
    "uwsgi threads": (*UWSGI, *MASTER, "--enable-threads", "--threads=2"),
}
APPLICATIONS = {
    "gunicorn preload asgi": (
        *(*GUNICORN, "--preload", "--worker-class=uvicorn_worker.UvicornWorker", ASGI),
    ),
    "granian asyncio": (*GRANIAN, "--loop=asyncio", ASGI),
    "granian uvloop": (*GRANIAN, "--loop=uvloop", ASGI),
    "granian rloop": (*GRANIAN, "--loop=rloop", ASGI),
    "hypercorn": ("hypercorn", "--bind=127.0.0.1:{port}", "--workers=2", ASGI),
    "uvicorn": ("uvicorn", "--port={port}", "--workers=2", ASGI),
    "daphne": ("daphne", "--port={port}", ASGI),
}
#: Those that import the site before they fork.
FORKED = {"gunicorn preload", "gunicorn preload gevent", "gunicorn preload asgi", "uwsgi"}


def ask(port: int, way: str, number: int) -> None:
    """Have one job done; wait for the server to come up."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(f"http://127.0.0.1:{port}/{way}/{number}", timeout=BOUND_S).close()


async def when_up(port: int) -> None:
    """Wait until somebody listens."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


@asynccontextmanager
async def serving(host: Host, words: Sequence[str]) -> AsyncIterator[int]:
    """A program that serves the site; the port at which it does, once it answers."""
    with reserved_port() as port:
        async with host.running(*[word.format(port=port) for word in words]):
            await asyncio.wait_for(when_up(port), BOUND_S)
            yield port


async def ask_all(port: int, way: str, at_once: int) -> None:
    """Have all jobs done."""
    for first in range(0, JOBS, at_once):
        numbers = range(first, min(first + at_once, JOBS))
        await asyncio.gather(*[asyncio.to_thread(ask, port, way, number) for number in numbers])


@pytest.mark.parametrize("program", list(VIEWS))
async def test_views_send_to_a_group_and_receive_their_own_messages(
    program: str, host: Host
) -> None:
    """Both ways from synchronous code.  asgiref lets one greenlet of a thread use its own."""
    async with serving(host, VIEWS[program]) as port:
        forked = program in FORKED or program == "uwsgi threads"
        for way in ("sync", "async_to_sync")[not IS_OURS :]:
            at_once = 1 if "gevent" in program and way == "async_to_sync" else 4
            await host.check(way, partial(ask_all, port, way, at_once), forked=forked)


@pytest.mark.parametrize("program", list(APPLICATIONS))
async def test_applications_send_to_a_group_and_receive_their_own_messages(
    program: str, host: Host
) -> None:
    """On the event loops of the servers."""
    async with serving(host, APPLICATIONS[program]) as port:
        forked = program in FORKED
        await host.check("asgi", partial(ask_all, port, "asgi", 4), forked=forked or None)
