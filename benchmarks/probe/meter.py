"""Wall clock, CPU of client and servers, connections and reads over a block of work."""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import redis

#: Commands that mark the measured block for whoever watches the server.
START_MARK = "benchmark-start"
STOP_MARK = "benchmark-stop"
#: Both marks, and the INFO afterwards.
OWN_READS = 3


def process_cpu_s() -> float:
    """CPU seconds that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_bytes() -> int:
    """Memory of this process that is in RAM; its highest so far where /proc is missing."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclass(frozen=True)
class ServerReading:
    """Counters of all servers since their start."""

    cpu_s: float
    reads: int
    connections: int


class Meter:
    """A context manager around the measured block; :meth:`figures` tells afterwards."""

    def __init__(self, *urls: str) -> None:
        self._servers = [redis.Redis.from_url(url, socket_timeout=None) for url in urls]
        self._other_cpu_s = 0.0
        self.wall_s = self.client_cpu_s = self.server_cpu_s = 0.0
        self.server_reads = self.new_connections = 0

    def __enter__(self) -> Meter:
        self._before = self._read_servers()
        self._mark(START_MARK)
        self._cpu_before_s = process_cpu_s()
        self._started_s = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.wall_s = time.perf_counter() - self._started_s
        self.client_cpu_s = process_cpu_s() - self._cpu_before_s
        self._mark(STOP_MARK)
        after = self._read_servers()
        self.server_cpu_s = after.cpu_s - self._before.cpu_s
        self.server_reads = after.reads - self._before.reads - OWN_READS * len(self._servers)
        self.new_connections = after.connections - self._before.connections

    def _mark(self, mark: str) -> None:
        for server in self._servers:
            server.echo(mark)

    def _read_servers(self) -> ServerReading:
        infos: list[dict[str, Any]] = [server.info("everything") for server in self._servers]
        return ServerReading(
            cpu_s=sum(info["used_cpu_user"] + info["used_cpu_sys"] for info in infos),
            reads=sum(info["total_reads_processed"] for info in infos),
            connections=sum(info["total_connections_received"] for info in infos),
        )

    def keys(self) -> int:
        """How many keys the servers hold."""
        return sum(int(server.dbsize()) for server in self._servers)

    def add_client_cpu(self, cpu_s: float) -> None:
        """Count the CPU of a helper process as the client's."""
        self._other_cpu_s += cpu_s

    def close(self) -> None:
        """Close the connections to the servers."""
        for server in self._servers:
            server.close()

    def figures(self, n: int, **more: Any) -> dict[str, Any]:
        """Everything measured, per operation."""
        client_cpu_s = self.client_cpu_s + self._other_cpu_s
        return {
            "n": n,
            "per_s": round(n / self.wall_s, 1),
            "us_per_op": round(1e6 * self.wall_s / n, 1),
            "client_cpu_us": round(1e6 * client_cpu_s / n, 1),
            "server_cpu_us": round(1e6 * self.server_cpu_s / n, 1),
            "server_reads": round(self.server_reads / n, 3),
            "new_connections": self.new_connections,
            "wall_s": round(self.wall_s, 3),
            **more,
        }
