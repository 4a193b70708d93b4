"""Starts sites and senders, and connects guests: WebSocket clients that note what they hear."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import socket
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.helpers import wait_for

HERE = Path(__file__).parent
GROUP = "room"
LAYERS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}
#: WebSockets that open at the same time.
AT_ONCE = 50
#: Far above what a busy machine needs to do what is next.
PATIENCE_S = 60.0
#: Nothing has come for so long: then something was lost.
QUIET_S = 5.0


class Guest:
    """A client of one consumer.  ``heard`` has all texts but markers and the first one, ``times``
    when each came, by ``time.monotonic()``.
    """

    def __init__(self, socket: ClientConnection, channel: str) -> None:
        self.channel = channel
        self.heard: list[str] = []
        self.times: list[float] = []
        #: The number of the last marker, and how many there were.
        self.marker = self.markers = 0
        self.marked_at = 0.0
        self._socket = socket
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def arrive(cls, url: str) -> Guest:
        options: dict[str, Any] = {"ping_interval": None, "compression": None, "proxy": None}
        socket = await connect(url, open_timeout=PATIENCE_S, max_queue=None, **options)
        return cls(socket, str(await socket.recv()))

    @property
    def numbers(self) -> list[int]:
        """The numbers of the notes."""
        return [int(text) for text in self.heard if text.isdigit()]

    @property
    def notes(self) -> dict[int, float]:
        """When each note was heard, by its number."""
        heard = zip(self.heard, self.times, strict=True)
        return {int(text): at for text, at in heard if text.isdigit()}

    @property
    def gone(self) -> bool:
        """Whether the site has ended the connection."""
        return self._listening.done()

    async def leave(self) -> None:
        await self._socket.close()
        await self._listening

    async def _listen(self) -> None:
        try:
            async for text in self._socket:
                if str(text).startswith("-"):
                    self.marker = -int(text)
                    self.markers += 1
                    self.marked_at = time.monotonic()
                else:
                    self.heard.append(str(text))
                    self.times.append(time.monotonic())
        except ConnectionClosed:
            pass


class Site:
    """A server process with a channel layer.  ``layer`` is another of the test's own process."""

    def __init__(self, layer: Any, port: int, log: Path, plan: dict[str, Any], python: str) -> None:
        self.layer = layer
        self.guests: list[Guest] = []
        #: How many markers were sent.
        self.markers = 0
        self._port = port
        self._log = log
        self._plan = plan
        self._python = python

    @property
    def log(self) -> list[str]:
        """The lines that the process has logged."""
        return self._log.read_text().splitlines()

    async def welcome(
        self, count: int, *kinds: str, groups: Sequence[str] = (GROUP,)
    ) -> list[Guest]:
        """Open so many WebSockets, to asynchronous and synchronous consumers by turns, which join
        the groups by turns.
        """
        of_kind = itertools.cycle(kinds or ("async",))
        gate = asyncio.Semaphore(AT_ONCE)

        async def open_one(kind: str, group: str) -> Guest:
            async with gate:
                url = f"ws://127.0.0.1:{self._port}/ws/{kind}?group={group}"
                return await Guest.arrive(url)

        turns = zip(of_kind, itertools.cycle(groups), range(count), strict=False)
        opening = [open_one(kind, group) for kind, group, _ in turns]
        guests = await asyncio.gather(*opening)
        self.guests += guests
        return guests

    async def facts(self) -> dict[str, Any]:
        """Ask the process what it and its layer take."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def ask() -> Any:
            with opener.open(f"http://127.0.0.1:{self._port}/", timeout=PATIENCE_S) as answer:
                return json.load(answer)

        facts: dict[str, Any] = await asyncio.to_thread(ask)
        return facts

    async def send(self, way: str, to: str, count: int) -> dict[str, Any]:
        """Have another process send so many messages in a row, and return what it tells."""
        plan = {name: self._plan[name] for name in ("layer", "options")}
        plan |= {"way": way, "to": to, "count": count}
        process = await asyncio.create_subprocess_exec(
            *command(self._python, "sender.py", plan),
            stdout=asyncio.subprocess.PIPE,
            env=environment(self._python),
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        told: dict[str, Any] = json.loads(output)
        return told

    async def settle(self, guests: list[Guest] | None = None) -> int:
        """Return when each guest has heard a marker, and so all that was sent to it before; return
        how many markers that took, of which only the first need have come.
        """
        guests = self.guests if guests is None else guests
        first, heard = self.markers + 1, -1
        while any(one.marker < first for one in guests):
            # Where a queue or a mailbox is full, as 4.3.0's may be, a marker may be what is lost.
            assert heard != total_of(guests), "nobody hears any more"
            heard = total_of(guests)
            self.markers += 1
            await self.layer.group_send(GROUP, {"type": "room.note", "n": -self.markers})
            with contextlib.suppress(AssertionError):
                await wait_for(lambda: all(one.marker >= first for one in guests), QUIET_S)
        return self.markers - first + 1


def total_of(guests: list[Guest]) -> int:
    """Return how many frames all have heard."""
    return sum(len(one.heard) + one.markers for one in guests)


@asynccontextmanager
async def running_site(
    layer: Any,
    folder: Path,
    *,
    kind: str,
    options: dict[str, Any],
    server: str = "uvicorn",
    python: str = sys.executable,
    keeps: bool = False,
) -> AsyncIterator[Site]:
    """Serve a site whose layer has these options, until the end of the block."""
    log = folder / f"{server}-{secrets.token_hex(4)}.log"
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener, log.open("wb") as errors:
        descriptor, port = listener.fileno(), listener.getsockname()[1]
        plan = {"layer": LAYERS[kind], "options": options, "server": server, "keeps": keeps}
        process = await asyncio.create_subprocess_exec(
            *command(python, "served.py", {**plan, "socket": descriptor}),
            pass_fds=[descriptor],
            stdin=asyncio.subprocess.PIPE,
            stdout=errors,
            stderr=errors,
            env=environment(python),
        )
    site = Site(layer, port, log, plan, python)
    try:
        yield site
    finally:
        await asyncio.gather(*[guest.leave() for guest in site.guests])
        process.kill()
        await process.wait()


def command(python: str, script: str, plan: dict[str, Any]) -> list[str]:
    """Return the command of a script, which finds the packages of ``python`` only."""
    isolated = [] if python == sys.executable else ["-I"]
    return [python, *isolated, str(HERE / script), json.dumps(plan)]


def environment(python: str) -> dict[str, str]:
    if python != sys.executable:
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
