"""A private primary with replicas and Sentinels."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any

from channels_redis.testing import _resp
from channels_redis.testing._resp import ErrorReply
from channels_redis.testing._server import Config, RedisServer, wait_until

#: A primary that does not reply for this long is replaced.
DOWN_AFTER_MS = 1000
FAILOVER_TIMEOUT_MS = 5000

#: How often Sentinels announce themselves to each other: normally, and until all know each other.
GREETING_MS = 2000
GREETING_AT_START_MS = 50


class _Sentinel(RedisServer):
    _mode = ("--sentinel",)

    def _base_config(self) -> Config:
        return {}


class SentinelSet:
    """A replicated server with Sentinels; a context manager that starts and removes all servers.

    ``config`` is for the primary and its replicas, ``sentinel_config`` for the Sentinels.
    A password in ``requirepass`` is also set for replicas and Sentinels.
    """

    def __init__(
        self,
        replicas: int = 1,
        sentinels: int = 3,
        master_name: str = "main",
        *,
        binary: str | None = None,
        config: Config | None = None,
        sentinel_config: Config | None = None,
    ) -> None:
        self.master_name = master_name
        self._password = str((config or {}).get("requirepass", ""))
        self._config = dict(config or {})
        if self._password:
            self._config["masterauth"] = self._password
        self._sentinel_config = sentinel_config or {}
        self._binary = binary
        self._stack = ExitStack()
        self._sizes = replicas, sentinels
        self.servers: list[RedisServer] = []
        self.sentinel_servers: list[RedisServer] = []

    def __enter__(self) -> SentinelSet:
        replicas, sentinels = self._sizes
        with ExitStack() as stack:
            first = stack.enter_context(RedisServer(binary=self._binary, config=self._config))
            self.servers = [first]
            following = self._config | {"replicaof": f"{first.host} {first.port}"}
            for _ in range(replicas):
                replica = RedisServer(binary=self._binary, config=following)
                self.servers.append(stack.enter_context(replica))
            self.settle()
            watched = self._watch(first, quorum=sentinels // 2 + 1)
            self.sentinel_servers = [
                stack.enter_context(_Sentinel(binary=self._binary, config=watched))
                for _ in range(sentinels)
            ]
            self._greet_every(GREETING_AT_START_MS)
            wait_until(self._sentinels_agree, "known to all its Sentinels")
            self._greet_every(GREETING_MS)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.servers = []
        self.sentinel_servers = []

    def host_entry(self) -> dict[str, Any]:
        """Return the entry for ``hosts`` of a layer."""
        return {"sentinels": self.sentinels, "master_name": self.master_name}

    @property
    def sentinels(self) -> list[tuple[str, int]]:
        """``(host, port)`` of every Sentinel, running or not."""
        return [sentinel.address for sentinel in self.sentinel_servers]

    @property
    def primary(self) -> RedisServer:
        """The server that most running Sentinels consider the primary."""
        if not self.sentinel_servers:
            return self.servers[0]
        named = [name for name in map(self._primary_named_by, self.sentinel_servers) if name]
        if not named:
            raise RuntimeError("No Sentinel replies.")
        address = max(named, key=named.count)
        return next(server for server in self.servers if server.address == address)

    @property
    def replicas(self) -> list[RedisServer]:
        """All servers except the primary, running or not."""
        primary = self.primary
        return [server for server in self.servers if server is not primary]

    def settle(self, timeout_s: float = 30) -> None:
        """Wait until all replicas have the data of the primary."""
        primary = self.primary
        count = len(self.servers) - 1
        # A replica may report to be online before it gets the replication stream, so wait for
        # acknowledgements.  PUBLISH is replicated and stores nothing.
        commands = ("PUBLISH", "channels-redis:settle", ""), ("WAIT", count, 1000)

        def acknowledged() -> bool:
            replies = _resp.converse(primary.address, *commands, auth=self._password)
            return bool(replies[-1] == count)

        wait_until(acknowledged, "replicated", timeout_s)

    def failover(self, timeout_s: float = 30) -> RedisServer:
        """Let the Sentinels replace a healthy primary; return the new one when all agree on it."""
        old = self.primary
        asked = next(sentinel for sentinel in self.sentinel_servers if sentinel.running)

        def accepted() -> bool:
            # Refused with NOGOODSLAVE or INPROG until all servers know each other.
            return bool(asked.command("SENTINEL", "FAILOVER", self.master_name) == b"OK")

        wait_until(accepted, "ready for a failover", timeout_s)
        return self.wait_for_new_primary(old, timeout_s)

    def wait_for_new_primary(self, old: RedisServer, timeout_s: float = 30) -> RedisServer:
        """Return the primary once all living Sentinels name one that is not ``old``."""

        def replaced() -> RedisServer | None:
            living = [sentinel for sentinel in self.sentinel_servers if sentinel.running]
            named = {self._primary_named_by(sentinel) for sentinel in living}
            if len(named) != 1 or named <= {None, old.address}:
                return None
            return self.primary if self.primary.command("ROLE")[0] == b"master" else None

        primary: RedisServer = wait_until(replaced, f"another primary than {old}", timeout_s)
        return primary

    def _watch(self, primary: RedisServer, quorum: int) -> Config:
        name = self.master_name
        watched: dict[str, Any] = {
            "sentinel": [
                f"monitor {name} {primary.host} {primary.port} {quorum}",
                f"down-after-milliseconds {name} {DOWN_AFTER_MS}",
                f"failover-timeout {name} {FAILOVER_TIMEOUT_MS}",
                *([f"auth-pass {name} {self._password}"] if self._password else []),
            ]
        }
        return watched | dict(self._sentinel_config)

    def _greet_every(self, period_ms: int) -> None:
        for sentinel in self.sentinel_servers:
            with suppress(ErrorReply):  # Redis before 7 has no such command, and takes its time
                sentinel.command("SENTINEL", "DEBUG", "PUBLISH-PERIOD", period_ms)

    def _sentinels_agree(self) -> bool:
        expected = len(self.servers) - 1, len(self.sentinel_servers) - 1
        return all(self._known_to(sentinel) == expected for sentinel in self.sentinel_servers)

    def _known_to(self, sentinel: RedisServer) -> tuple[int, int]:
        words = sentinel.command("SENTINEL", "MASTER", self.master_name)
        facts = dict(zip(words[::2], words[1::2], strict=True))
        return int(facts[b"num-slaves"]), int(facts[b"num-other-sentinels"])

    def _primary_named_by(self, sentinel: RedisServer) -> tuple[str, int] | None:
        if not sentinel.running:
            return None
        asked = "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master_name
        try:
            host, port = _resp.command(sentinel.address, *asked, auth=sentinel._own_auth)
        except (OSError, ErrorReply):
            return None
        return host.decode(), int(port)
