"""Starts and restarts the processes of a site, and connects clients that come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.helpers import script_environment, wait_for
from tests.sites.site import LAYERS

SERVED = Path(__file__).parent / "served.py"
PATIENCE_S = 60.0
#: All processes of a site have the same.
SECRET_KEY = "of a test"
#: Of history, more than any test sends.
SIZE = 5000


def options_for(url: str, prefix: str) -> dict[str, Any]:
    """Return the options of the layers of a site, and of those who send to it."""
    return {
        "hosts": [url],
        "prefix": prefix,
        "history": {"room.*": {"size": SIZE, "ttl": 600}},
        "max_catch_up": SIZE,
    }


@contextlib.contextmanager
def signing_with(secret_key: str) -> Iterator[None]:
    """Have layers that are made in this process sign positions as a site does."""
    if not settings.configured:
        settings.configure()
    try:
        before = settings.SECRET_KEY
    except ImproperlyConfigured:
        before = ""
    settings.SECRET_KEY = secret_key
    yield
    settings.SECRET_KEY = before


class Web:
    """A web process, which can be restarted on its port."""

    def __init__(self, kind: str, options: dict[str, Any], server: str, log: Path) -> None:
        self._plan = {"layer": LAYERS[kind], "options": options, "server": server}
        self._plan["secret_key"] = SECRET_KEY
        self._log = log
        self.port = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def start(self) -> None:
        """Start it; it accepts at once, and answers when it has started."""
        # Its port is that of the first start.
        listener = socket.create_server(("127.0.0.1", self.port), backlog=1000)
        with listener, self._log.open("ab") as log:
            descriptor, self.port = listener.fileno(), listener.getsockname()[1]
            plan = json.dumps({**self._plan, "socket": descriptor})
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(SERVED), plan),
                pass_fds=[descriptor],
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=script_environment(),
            )

    async def stop(self) -> None:
        """End it as a deployment does."""
        if self._process.returncode is None:
            self._process.terminate()
        await asyncio.wait_for(self._process.wait(), PATIENCE_S)

    async def restart(self) -> None:
        await self.stop()
        await self.start()


@contextlib.asynccontextmanager
async def running(
    count: int, kind: str, options: dict[str, Any], folder: Path, server: str = "uvicorn"
) -> AsyncIterator[list[Web]]:
    """So many processes of the site, until the end of the block."""
    webs = [Web(kind, options, server, folder / f"web-{number}.log") for number in range(count)]
    try:
        for web in webs:
            await web.start()
        yield webs
    finally:
        await asyncio.gather(*[web.stop() for web in webs])


class Visitor:
    """A WebSocket client that does what resume.js does."""

    def __init__(self, webs: list[Web], path: str = "/resuming") -> None:
        self.numbers: list[int] = []
        #: How often it had joined its group, and had to load its state again.
        self.joined = self.reloads = 0
        self._webs = webs
        self._path = path
        self._positions: dict[str, str] = {}
        self._formerly: list[str] = []
        self._ended = False
        self._socket: Any = None
        self._task = asyncio.create_task(self._live())

    async def leave(self) -> None:
        self._ended = True
        if self._socket is not None:
            await self._socket.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def drop(self) -> None:
        """Lose the connection."""
        await self._socket.close()

    async def _live(self) -> None:
        while not self._ended:
            with contextlib.suppress(OSError, WebSocketException, asyncio.TimeoutError):
                await self._visit(random.choice(self._webs).port)
            await asyncio.sleep(random.uniform(0.05, 0.2))

    async def _visit(self, port: int) -> None:
        places = "".join(f"&resume={group}:{at}" for group, at in self._positions.items())
        former = "".join(f"&formerly={name}" for name in self._formerly[-10:])
        url = f"ws://127.0.0.1:{port}{self._path}?{places}{former}"
        options: dict[str, Any] = {"compression": None, "proxy": None, "max_queue": None}
        async with connect(url, open_timeout=PATIENCE_S, **options) as self._socket:
            async for text in self._socket:
                self._take(json.loads(text))

    def _take(self, frame: dict[str, Any]) -> None:
        group, _, position = frame.get("__position__", "").partition(":")
        if group:
            self._positions[group] = position
        told = frame.get("__resume__")
        if told is not None:
            self._formerly = [told["channel"]] if group else [*self._formerly, told["channel"]]
            self.reloads += not told["complete"]
        if "n" in frame:
            self.numbers.append(frame["n"])
        else:
            self.joined += 1


async def all_joined(visitors: list[Visitor], times: int = 1) -> None:
    """Wait until each has joined its group so many times."""
    await wait_for(lambda: all(one.joined >= times for one in visitors), PATIENCE_S)
