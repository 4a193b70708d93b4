"""What a process has to tell its servers again, decided beside a model of servers that forget.

Joins, leaves and looks are cut into their steps (decided, carried out by the server, answered),
and losses come between any two of them. Two connections stand for two event loops: what is asked
for on one of them arrives in order. In the end every membership is on the server that has its
slot, and nothing else is, but for what a restored dump has brought back.
"""

from __future__ import annotations

import copy
import zlib
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from channels_redis._format.keyspace import Keyspace
from channels_redis._format.slots import Address, Served
from channels_redis._groups.memberships import UNKNOWN, Joining, Lease, Memberships, Pair, Writes
from channels_redis._receiving.mailboxes import Mailboxes

GROUPS = ["red", "green", "blue"]
CHANNELS = ["one", "two"]
SLOTS = 6
PRIMARIES: list[Address] = [("a", 1), ("b", 2), ("c", 3)]
KEYS = Keyspace("p")
GROUP_EXPIRY_S = 1e6

groups = st.sampled_from(GROUPS)
channels = st.sampled_from(CHANNELS)
wires = st.integers(0, 1)
slots = st.integers(0, SLOTS - 1)
primaries = st.sampled_from(PRIMARIES)


class Map(Served):
    """A cluster with few slots."""

    def by(self, key: bytes | str) -> Address | None:
        """Return who serves a key."""
        assert self.owners is not None
        return self.owners[slot_of(key)]


def slot_of(key: bytes | str) -> int:
    """Return the slot of a key."""
    return zlib.crc32(key if isinstance(key, bytes) else key.encode()) % SLOTS


class Servers:
    """What lies in each slot, and who serves it: key -> member -> score."""

    def __init__(self) -> None:
        self.owners: list[Address | None] = [PRIMARIES[slot % 3] for slot in range(SLOTS)]
        self.data: list[dict[str, dict[str, float]]] = [{} for _ in range(SLOTS)]
        self.now_s = 1000.0

    def at(self, key: bytes | str) -> dict[str, float]:
        """Return a sorted set."""
        name = key.decode() if isinstance(key, bytes) else key
        return self.data[slot_of(key)].setdefault(name, {})

    def renew(self, key: str) -> tuple[float, float | None]:
        """Do what renew.lua does."""
        self.now_s += 1
        leases = self.at(key)
        known_s = leases.get("me")
        leases["me"] = self.now_s
        return self.now_s, known_s

    def served(self) -> Map:
        """Return who serves what."""
        return Map(tuple(self.owners))

    def slots_of(self, primary: Address) -> list[int]:
        """Return what a primary serves."""
        return [slot for slot, owner in enumerate(self.owners) if owner == primary]


class Process(RuleBasedStateMachine):
    """One process with channels and groups, and a keeper that looks."""

    def __init__(self) -> None:
        super().__init__()
        self.mailboxes = Mailboxes(lambda _: None, lambda *_: None, 60, GROUP_EXPIRY_S, 1_000_000)
        self.told = Memberships(self.mailboxes, KEYS, lambda _: True, GROUP_EXPIRY_S)
        self.servers = Servers()
        # What was asked for and not carried out, by connection.
        self.wires: list[deque[Callable[[], None]]] = [deque(), deque()]
        self.round: Any = None
        self.dump: tuple[int, list[Address | None], list[Any]] | None = None
        self.moves = 0
        self.returned: set[Pair] = set()

    # The application

    @rule(
        group=groups, channel=channels, wire=wires, fate=st.sampled_from([True, True, False, None])
    )
    def join(self, group: str, channel: str, wire: int, fate: bool | None) -> None:
        """Ask for a join: it will work, be refused, or be given up by its caller."""
        joining = self.told.begin(group, self.mailboxes.open(channel))
        self.wires[wire].append(lambda: self.carry_out_join(joining, fate))

    def carry_out_join(self, joining: Joining, fate: bool | None) -> None:
        """Let the server do it, and the caller know."""
        group, channel = joining.pair
        if fate is not False:
            self.servers.at(KEYS.group(group))[channel] = 0.0
        self.told.end(joining, fate)

    @rule(group=groups, channel=channels, wire=wires, works=st.booleans())
    def leave(self, group: str, channel: str, wire: int, works: bool) -> None:
        """Ask for a leave, which may be lost on its way."""
        self.told.part(group, channel)

        def carry_out() -> None:
            if works:
                self.servers.at(KEYS.group(group)).pop(channel, None)
                self.told.parted(group, channel)
            else:
                self.told.owe(group, channel)

        self.wires[wire].append(carry_out)

    @rule(channel=channels)
    def end(self, channel: str) -> None:
        """End a mailbox."""
        box = self.mailboxes.boxes.get(channel)
        if box is not None:
            self.mailboxes.discard(box)
            for group in box.groups or ():
                self.told.owe(group, channel)

    @rule(wire=wires)
    def carry_out(self, wire: int) -> None:
        """Let a server do what was asked for next."""
        if self.wires[wire]:
            self.wires[wire].popleft()()

    # Losses

    @rule(primary=primaries, noticed=st.booleans())
    def empty(self, primary: Address, noticed: bool) -> None:
        """Empty a primary; with a connection lost, or without."""
        for slot in self.servers.slots_of(primary):
            self.servers.data[slot] = {}
        if noticed:
            self.told.reconnected()

    @rule()
    def save(self) -> None:
        """Remember what the servers know now."""
        self.dump = self.moves, list(self.servers.owners), copy.deepcopy(self.servers.data)

    @rule(primary=primaries)
    def restore(self, primary: Address) -> None:
        """Let a primary know what it knew some time ago: a dump, or a replica that lagged."""
        if self.dump is None or self.dump[0] != self.moves:
            return
        for slot in self.servers.slots_of(primary):
            self.servers.data[slot] = copy.deepcopy(self.dump[2][slot])
            for key, members in self.servers.data[slot].items():
                group = key.rpartition(":")[2]
                self.returned |= {Pair(group, one) for one in members if ":group:" in key}
        self.told.reconnected()

    @rule(slot=slots, primary=primaries)
    def move(self, slot: int, primary: Address) -> None:
        """Move a slot with all that lies in it."""
        self.servers.owners[slot] = primary
        self.moves += 1

    # The keeper, as in _leases

    @rule(wire=wires)
    def look(self, wire: int) -> None:
        """Begin a round, or go on with it."""
        if self.round is None:
            self.round = self.rounds(wire)
        if next(self.round, None) is None:
            self.round = None

    def rounds(self, wire: int) -> Any:
        """Do one round of a keeper, in steps."""
        served = self.servers.served()
        look = self.told.look()
        answers: dict[Lease, Any] = {}
        for lease in look.leases.values():

            def renew(lease: Lease = lease) -> None:
                answers[lease] = self.servers.renew(lease.key)

            self.wires[wire].append(renew)
        while len(answers) < len(look.leases):
            yield True
        look.ends.update(answers)
        self.told.learn(look)
        yield True
        over, _ = self.told.place(served)
        for lease in over:
            self.wires[wire].append(partial(self.end_lease, lease.key))
        yield True
        while (writes := self.told.batch(2, set())).by_group:
            done: list[str] = []
            for group in writes.by_group:
                self.wires[wire].append(partial(self.write, group, writes, done))
            while len(done) < len(writes.by_group):
                yield True
            for group in done:
                self.told.written(group, writes)
            yield True

    def end_lease(self, key: str) -> None:
        """Do what ZREM does."""
        self.servers.at(key).pop("me", None)

    def write(self, group: str, writes: Writes, done: list[str]) -> None:
        """Do what rejoin.lua and ZREM do."""
        members = self.servers.at(KEYS.group(group))
        for channel, joined_s in writes.by_group[group].items():
            if joined_s is None:
                members.pop(channel, None)
            else:
                members[channel] = max(joined_s, members.get(channel, 0.0))
        done.append(group)

    # What has to hold

    @invariant()
    def leases_are_where_they_belong(self) -> None:
        """There is one lease for a primary, and each has its own key."""
        keys = [lease.key for lease in self.told._leases.values()]
        assert len(set(keys)) == len(keys)

    def teardown(self) -> None:
        """Let all come to its end, and compare."""
        self.settle()
        for group in GROUPS:
            here = self.servers.at(KEYS.group(group))
            for channel in CHANNELS:
                pair = Pair(group, channel)
                box = self.mailboxes.boxes.get(channel)
                joined_s = (box.groups or {}).get(group) if box is not None else None
                if joined_s is None:
                    assert channel not in here or pair in self.returned, pair
                elif joined_s != UNKNOWN:
                    assert channel in here, pair
                    assert here[channel] in (0.0, joined_s), pair
        if not any(box.groups for box in self.mailboxes.boxes.values()):
            assert not self.told.has_state

    def settle(self) -> None:
        """Carry out all that is under way, and look until there is nothing more to do."""
        for _ in range(200):
            for wire in (0, 1):
                while self.wires[wire]:
                    self.carry_out(wire)
            self.look(0)
            quiet = not (self.told.is_due or self.told._recent or self.round)
            if quiet and not any(self.wires):
                break
        for _ in range(30):  # a look that finds a loss which nothing else has shown
            self.look(0)
            for wire in (0, 1):
                while self.wires[wire]:
                    self.carry_out(wire)


def test_every_membership_is_where_it_belongs_whatever_was_forgotten() -> None:
    """Whatever comes between the steps of joins, leaves and looks."""
    run_state_machine_as_test(
        Process,
        settings=settings(
            max_examples=300,
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
