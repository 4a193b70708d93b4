"""One site, its clients and a sender: started, measured, ended."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.probe.bench import CLASSES

HERE = Path(__file__).parent
WARM_UP = 3


@dataclass(frozen=True)
class Variant:
    """A kind of site; ``environment`` names the interpreter that has what it needs."""

    name: str
    kind: str
    layer: str = "pubsub"
    environment: str = "new"


@dataclass(frozen=True)
class Setting:
    """What is the same for all sites of a comparison."""

    sockets: int
    messages: int
    server: str
    loop: str
    deflate: bool


@dataclass(frozen=True)
class Figures:
    """Of one site: µs of CPU for a frame, of it and of its clients; ms until the frames of a
    message are read, medians over the messages; KiB of memory and ms of CPU for a socket.
    """

    site_us: float
    clients_us: float
    first_ms: float
    median_ms: float
    last_ms: float
    kib: float
    connect_ms: float

    def as_json(self) -> dict[str, float]:
        """The same as a dict."""
        return asdict(self)


def cpu_s(process: subprocess.Popen[str]) -> float:
    """Return the processor's time that another process has used, all threads: Linux only."""
    return time.clock_gettime((~process.pid << 3) | 2)


def rss_kib(process: subprocess.Popen[str]) -> int:
    """Return the memory of another process."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4


@contextlib.contextmanager
def started(python: Path, script: str, *words: str, **options: Any) -> Iterator[Any]:
    """Start a process, and end it."""
    command = [str(python), str(HERE / script), *words]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def line_of(process: Any, what: str) -> str:
    """Return the next line that a process prints."""
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{what} ended with {process.wait()}.")
    return str(line)


def measure(variant: Variant, setting: Setting, python: Path, redis_url: str) -> Figures:
    """Run one site and return its figures."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
        plan = {
            "kind": variant.kind,
            "layer": CLASSES[variant.layer],
            "options": {"hosts": [redis_url], "prefix": secrets.token_hex(4)},
            "redis": redis_url,
            "server": setting.server,
            "loop": setting.loop,
            "deflate": setting.deflate,
            "socket": listening.fileno(),
        }
        words = json.dumps(plan)
        port = listening.getsockname()[1]
        fds = [listening.fileno()]
        site = stack.enter_context(started(python, "served.py", words, pass_fds=fds))
        path = "/socket.io/?EIO=4&transport=websocket" if variant.kind == "socketio" else "/"
        # The first one has the site start, so that the others tell what a socket takes.
        one = ("1", path, str(setting.deflate))
        with started(Path(sys.executable), "clients.py", str(port), *one) as first:
            line_of(first, "the first client")
            before_kib, before_s = rss_kib(site), cpu_s(site)
        all_of_them = (str(setting.sockets), path, str(setting.deflate))
        clients = stack.enter_context(
            started(Path(sys.executable), "clients.py", str(port), *all_of_them)
        )
        line_of(clients, "the clients")
        time.sleep(1)  # for what the site does after it has accepted
        kib = (rss_kib(site) - before_kib) / setting.sockets
        connect_ms = (cpu_s(site) - before_s) / setting.sockets * 1e3
        sender = stack.enter_context(started(python, "sender.py", words, stdin=subprocess.PIPE))
        return figures_of(site, clients, sender, setting, kib, connect_ms)


def figures_of(
    site: Any, clients: Any, sender: Any, setting: Setting, kib: float, connect_ms: float
) -> Figures:
    """Have messages sent one by one, each after all clients have the last."""
    rows: list[dict[str, float]] = []
    began_s = 0.0
    for number in range(WARM_UP + setting.messages):
        if number == WARM_UP:
            began_s = cpu_s(site)
        sender.stdin.write("\n")
        sender.stdin.flush()
        sent_at = float(line_of(sender, "the sender"))
        row = json.loads(line_of(clients, "the clients"))
        rows.append({name: (row[name] - sent_at) * 1e3 for name in ("first", "median", "last")})
        rows[-1]["cpu_s"] = row["cpu_s"]
    site_s = cpu_s(site) - began_s
    clients_s = rows[-1]["cpu_s"] - rows[WARM_UP - 1]["cpu_s"]
    frames, measured = setting.sockets * setting.messages, rows[WARM_UP:]

    def median(name: str) -> float:
        return statistics.median(row[name] for row in measured)

    return Figures(
        site_us=site_s / frames * 1e6,
        clients_us=clients_s / frames * 1e6,
        first_ms=median("first"),
        median_ms=median("median"),
        last_ms=median("last"),
        kib=kib,
        connect_ms=connect_ms,
    )
