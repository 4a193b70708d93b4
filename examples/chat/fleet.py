"""The processes of one run of the chat: two daphnes and a worker, on one layer over one server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from channels_redis.testing.servers import RedisServer
from processes import HERE, ChatFailed, Child

WEB_PROCESSES = ("web-1", "web-2")
GRACE_S = 1.0
START_TIMEOUT_S = 30.0

T = TypeVar("T")


class Fleet:
    """Two web processes and a worker; an async context manager that starts and ends them.

    It is entered when both web processes serve pages, and may raise ``ChatFailed`` instead.
    """

    def __init__(self, server: RedisServer, layer: str, *, echo: bool) -> None:
        self.children: list[Child] = []
        #: Django's, the same for all processes.
        self.secret_key = secrets.token_urlsafe(50)
        self._server = server
        self._echo = echo
        # Sockets that listen already: nobody can take the ports, and early requests just wait.
        self._sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in WEB_PROCESSES}
        self.sites = {
            name: f"http://127.0.0.1:{listener.getsockname()[1]}"
            for name, listener in self._sockets.items()
        }
        self._env = {
            **os.environ,
            "CHAT_LAYER": layer,
            "CHAT_REDIS_URL": server.url,
            "CHAT_SECRET_KEY": self.secret_key,
            "CHAT_SITES": " ".join(f"{name}={url}" for name, url in self.sites.items()),
            "DJANGO_SETTINGS_MODULE": "chat.settings",
            "PYTHONUNBUFFERED": "1",
        }

    async def __aenter__(self) -> Fleet:
        try:
            for name, listener in self._sockets.items():
                await self._start_web(name, listener)
            await self.guard(self._first_pages())
            # Nobody waits for the worker: its channel keeps the jobs that come before it.
            await self._start("worker", "manage.py", "runworker", "dice", "story")
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    @property
    def log(self) -> str:
        """The last lines that each process printed."""
        return "\n".join(child.log for child in self.children)

    async def restart(self, name: str) -> None:
        """Stop a web process, and start another one on its port."""
        child = next(child for child in self.children if child.name == name)
        self.children.remove(child)
        await child.stop()
        port = int(self.sites[name].rpartition(":")[2])
        await self._start_web(name, socket.create_server(("127.0.0.1", port)))

    async def manage(self, name: str, *arguments: str) -> None:
        """Run a command of ``manage.py`` to its end, as a process of this name; raise
        ``ChatFailed`` with what it printed if it fails.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "manage.py", *arguments),
            env={**self._env, "CHAT_PROCESS": name},
            cwd=HERE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise ChatFailed(f"manage.py {arguments[0]} failed:\n{output.decode()}")

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work``; raise ``ChatFailed`` as soon as a process or the server is gone."""
        task = asyncio.create_task(work)
        server_end = asyncio.create_task(self._server_end())
        ends = {child.ended: child for child in self.children}
        first = asyncio.FIRST_COMPLETED
        try:
            await asyncio.wait({task, server_end, *ends}, return_when=first)
            if task.done() and task.exception():
                # A client may see the end of a process sooner than we do.
                await asyncio.wait({server_end, *ends}, return_when=first, timeout=GRACE_S)
            if server_end.done():
                raise ChatFailed(f"server (pid {self._server.pid}) ended by itself.\n{self.log}")
            for end, child in ends.items():
                if end.done():
                    raise child.death()
            return await task
        finally:
            task.cancel()
            server_end.cancel()
            await asyncio.gather(task, server_end, return_exceptions=True)

    async def _start_web(self, name: str, listener: socket.socket) -> None:
        # daphne adopts the socket. Our own copy is closed, so that clients of a daphne that died
        # are refused at once.
        descriptor = listener.fileno()
        verbosity = "1" if self._echo else "0"
        command = ("-m", "daphne", "-v", verbosity, "--fd", str(descriptor))
        await self._start(name, *command, "chat.asgi:application", pass_fds=[descriptor])
        listener.close()

    async def _start(self, name: str, *arguments: str, pass_fds: list[int] | None = None) -> None:
        env = {**self._env, "CHAT_PROCESS": name}
        self.children.append(
            await Child.start(
                name, sys.executable, *arguments, env=env, pass_fds=pass_fds or [], echo=self._echo
            )
        )

    async def _stop(self) -> None:
        for listener in self._sockets.values():
            listener.close()
        await asyncio.gather(*(child.stop() for child in self.children))

    async def _first_pages(self) -> None:
        try:
            await asyncio.gather(*(asyncio.to_thread(_get, url) for url in self.sites.values()))
        except OSError as error:
            raise ChatFailed(f"A web process serves no page: {error}\n{self.log}") from error

    async def _server_end(self) -> None:
        # Nothing is said on this connection: the end of the server is the end of it.
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(self._server.host, self._server.port)
            try:
                await reader.read()
            finally:
                writer.close()


def _get(url: str) -> None:
    # No proxy: the address means this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(url, timeout=START_TIMEOUT_S).close()
