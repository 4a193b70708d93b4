"""A TCP proxy to put in front of a server, so that a test can be the bad network between.

    with Proxy(server.host, server.port) as proxy:
        layer = make_layer(hosts=[proxy.url])
        proxy.cut()

It runs in a thread of its own: whatever happens to the event loop of the test, the network goes
on.  Every method may be called from any thread and has taken effect when it returns.

What it can do, to all connections or to one (`Link`):

=====================  ==========================================================================
``delay_s``            every byte travels that long in each direction
``cut()``              connections end with a reset; new ones are welcome
``refuse()``           the same, and new ones are refused
``stall()``            connections stay open, new ones too, and nothing passes: a half-open network
``stall_new()``        only connections made from now on are stalled
``drop_replies()``     requests pass, replies vanish
``forget_after_s``     connections that carry nothing for so long are stalled, for good, and new
                       ones are welcome: a network that drops idle flows and tells nobody
``end_after_s``        the same, but both ends are told
``redirect(h, p)``     connections made from now on lead to another server
``lose_reply_to(x)``   the next request holding ``x`` passes, and its connection is cut before the
                       reply comes back
``resume()``           the end of all that but of the delay; what was stalled goes on
=====================  ==========================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from channels_redis.testing.servers import reserved_port
from tests.helpers import close_listener

T = TypeVar("T")

CHUNK_BYTES = 64 * 1024
REMEMBERED_BYTES = 64 * 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, writer: asyncio.StreamWriter) -> None:
        self.drop_replies = proxy._drop_replies
        self._proxy = proxy
        self._writers = [writer]
        self._requests = b""
        self._doomed = False
        self._idle: asyncio.TimerHandle | None = None
        self._flowing = asyncio.Event()
        if not proxy._stall_new:
            self._flowing.set()
        self._stir()

    def has_sent(self, text: bytes) -> bool:
        """Whether the client has written ``text`` lately (the last 64 kB are remembered)."""
        return text in self._requests

    def cut(self) -> None:
        """End this connection with a reset on both sides."""
        self._proxy._call(self._cut)

    def stall(self) -> None:
        """Let nothing pass any more; the connection stays open."""
        self._proxy._call(self._flowing.clear)

    def resume(self) -> None:
        """Let things pass again."""
        self._proxy._call(self._flow)

    def _flow(self) -> None:
        self.drop_replies = False
        self._flowing.set()

    def _cut(self) -> None:
        self._flowing.set()
        for writer in self._writers:
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            writer.transport.abort()

    def _stir(self) -> None:
        """Begin to measure how long the connection carries nothing."""
        if self._idle is not None:
            self._idle.cancel()
        limit_s = self._proxy.forget_after_s or self._proxy.end_after_s
        if limit_s is not None:
            self._idle = asyncio.get_running_loop().call_later(limit_s, self._idle_too_long)

    def _idle_too_long(self) -> None:
        if self._proxy.forget_after_s is not None:
            self._flowing.clear()
        else:
            self._cut()

    def _keep_request(self, chunk: bytes) -> bytes:
        lost = self._proxy._lost_request
        before = self._requests[-len(lost) + 1 :] if len(lost) > 1 else b""
        self._requests = (self._requests + chunk)[-REMEMBERED_BYTES:]
        if lost and lost in before + chunk:
            self._proxy._lost_request = b""
            self._doomed = True
        return chunk

    def _keep_reply(self, chunk: bytes) -> bytes:
        if self._doomed:
            self._cut()
        return b"" if self._doomed or self.drop_replies else chunk

    async def _run(self, client: asyncio.StreamReader) -> None:
        await self._flowing.wait()
        server, server_writer = await asyncio.open_connection(*self._proxy._target)
        self._writers.append(server_writer)
        pumps = [
            asyncio.create_task(self._pump(client, server_writer, self._keep_request)),
            asyncio.create_task(self._pump(server, self._writers[0], self._keep_reply)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        keep: Callable[[bytes], bytes],
    ) -> None:
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arrivals = asyncio.create_task(self._arrive(on_the_way, target))
        clock = asyncio.get_running_loop().time
        try:
            while chunk := await source.read(CHUNK_BYTES):
                await self._flowing.wait()
                self._stir()
                if kept := keep(chunk):
                    on_the_way.put_nowait((clock() + self._proxy.delay_s, kept))
            await on_the_way.join()
        finally:
            arrivals.cancel()
            await asyncio.gather(arrivals, return_exceptions=True)

    async def _arrive(
        self, on_the_way: asyncio.Queue[tuple[float, bytes]], target: asyncio.StreamWriter
    ) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due_s, chunk = await on_the_way.get()
            await asyncio.sleep(max(0.0, due_s - clock()))
            await self._flowing.wait()
            target.write(chunk)
            await target.drain()
            on_the_way.task_done()


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to ``host:port``."""

    def __init__(self, host: str, port: int, *, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.forget_after_s: float | None = None
        self.end_after_s: float | None = None
        self.host = "127.0.0.1"
        self._reservation = contextlib.ExitStack()
        self.port = self._reservation.enter_context(reserved_port())
        self.accepted = 0
        """How many connections were accepted since the start."""
        self._target = (host, port)
        self._drop_replies = False
        self._stall_new = False
        self._lost_request = b""
        self._open: dict[Link, asyncio.Task[None]] = {}
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}"

    @property
    def links(self) -> list[Link]:
        """The connections that are open now."""
        return self._call(lambda: list(self._open))

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._await(self._listen())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._await(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reservation.close()

    def cut(self) -> None:
        """Reset every connection there is; new ones are served as before."""
        self._await(self._cut_all())

    def refuse(self) -> None:
        """Reset every connection there is, and refuse new ones until `resume()`."""
        self._await(self._deafen())
        self.cut()

    def stall(self) -> None:
        """Let nothing pass on old and new connections, which stay open, until `resume()`."""
        self.stall_new()
        for link in self.links:
            link.stall()

    def stall_new(self) -> None:
        """Stall the connections that are made from now on, until `resume()`."""
        self._stall_new = True

    def redirect(self, host: str, port: int) -> None:
        """Lead the connections that are made from now on to another server."""
        self._target = (host, port)

    def drop_replies(self) -> None:
        """Pass requests on and throw the replies away, until `resume()`."""
        self._drop_replies = True
        for link in self.links:
            link.drop_replies = True

    def lose_reply_to(self, text: bytes) -> None:
        """Cut the connection that sends ``text`` next, after the server's answer to it."""
        self._lost_request = text

    def resume(self) -> None:
        """Be a good network again; only ``delay_s`` stays as it is."""
        self._stall_new = self._drop_replies = False
        self._lost_request = b""
        for link in self.links:
            link.resume()
        self._await(self._listen())

    def _call(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return self._await(call())

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, self.host, self.port)

    async def _deafen(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            await close_listener(listener)

    async def _cut_all(self) -> None:
        tasks = list(self._open.values())
        for link, task in list(self._open.items()):
            link._cut()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _end(self) -> None:
        """Close everything, with what was accepted a moment ago and is not served yet."""
        await self._deafen()
        while asyncio.all_tasks() - {asyncio.current_task()}:
            await self._cut_all()
            await asyncio.sleep(0)
        # What was aborted last closes its socket in the next turn.
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = Link(self, writer)
        task = asyncio.create_task(link._run(reader))
        self._open[link] = task
        try:
            await asyncio.gather(task, return_exceptions=True)
        finally:
            del self._open[link]
            if link._idle is not None:
                link._idle.cancel()
            for end in link._writers:
                end.close()
