"""What is done to the site: faults of the server and of the network, each with its end."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis

from channels_redis.testing.servers import RedisServer
from tests.proxy import Proxy

PAUSE_S = 1.0
#: After this time at most, a server that has forgotten knows the members of groups again.
KNOWN_AGAIN_S = 35.0
SHORT_S, LONG_S = 0.5, 4.0


@dataclass
class Loss:
    """A server has lost its data after ``began``."""

    began: float
    #: What lay in the queue with a key.
    queued: dict[str, list[bytes]]
    #: When each member of a group was one again, by the key of the group.
    again: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def lasted_s(self) -> float:
        """After how many seconds all members were known again that ever were."""
        times = [at for known in self.again.values() for at in known.values()]
        return max(times, default=self.began) - self.began


@dataclass
class Troublemaker:
    """The server that keeps what it has acknowledged, the network before it, and what was done."""

    server: RedisServer
    proxy: Proxy
    random: random.Random
    #: Whether all connections are to live.
    harmless: bool = False
    #: Where frames of random bytes are put.
    keys: list[str] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    #: What is looked into before a server loses it, and waited for afterwards.
    queues: list[str] = field(default_factory=list)
    groups: dict[str, set[str]] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    done: list[tuple[float, str]] = field(default_factory=list)
    poisoned: int = 0

    def strike(self) -> None:
        """Do one fault from the beginning to its end."""
        fault = self.random.choice(HARMLESS if self.harmless else FAULTS)
        self.done.append((time.monotonic(), fault.__name__.replace("_", " ")))
        fault(self)

    def for_a_while(self) -> None:
        """Half of the times shorter than the time-outs, half of them longer."""
        time.sleep(self.random.choice([SHORT_S, LONG_S]))

    def look(self, *before: tuple[Any, ...], after: tuple[Any, ...] = ()) -> Loss:
        """Note what lies in all queues, with commands before and after it in one transaction."""
        loss = Loss(time.monotonic(), {})
        with redis.Redis(host=self.server.host, port=self.server.port) as client:
            together = client.pipeline(transaction=True)
            for words in before:
                together.execute_command(*words)
            for key in self.queues:
                together.execute_command("ZRANGE", key, 0, -1)
            if after:
                together.execute_command(*after)
            found = together.execute()[len(before) :]
        loss.queued = dict(zip(self.queues, found, strict=False))
        return loss

    def wait_for_members(self, loss: Loss) -> None:
        """Note when each member of each group is one again."""
        loss.again = {key: {} for key in self.groups}
        self.losses.append(loss)
        end = loss.began + KNOWN_AGAIN_S
        while any(self.groups[key] - loss.again[key].keys() for key in self.groups):
            for key, known in loss.again.items():
                for name in self.server.command("ZRANGE", key, 0, -1):
                    known.setdefault(name.decode(), time.monotonic())
            if time.monotonic() > end:
                return
            time.sleep(0.02)


Fault = Callable[[Troublemaker], None]


def server_killed(one: Troublemaker) -> None:
    one.server.kill()
    time.sleep(one.random.choice([0.05, SHORT_S, 2.0]))
    one.server.start()


def server_emptied(one: Troublemaker) -> None:
    """Nothing happens on it between the look and the end, as nobody else is served."""
    loss = one.look(("CLIENT", "PAUSE", 60_000, "ALL"))
    one.server.kill()
    for path in one.server.directory.glob("appendonly*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    time.sleep(one.random.choice([0.05, SHORT_S, 2.0]))
    one.server.start()
    one.wait_for_members(loss)


def everything_flushed(one: Troublemaker) -> None:
    one.wait_for_members(one.look(after=("FLUSHALL",)))


def server_frozen(one: Troublemaker) -> None:
    one.server.freeze()
    one.for_a_while()
    one.server.thaw()


def clients_paused(one: Troublemaker) -> None:
    one.server.command("CLIENT", "PAUSE", int(PAUSE_S * 1000), "ALL")
    time.sleep(PAUSE_S)


def subscribers_killed(one: Troublemaker) -> None:
    one.server.command("CLIENT", "KILL", "TYPE", "pubsub")


def other_clients_killed(one: Troublemaker) -> None:
    one.server.command("CLIENT", "KILL", "TYPE", "normal")


def memory_full(one: Troublemaker) -> None:
    one.server.command("CONFIG", "SET", "maxmemory", 1)
    time.sleep(SHORT_S)
    one.server.command("CONFIG", "SET", "maxmemory", 0)


def scripts_forgotten(one: Troublemaker) -> None:
    one.server.command("SCRIPT", "FLUSH")


def network_cut(one: Troublemaker) -> None:
    one.proxy.cut()


def one_connection_cut(one: Troublemaker) -> None:
    links = one.proxy.links
    if links:
        one.random.choice(links).cut()


def network_refused(one: Troublemaker) -> None:
    one.proxy.refuse()
    one.for_a_while()
    one.proxy.resume()


def network_stalled(one: Troublemaker) -> None:
    one.proxy.stall()
    one.for_a_while()
    one.proxy.resume()


def network_slow(one: Troublemaker) -> None:
    one.proxy.delay_s = 0.05
    time.sleep(2)
    one.proxy.delay_s = 0.0


def replies_dropped(one: Troublemaker) -> None:
    """A connection that has lost replies is of no use any more, and is cut."""
    one.proxy.drop_replies()
    time.sleep(SHORT_S)
    one.proxy.cut()
    one.proxy.resume()


def poison(one: Troublemaker) -> None:
    now = int(time.time())
    for key in one.keys:
        one.server.command("ZADD", key, now, os.urandom(one.random.randrange(1, 100)))
    for topic in one.topics:
        one.server.command("PUBLISH", topic, os.urandom(one.random.randrange(1, 100)))
    one.poisoned += len(one.keys) + len(one.topics)


#: After these every message whose send returned is delivered.
HARMLESS: list[Fault] = [clients_paused, memory_full, scripts_forgotten, network_slow, poison]
FAULTS: list[Fault] = [
    *HARMLESS,
    server_killed,
    server_emptied,
    everything_flushed,
    server_frozen,
    subscribers_killed,
    other_clients_killed,
    network_cut,
    one_connection_cut,
    network_refused,
    network_stalled,
    replies_dropped,
]
