"""Groups with a history under faults: what claims to be complete is held against what was sent.

On each layer two senders send numbered messages, one after the other, to a group. Two members
listen all the time, and clients come and go: each resumes where it was. Whoever is not told of a
loss must have every message of a sender whose call has returned, from the first to the last one
that it has, once and in order. ``python -m tests.soak.histories`` prints the counts, and exits
with 1 where one that has to be 0 is not.

What a server acknowledged and lost before anybody had seen it can't be known; it is counted apart.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import redis.exceptions

from channels_redis.testing.servers import RedisServer
from tests.conftest import class_of
from tests.proxy import Proxy

GROUP, BACK = "room.soak", "soak.back"
OPTIONS: dict[str, Any] = {
    "history": {"room.*": {"size": 200, "ttl": 120}},
    "on_reconnect": BACK,
    "connect_wait_s": 1,
    "command_timeout_s": 2,
}
SENDERS, MEMBERS, CLIENTS = 2, 2, 8
WARM_UP_S, CALM_S = 1.0, 3.0
LASTING = {"appendonly": "yes", "appendfsync": "no", "save": ""}


@dataclass
class Sender:
    """A process that sends: ``sent`` are the numbers of the calls that have returned."""

    layer: Any
    name: int
    sent: list[int] = field(default_factory=list)
    last: int = 0

    async def run(self, pause_s: float, stop: asyncio.Event) -> None:
        """Send one message after the other."""
        while not stop.is_set():
            self.last += 1
            message = {"type": "soak.message", "sender": self.name, "number": self.last}
            try:
                await self.layer.group_send(GROUP, message)
                self.sent.append(self.last)
            except redis.exceptions.RedisError:
                await asyncio.sleep(0.05)
            await asyncio.sleep(pause_s)


class Account:
    """What one listener has, since it was last told that something is missing."""

    def __init__(self) -> None:
        self.has: dict[int, list[int]] = {}
        self.spans: list[dict[int, list[int]]] = []
        self.position: str | None = None

    def take(self, message: dict[str, Any]) -> None:
        """Note a message; what was in no log has no number."""
        if "number" not in message:
            return
        self.has.setdefault(message["sender"], []).append(message["number"])
        self.position = message.get("__position__", self.position)

    def told(self) -> None:
        """Note that messages are missing here."""
        self.spans.append(self.has)
        self.has = {}


@dataclass
class Community:
    """All that use one layer."""

    kind: str
    url: str
    counts: Counter[str] = field(default_factory=Counter)
    senders: list[Sender] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    unknowable: set[tuple[int, int]] = field(default_factory=set)

    def make(self) -> Any:
        """Return a layer."""
        return class_of(self.kind)(hosts=[self.url], prefix=f"soak-{self.kind}", **OPTIONS)

    async def member(self, layer: Any, account: Account) -> None:
        """Listen all the time."""
        channel = await layer.new_channel()
        await layer.group_add(GROUP, channel)
        self.accounts.append(account)
        while True:
            message = await layer.receive(channel)
            if message["type"] != BACK:
                account.take(message)
            elif message.get("missed"):
                account.told()
                self.counts["told"] += 1

    async def client(self, layers: list[Any], account: Account, chance: random.Random) -> None:
        """Listen for a while, again and again, each time where it was."""
        self.accounts.append(account)
        while True:
            layer = chance.choice(layers)
            try:
                channel = await layer.new_channel()
                await self.resume(layer, channel, account)
                await self.listen(layer, channel, account, chance.uniform(0, 0.3))
                await layer.group_discard(GROUP, channel)
            except redis.exceptions.RedisError:
                await asyncio.sleep(0.02)
            await asyncio.sleep(chance.uniform(0, 0.3))

    async def resume(self, layer: Any, channel: str, account: Account) -> None:
        """Join the group where the client was."""
        since = account.position
        if since is None:
            since = (await layer.group_history(GROUP, limit=0)).position
        resumed = await layer.group_add(GROUP, channel, since=since)
        self.counts["complete" if resumed.complete else "incomplete"] += 1
        if not resumed.complete:
            account.told()
        # What follows begins here, or was put into the mailbox and has positions of its own.
        if not resumed.count:
            account.position = resumed.position

    async def listen(self, layer: Any, channel: str, account: Account, limit_s: float) -> None:
        """Receive for so long."""
        end = time.monotonic() + limit_s
        while (left_s := end - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(layer.receive(channel), left_s)
            except asyncio.TimeoutError:
                return
            if message["type"] != BACK:
                account.take(message)
            elif message.get("missed"):
                account.told()
                self.counts["told"] += 1

    def settle(self) -> None:
        """Hold what everybody has against what was sent."""
        for account in self.accounts:
            account.told()
            for span in account.spans:
                for sender in self.senders:
                    self._check(sender, span.get(sender.name, []))

    def _check(self, sender: Sender, has: list[int]) -> None:
        self.counts["received"] += len(has)
        self.counts["doubled"] += len(has) - len(set(has))
        self.counts["out of order"] += has != sorted(has)
        if not has:
            return
        due = {number for number in sender.sent if has[0] <= number <= has[-1]}
        for number in due - set(has):
            unknowable = (sender.name, number) in self.unknowable
            self.counts["can't be known" if unknowable else "missing"] += 1


class Trouble:
    """What happens to the server and to the network, every few seconds."""

    def __init__(
        self, server: RedisServer, proxy: Proxy, communities: list[Community], chance: random.Random
    ) -> None:
        self.server, self.proxy, self.random = server, proxy, chance
        self.communities = communities
        self.done: Counter[str] = Counter()

    def strike(self) -> None:
        """Do one of them."""
        faults = [
            self.proxy.cut,
            self.network_gone,
            self.network_stalled,
            self.replies_dropped,
            self.server_killed,
            self.subscribers_killed,
            self.keys_deleted,
            self.rolled_back,
            self.unlogged,
        ]
        fault = self.random.choice(faults)
        self.done[fault.__name__] += 1
        fault()

    def network_gone(self) -> None:
        self.proxy.refuse()
        time.sleep(self.random.uniform(0.1, 1.5))
        self.proxy.resume()

    def network_stalled(self) -> None:
        self.proxy.stall()
        time.sleep(self.random.uniform(0.1, 1.0))
        self.proxy.cut()
        self.proxy.resume()

    def replies_dropped(self) -> None:
        self.proxy.drop_replies()
        time.sleep(0.1)
        self.proxy.cut()
        self.proxy.resume()

    def server_killed(self) -> None:
        self.server.kill()
        self.server.start()

    def subscribers_killed(self) -> None:
        self.server.command("CLIENT", "KILL", "TYPE", "pubsub")

    def keys_of(self, community: Community) -> list[str]:
        log = community.senders[0].layer._log(GROUP)
        return [log.key, log.position_key]

    def keys_deleted(self) -> None:
        keys = self.keys_of(self.random.choice(self.communities))
        self.server.command("DEL", *self.random.choice([keys, keys[:1], keys[1:]]))

    def rolled_back(self) -> None:
        """A replica that lags takes over: all connections are lost, and it has less."""
        community = self.random.choice(self.communities)
        keys = self.keys_of(community)
        before = {one.name: one.last for one in community.senders}
        dumped = self.server.command("EVAL", DUMP, 2, *keys)
        time.sleep(self.random.uniform(0.0, 0.3))
        self.proxy.refuse()
        self.server.command("EVAL", RESTORE, 2, *keys, *(one or b"" for one in dumped))
        for one in community.senders:
            community.unknowable |= {(one.name, n) for n in range(before[one.name], one.last + 1)}
        self.proxy.resume()

    def unlogged(self) -> None:
        """A process without the option sends, which nobody has to receive here."""
        for community in self.communities:
            if community.kind == "pubsub":
                topic = community.senders[0].layer._log(GROUP).name
                payload = b"\x82\xa4type\xacsoak.message\xa6sender\xff"
                self.server.command("PUBLISH", topic, payload)


DUMP = "return {redis.call('DUMP', KEYS[1]), redis.call('DUMP', KEYS[2])}"
RESTORE = """
for i = 1, 2 do
    redis.call('DEL', KEYS[i])
    if ARGV[i] ~= '' then redis.call('RESTORE', KEYS[i], 0, ARGV[i]) end
end
"""


async def live(
    community: Community, stack: AsyncExitStack, options: argparse.Namespace, seed: int
) -> tuple[asyncio.Event, list[asyncio.Task[None]], list[asyncio.Task[None]]]:
    """Start all tasks of a community."""
    layers = [community.make() for _ in range(4)]
    for layer in layers:
        stack.push_async_callback(layer.close)
    community.senders = [Sender(layers[n], n) for n in range(SENDERS)]
    stop = asyncio.Event()
    listening = [
        asyncio.create_task(community.member(layers[2 + n], Account())) for n in range(MEMBERS)
    ]
    listening += [
        asyncio.create_task(community.client(layers, Account(), random.Random(seed + n)))
        for n in range(CLIENTS)
    ]
    pause_s = SENDERS / options.rate
    sending = [asyncio.create_task(one.run(pause_s, stop)) for one in community.senders]
    return stop, sending, listening


async def run(options: argparse.Namespace) -> bool:
    """Run the soak; tell whether all promises were kept."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(RedisServer(config=LASTING))
        proxy = stack.enter_context(Proxy(server.host, server.port))
        communities = [Community(kind, proxy.url) for kind in ("core", "pubsub")]
        living = [
            await live(one, stack, options, options.seed + 1000 * n)
            for n, one in enumerate(communities)
        ]
        trouble = Trouble(server, proxy, communities, random.Random(options.seed))
        end = time.monotonic() + 60 * options.minutes - CALM_S
        await asyncio.sleep(WARM_UP_S)
        while time.monotonic() < end:
            await asyncio.to_thread(trouble.strike)
            await asyncio.sleep(trouble.random.uniform(0.5, 1.5) * options.pause)
        await asyncio.sleep(CALM_S)
        failures = [await finish(*one) for one in living]
        return report(communities, trouble, options) and not any(failures)


async def finish(
    stop: asyncio.Event, sending: list[asyncio.Task[None]], listening: list[asyncio.Task[None]]
) -> int:
    """Stop sending, let everybody have the rest, and return how many listeners have failed."""
    stop.set()
    await asyncio.wait(sending)
    await asyncio.sleep(1)
    for task in listening:
        task.cancel()
    outcomes = await asyncio.gather(*listening, return_exceptions=True)
    failures = [one for one in outcomes if not isinstance(one, asyncio.CancelledError)]
    for failure in failures:
        print("a listener has ended:", repr(failure))
    return len(failures)


def report(communities: list[Community], trouble: Trouble, options: argparse.Namespace) -> bool:
    """Print the counts; tell whether those that have to be 0 are."""
    print(f"{options.minutes:g} minutes, seed {options.seed}, faults: {dict(trouble.done)}")
    kept = True
    for one in communities:
        one.settle()
        bad = {name: one.counts[name] for name in ("missing", "doubled", "out of order")}
        rest = {name: count for name, count in sorted(one.counts.items()) if name not in bad}
        sent = sum(len(sender.sent) for sender in one.senders)
        print(f"{one.kind:6}  sent {sent}, {rest}, to be 0: {bad}")
        kept = kept and not any(bad.values())
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.histories", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (10)")
    parser.add_argument("--rate", type=float, default=200, help="messages a second (200)")
    parser.add_argument("--pause", type=float, default=3, help="seconds between two faults (3)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the faults")
    return 0 if asyncio.run(run(parser.parse_args())) else 1


if __name__ == "__main__":
    sys.exit(main())
