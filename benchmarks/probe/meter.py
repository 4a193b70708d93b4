"""Wall clock, CPU of client and server, connections and reads over a block of work."""

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
    """Counters of a server since its start."""

    cpu_s: float
    reads: int
    connections: int


class Meter:
    """A context manager around the measured block; :meth:`figures` tells afterwards."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url, socket_timeout=None)
        self._other_cpu_s = 0.0
        self.wall_s = self.client_cpu_s = self.server_cpu_s = 0.0
        self.server_reads = self.new_connections = 0

    def __enter__(self) -> Meter:
        self._before = self._read_server()
        self._redis.echo(START_MARK)
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
        self._redis.echo(STOP_MARK)
        after = self._read_server()
        self.server_cpu_s = after.cpu_s - self._before.cpu_s
        self.server_reads = after.reads - self._before.reads - OWN_READS
        self.new_connections = after.connections - self._before.connections

    def _read_server(self) -> ServerReading:
        info: dict[str, Any] = self._redis.info("everything")
        return ServerReading(
            cpu_s=info["used_cpu_user"] + info["used_cpu_sys"],
            reads=info["total_reads_processed"],
            connections=info["total_connections_received"],
        )

    def keys(self) -> int:
        """How many keys the server holds."""
        return int(self._redis.dbsize())

    def add_client_cpu(self, cpu_s: float) -> None:
        """Count the CPU of a helper process as the client's."""
        self._other_cpu_s += cpu_s

    def close(self) -> None:
        """Close the connection to the server."""
        self._redis.close()

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
