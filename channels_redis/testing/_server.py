"""One private server process: its configuration, start, commands and end."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from channels_redis.testing import _resp
from channels_redis.testing._binaries import find_server, server_version
from channels_redis.testing._certificates import Certificate, make_certificate
from channels_redis.testing._ports import HOST, reserved_port
from channels_redis.testing._resp import ErrorReply

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0

#: Directives of the configuration file; a sequence repeats a directive for each value.
Config = Mapping[str, "str | Sequence[str]"]

#: Nothing is saved to disk by default, and replicas join without delay.
DEFAULT_CONFIG: Config = {
    "save": '""',
    "appendonly": "no",
    "repl-diskless-sync": "yes",
    "repl-diskless-sync-delay": "0",
}
#: The same for servers that support it.
CONFIG_SINCE_6: Config = {"repl-diskless-load": "on-empty-db"}

#: The distance from the port for clients to the port for other servers of a cluster.
BUS_OFFSET = 10_000


class RedisServer:
    """One private server process; a context manager that starts and removes it.

    ``config`` holds directives of the server's configuration file, ``unix_socket`` and ``tls``
    add listeners beside the TCP port. A server that was stopped or killed can be started again:
    on the same port, which nobody takes meanwhile, with the same files.
    """

    _mode: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        binary: str | None = None,
        config: Config | None = None,
        unix_socket: bool = False,
        tls: bool = False,
    ) -> None:
        self.binary = binary or find_server(tls=tls)
        self.config: dict[str, str | Sequence[str]] = {**self._base_config(), **(config or {})}
        self.host = HOST
        self.port = 0
        self.tls_port = 0
        self.certificate: Certificate | None = None
        self._wants_unix_socket = unix_socket
        self._wants_tls = tls
        self._directory: Path | None = None
        self._ports = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._owner_pid = os.getpid()

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "not running"
        return f"<{type(self).__name__} {self.host}:{self.port} {state}>"

    # Addresses

    @property
    def address(self) -> tuple[str, int]:
        """``(host, port)``."""
        return self.host, self.port

    @property
    def url(self) -> str:
        """The ``redis://`` URL of the TCP port."""
        return f"redis://{self.host}:{self.port}"

    @property
    def unix_path(self) -> str:
        """The path of the Unix socket (``unix_socket=True``)."""
        if not self._wants_unix_socket:
            raise ValueError("This server has no Unix socket: use unix_socket=True.")
        return str(self.directory / "server.sock")

    @property
    def unix_url(self) -> str:
        """The ``unix://`` URL of the Unix socket (``unix_socket=True``)."""
        return f"unix://{self.unix_path}"

    @property
    def tls_url(self) -> str:
        """The ``rediss://`` URL of the TLS port (``tls=True``), for ``certificate.path``."""
        if not self._wants_tls:
            raise ValueError("This server has no TLS port: use tls=True.")
        return f"rediss://{self.host}:{self.tls_port}"

    @property
    def bus_port(self) -> int:
        """The port for the other servers of a cluster (``cluster-enabled``)."""
        encrypted = self.config.get("tls-cluster") == "yes"
        default = (self.tls_port if encrypted else self.port) + BUS_OFFSET
        return int(str(self.config.get("cluster-port", default)))

    @property
    def directory(self) -> Path:
        """The directory of the server's files, from the first start until ``close()``."""
        if self._directory is None:
            raise RuntimeError("The server has not been started yet.")
        return self._directory

    @property
    def log(self) -> str:
        """The server's log so far."""
        return (self.directory / "server.log").read_text(errors="replace")

    # Life

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> RedisServer:
        """Start the server and return when it replies.  Does nothing if it is already running."""
        if self.running:
            return self
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="channels-redis-"))
            atexit.register(self._close_at_exit)
        try:
            self._start_process()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Shut the server down; it saves its data if its configuration says so."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server with SIGKILL, without saving its data or closing connections."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the server and start it again on the same port."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop the process with SIGSTOP: connections stay open, but get no replies."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue a frozen server."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill the server and remove its files."""
        self.kill()
        atexit.unregister(self._close_at_exit)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        self._give_up_ports()

    @property
    def running(self) -> bool:
        """Whether the process is running or frozen."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        if self._process is None:
            raise RuntimeError("The server is not running.")
        return self._process.pid

    # Conversation

    def command(self, *words: _resp.Word) -> Any:
        """Run one command on a separate connection; see :func:`_resp.command`."""
        return _resp.command(self._own_address, *words, auth=self._own_auth)

    def info(self, section: str) -> dict[str, str]:
        """Return one section of ``INFO``."""
        lines = self.command("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    @property
    def _own_address(self) -> _resp.Address:
        return self.address if self.config.get("port") != "0" else self.unix_path

    @property
    def _own_auth(self) -> str:
        return str(self.config.get("requirepass", ""))

    # How it starts

    def _base_config(self) -> Config:
        newer = CONFIG_SINCE_6 if server_version(self.binary)[1] >= (6,) else {}
        return {**DEFAULT_CONFIG, **newer}

    def _start_process(self) -> None:
        chosen_before = self.port != 0
        for attempts_left in reversed(range(1 if chosen_before else 5)):
            if not chosen_before:
                self._choose_ports()
                self._write_config()
            self._spawn()
            if self._is_ready():
                return
            reason = self.log[-2000:]
            self.kill()
            if "ddress already in use" not in reason or not attempts_left:
                raise RuntimeError(f"{self.binary} did not start:\n{reason}")

    def _choose_ports(self) -> None:
        self._give_up_ports()
        bus = BUS_OFFSET if self.config.get("cluster-enabled") == "yes" else 0
        self.port = self._ports.enter_context(reserved_port(companion=bus))
        if self._wants_tls:
            self.tls_port = self._ports.enter_context(reserved_port(companion=bus))
            self.certificate = make_certificate(self.directory)

    def _give_up_ports(self) -> None:
        self._ports.close()
        self.port = self.tls_port = 0

    def _write_config(self) -> None:
        directives: dict[str, str | Sequence[str]] = {
            "bind": self.host,
            "port": str(self.port),
            "dir": str(self.directory),
            "logfile": str(self.directory / "server.log"),
        }
        if self._wants_unix_socket:
            directives |= {"unixsocket": self.unix_path, "unixsocketperm": "700"}
        if self.certificate:
            directives |= {
                "tls-port": str(self.tls_port),
                "tls-cert-file": self.certificate.path,
                "tls-key-file": self.certificate.key_path,
                "tls-ca-cert-file": self.certificate.path,
                "tls-auth-clients": "no",
            }
        lines = []
        for name, values in (directives | self.config).items():
            for value in [values] if isinstance(values, str) else values:
                lines.append(f"{name} {value}\n")
        (self.directory / "server.conf").write_text("".join(lines))

    def _spawn(self) -> None:
        arguments = [self.binary, str(self.directory / "server.conf"), *self._mode]
        with open(self.directory / "server.log", "ab") as log:
            # A separate session, so that Ctrl-C in a terminal is sent only to the owner.
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._guard = _guard(self._process.pid, self.directory)

    def _is_ready(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.running and time.monotonic() < deadline:
            if self._answers():
                return True
            time.sleep(0.005)
        return False

    def _answers(self) -> bool:
        try:
            self.command("PING")
            # Another program may have taken the port between our choice and the start.
            return self.info("server")["process_id"] == str(self.pid)
        except ErrorReply as reply:
            return str(reply).startswith(("NOAUTH", "WRONGPASS", "NOPERM"))
        except OSError:
            return False

    # How it ends

    def _end(self, signal_number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.send_signal(signal_number)
                process.send_signal(signal.SIGCONT)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.communicate()

    def _close_at_exit(self) -> None:
        # A forked process inherits this object, but does not own the server.
        if os.getpid() == self._owner_pid:
            self.close()


def _guard(pid: int, directory: Path) -> subprocess.Popen[bytes]:
    """Start a shell that kills the server when this process ends, for whatever reason.

    The shell reads a pipe that only this process has open. (The kernel's parent death signal is
    sent at the end of the starting *thread*, and needs code between fork and exec.)
    """
    clean_up = 'read never; kill -9 "$1"; rm -rf "$2"'
    return subprocess.Popen(
        ["/bin/sh", "-c", clean_up, "guard", str(pid), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 20) -> Any:
    """Return the first true value of ``condition``; ``TimeoutError`` says ``what`` did not happen.

    Sleeps 20 ms between two calls.  Errors of the connection count as a false value.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            value = condition()
        except (OSError, ErrorReply):
            value = None
        if value:
            return value
        time.sleep(0.02)
    raise TimeoutError(f"Still not {what} after {timeout_s} s.")
