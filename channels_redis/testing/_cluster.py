"""A Redis Cluster of private servers, created and changed without a command-line client."""

from __future__ import annotations

import binascii
import time
from contextlib import ExitStack, suppress
from typing import Any

from channels_redis.testing._resp import ErrorReply
from channels_redis.testing._server import Config, RedisServer, wait_until

SLOTS = 16384

#: The number of fields before the slots in a line of CLUSTER NODES.
_NODE_FIELDS = 8

#: A primary that does not reply for this long is replaced by a replica, if it has one.
NODE_TIMEOUT_MS = 2000

#: A little longer than the time after which servers silently give up a planned failover.
PLAN_DROPPED_AFTER_S = 6.0


def slot_of(key: str) -> int:
    """Return the slot of a key, or of the part in its first braces, if there is one."""
    _, _, rest = key.partition("{")
    tag, brace, _ = rest.partition("}")
    return binascii.crc_hqx((tag if tag and brace else key).encode(), 0) % SLOTS


class ClusterSet:
    """A cluster; a context manager that starts and removes all its servers.

    ``replicas`` is the number of replicas of each primary. ``config`` is for every server; a
    password in ``requirepass`` is also used for replication. Slots are distributed evenly over the
    primaries. The order of ``servers`` is: all primaries, then their replicas in the same order.
    """

    def __init__(
        self,
        primaries: int = 3,
        replicas: int = 0,
        *,
        binary: str | None = None,
        config: Config | None = None,
        tls: bool = False,
    ) -> None:
        self._sizes = primaries, replicas
        self._binary = binary
        self._tls = tls
        self._config: dict[str, Any] = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(NODE_TIMEOUT_MS),
            **(config or {}),
        }
        if "requirepass" in self._config:
            self._config["masterauth"] = self._config["requirepass"]
        self._stack = ExitStack()
        self.servers: list[RedisServer] = []

    def __enter__(self) -> ClusterSet:
        primaries, replicas = self._sizes
        with ExitStack() as stack:
            self._stack = stack
            for _ in range(primaries * (1 + replicas)):
                self._start_server()
            self._meet(self.servers)
            self._assign_slots()
            for index, replica in enumerate(self.servers[primaries:]):
                self._replicate(replica, self.servers[index % primaries])
            self.wait_until_ok()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.servers = []

    def host_entry(self) -> dict[str, Any]:
        """Return the entry for ``hosts`` of a layer, with all servers."""
        return {"cluster": True, "startup_nodes": [server.address for server in self.servers]}

    # Slots and roles

    @property
    def primaries(self) -> list[RedisServer]:
        """The running servers that serve slots, in the order of the slots."""
        owners = self._owners()
        return [self._named(owner) for owner in dict.fromkeys(owners) if owner]

    def owner(self, key: str) -> RedisServer:
        """Return the server that serves a key, according to most running servers."""
        return self.owner_of(slot_of(key))

    def owner_of(self, slot: int) -> RedisServer:
        """Return the server that serves a slot, according to most running servers."""
        owner = self._owners()[slot]
        if owner is None:
            raise RuntimeError(f"No server serves slot {slot}.")
        return self._named(owner)

    def replicas_of(self, primary: RedisServer) -> list[RedisServer]:
        """Return the running replicas of a primary."""
        name = self._name(primary)
        return [one for one in self.living if self._following(one) == name]

    @property
    def living(self) -> list[RedisServer]:
        """The servers whose processes are running."""
        return [server for server in self.servers if server.running]

    def wait_until_ok(self, timeout_s: float = 30) -> None:
        """Wait until every running server reports that all slots are served, and all agree on the
        owners of the slots.
        """

        def ok() -> bool:
            states = [one.command("CLUSTER", "INFO") for one in self.living]
            maps = {str(self._slots(one)) for one in self.living}
            agreed = len(maps) == 1 and all(b"cluster_state:ok" in state for state in states)
            # The state may be ok while a restarted server is still marked as failed.
            return agreed and not any(self._failed_by(one) for one in self.living)

        wait_until(ok, "a healthy cluster", timeout_s)
        for server in self.living:
            # Replication links are announced later than the owners of slots.
            self._wait_for_link(server, timeout_s)

    # Changes

    def failover(self, key: str, *, timeout_s: float = 30) -> RedisServer:
        """Let a replica take over from a healthy primary without loss; return the new primary."""
        old = self.owner(key)
        replica = self.replicas_of(old)[0]
        deadline = time.monotonic() + timeout_s

        def accepted() -> bool:
            # A replica that has taken over must not be asked again, even if not all know it yet.
            done = self._following(replica) is None
            return done or bool(replica.command("CLUSTER", "FAILOVER") == b"OK")

        while True:
            left_s = deadline - time.monotonic()
            wait_until(accepted, "ready for a failover", left_s)
            try:
                return self.wait_for_new_owner(key, old, min(left_s, PLAN_DROPPED_AFTER_S))
            except TimeoutError:
                if left_s < PLAN_DROPPED_AFTER_S:
                    raise

    def wait_for_new_owner(self, key: str, old: RedisServer, timeout_s: float = 30) -> RedisServer:
        """Return the server of a key once all running servers name another one than ``old``."""
        slot = slot_of(key)

        def replaced() -> RedisServer | None:
            others = [one for one in self.living if one is not old]
            named = {self._slots(one)[slot] for one in others}
            if len(named) != 1 or named <= {None, old.address}:
                return None
            return self._named(named.pop())

        owner: RedisServer = wait_until(replaced, f"served by another than {old}", timeout_s)
        return owner

    def add_primary(self) -> RedisServer:
        """Start another server without slots and add it to the cluster; return it."""
        server = self._start_server()
        self._meet([self.servers[0], server])

        def acquainted() -> bool:
            others = [one for one in self.living if one is not server]
            return all(self._knows(one, server) and self._knows(server, one) for one in others)

        wait_until(acquainted, "known to all servers")
        self.wait_until_ok()
        return server

    def remove(self, server: RedisServer) -> None:
        """Remove a server without slots from the cluster, and kill it."""
        name = self._name(server)
        server.kill()
        for other in self.living:
            with suppress(ErrorReply):
                other.command("CLUSTER", "FORGET", name)
        self.servers.remove(server)

    def begin_move(self, slot: int, target: RedisServer) -> RedisServer:
        """Start the migration of a slot, and return its present server.  From now on, that server
        redirects commands for missing keys to ``target``.
        """
        source = self.owner_of(slot)
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self._name(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self._name(target))
        return source

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer) -> int:
        """Move the keys of a slot that is being migrated; return their number."""
        auth = ["AUTH", self._config["requirepass"]] if "requirepass" in self._config else []
        moved = 0
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            address = target.host, target.port
            source.command("MIGRATE", *address, "", 0, 5000, *auth, "KEYS", *keys)
            moved += len(keys)
        return moved

    def end_move(self, slot: int, target: RedisServer) -> None:
        """Assign a slot to its new server, on all servers."""
        name = self._name(target)
        target.command("CLUSTER", "SETSLOT", slot, "NODE", name)
        for server in self._serving():
            if server is not target:
                server.command("CLUSTER", "SETSLOT", slot, "NODE", name)

    def move_slot(self, slot: int, target: RedisServer) -> int:
        """Move a slot with its keys to another primary; return the number of keys."""
        source = self.begin_move(slot, target)
        moved = self.move_keys(slot, source, target)
        self.end_move(slot, target)
        return moved

    # Creation

    def _start_server(self) -> RedisServer:
        server = RedisServer(binary=self._binary, config=self._config, tls=self._tls)
        self.servers.append(self._stack.enter_context(server))
        return server

    def _meet(self, servers: list[RedisServer]) -> None:
        for index, server in enumerate(servers, 1):
            # Equal epochs would delay the start of the cluster.
            with suppress(ErrorReply):
                server.command("CLUSTER", "SET-CONFIG-EPOCH", index)
        first, *others = servers
        for server in others:
            first.command("CLUSTER", "MEET", server.host, server.port, server.bus_port)

    def _assign_slots(self) -> None:
        primaries = self.servers[: self._sizes[0]]
        edges = [SLOTS * index // len(primaries) for index in range(len(primaries) + 1)]
        for server, first, end in zip(primaries, edges, edges[1:], strict=False):
            # ADDSLOTS works with all versions; ADDSLOTSRANGE needs 7.0.
            server.command("CLUSTER", "ADDSLOTS", *range(first, end))

    def _replicate(self, replica: RedisServer, primary: RedisServer) -> None:
        wait_until(lambda: self._knows(replica, primary), "introduced")
        replica.command("CLUSTER", "REPLICATE", self._name(primary))

    def _wait_for_link(self, server: RedisServer, timeout_s: float) -> None:
        def linked() -> bool:
            replication = server.info("replication")
            return replication["role"] == "master" or replication["master_link_status"] == "up"

        wait_until(linked, "linked to its primary", timeout_s)

    # Queries

    def _name(self, server: RedisServer) -> str:
        name: bytes = server.command("CLUSTER", "MYID")
        return name.decode()

    def _named(self, address: Any) -> RedisServer:
        return next(server for server in self.servers if server.address == address)

    def _knows(self, server: RedisServer, other: RedisServer) -> bool:
        nodes: bytes = server.command("CLUSTER", "NODES")
        line = next((one for one in nodes.decode().splitlines() if self._name(other) in one), "")
        return bool(line) and "handshake" not in line and "fail" not in line

    def _failed_by(self, server: RedisServer) -> bool:
        """Return whether a server considers a running one, or the owner of a slot, as failed."""
        known = [line.split() for line in server.command("CLUSTER", "NODES").decode().splitlines()]
        living = {self._name(one) for one in self.living}
        failed = [one for one in known if "fail" in one[2]]
        return any(one[0] in living or len(one) > _NODE_FIELDS for one in failed)

    def _following(self, server: RedisServer) -> str | None:
        nodes: bytes = server.command("CLUSTER", "NODES")
        mine = next(line for line in nodes.decode().splitlines() if "myself" in line)
        primary = mine.split(" ")[3]
        return None if primary == "-" else primary

    def _serving(self) -> list[RedisServer]:
        return [one for one in self.living if self._following(one) is None]

    def _owners(self) -> list[tuple[str, int] | None]:
        maps = [self._slots(server) for server in self.living]
        if not maps:
            raise RuntimeError("No server of the cluster is running.")
        return max(maps, key=maps.count)

    def _slots(self, server: RedisServer) -> list[tuple[str, int] | None]:
        owners: list[tuple[str, int] | None] = [None] * SLOTS
        for first, last, (_, port, *_), *_ in server.command("CLUSTER", "SLOTS"):
            # All are on this machine, whatever host names they announce.
            owners[first : last + 1] = [(server.host, port)] * (last + 1 - first)
        return owners
