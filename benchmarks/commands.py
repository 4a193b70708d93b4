"""Counts the commands that clients send, without those that scripts run.

``INFO commandstats`` and ``total_commands_processed`` count both alike (Redis 7.0 and Valkey 9.1
do), so the commands are read from ``MONITOR``, which names ``lua`` as the client of the inner
ones. MONITOR slows the server: a run that counts is not a run that is timed.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter

from benchmarks.probe.meter import START_MARK, STOP_MARK
from channels_redis.testing.servers import RedisServer

LINE = re.compile(rb'\+[\d.]+ \[\d+ ([^\]]+)\] "([^"]*)"(?: "([^"]*)")?')
#: Making a connection is counted as one, not as the commands that redis-py greets with.
GREETINGS = frozenset(["HELLO", "AUTH", "CLIENT", "SELECT", "INFO", "CONFIG", "COMMAND"])
CONNECT_TIMEOUT_S = 10
#: Written after everything that may count, so that nothing is still on its way.
END_MARK = "benchmark-end"


class CommandCounter:
    """A context manager that watches a server and counts between the meter's two marks."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._socket = socket.create_connection(server.address, timeout=CONNECT_TIMEOUT_S)
        self._socket.settimeout(None)
        self._lines = self._socket.makefile("rb")
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self._counting = False
        self.calls: Counter[str] = Counter()

    def __enter__(self) -> CommandCounter:
        self._socket.sendall(b"MONITOR\r\n")
        if self._lines.readline() != b"+OK\r\n":
            raise RuntimeError("The server refused MONITOR.")
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.command("ECHO", END_MARK)
        self._thread.join()
        self._lines.close()
        self._socket.close()

    def _watch(self) -> None:
        for line in self._lines:
            match = LINE.match(line)
            if match is None:
                continue
            client, command, argument = (part.decode() for part in match.groups(b""))
            if argument == END_MARK:
                break
            self._count(client, command.upper(), argument)

    def _count(self, client: str, command: str, argument: str) -> None:
        if command == "ECHO" and argument in (START_MARK, STOP_MARK):
            self._counting = argument == START_MARK
        elif self._counting and client != "lua" and command not in GREETINGS:
            self.calls[command] += 1
