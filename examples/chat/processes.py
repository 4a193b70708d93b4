"""Child processes: their logs with a prefix, their ends noticed, and none left behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
STOP_TIMEOUT_S = 5.0
KEPT_LOG_LINES = 25


class ChatFailed(RuntimeError):
    """The chat can't go on; the text tells why."""


class Child:
    """A running child process; ``ended`` is done when the process has ended and was reaped.

    Ctrl-C in a terminal does not reach it (it has a session of its own), so that the owner
    decides when it ends.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, *, echo: bool) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._guard = _guard(process.pid)
        self._log: deque[str] = deque(maxlen=KEPT_LOG_LINES)
        self.ended = asyncio.create_task(self._follow(echo), name=f"follow {name}")

    @classmethod
    async def start(
        cls,
        name: str,
        *command: str,
        env: Mapping[str, str],
        pass_fds: Iterable[int] = (),
        echo: bool,
    ) -> Child:
        """Start ``command`` in this directory; ``echo`` prints its log lines as they come."""
        process = await asyncio.create_subprocess_exec(
            *command,
            env=env,
            cwd=HERE,
            pass_fds=tuple(pass_fds),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return cls(name, process, echo=echo)

    async def stop(self) -> None:
        """End the process: politely, and after 5 s by force."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        done, _ = await asyncio.wait({self.ended}, timeout=STOP_TIMEOUT_S)
        if not done:
            self._process.kill()
            await self.ended
        self._guard.kill()
        self._guard.communicate()

    @property
    def log(self) -> str:
        """The last lines that the process printed."""
        return "\n".join(self._log) or f"{self._prefix}(nothing was printed)"

    def death(self) -> ChatFailed:
        """The error that tells how the process ended."""
        status = self._process.returncode or 0
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return ChatFailed(f"{self.name} (pid {self.pid}) ended by itself, {how}.\n{self.log}")

    @property
    def _prefix(self) -> str:
        return f"{self.name:<6} | "

    async def _follow(self, echo: bool) -> None:
        assert self._process.stdout is not None
        while line := await _read_line(self._process.stdout):
            text = self._prefix + line.decode(errors="replace").rstrip()
            self._log.append(text)
            if echo:
                print(text, flush=True)
        await self._process.wait()


async def _read_line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:
        return b"(a very long line)\n"


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """Start a shell that ends ``pid`` once this process is gone, however it went.

    It waits at a pipe that only this process holds, so it also notices a SIGKILL.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", f"read never; kill {pid}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
