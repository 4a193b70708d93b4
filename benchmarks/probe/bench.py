"""What a scenario is given: layers to measure, the meter, and consumers that count."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.probe.meter import Meter

MESSAGE = {"type": "chat.message", "text": "x" * 100, "id": 12345, "user": "someone"}
NO_LIMIT = 10**9
CLASSES = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}
DELIVERY_TIMEOUT_S = 120


@dataclass(frozen=True)
class Scale:
    """How large the crowds are and how long a scenario waits for them."""

    #: Share of the members and channels that a scenario speaks of.
    crowd: float = 1.0
    #: For consumers to have begun their waiting.
    settle_s: float = 0.3
    idle_s: float = 6.0
    #: Longer than a layer may keep the mailbox of a consumer that was cancelled; 0 where what
    #: it keeps is not looked at.
    forget_s: float = 12.0
    #: Between two messages whose latency counts, so that no backlog grows.
    interval_s: float = 0.5
    #: For a second copy to show itself.
    linger_s: float = 0.5


SCALES = {
    "full": Scale(),
    "quick": Scale(idle_s=2.0, forget_s=0.0),
    "tiny": Scale(0.005, 0.02, idle_s=0.1, forget_s=0.0, interval_s=0.02, linger_s=0.1),
}


class Layer(Protocol):
    """What every channel layer can do."""

    async def send(self, channel: str, message: dict[str, Any]) -> None: ...
    async def receive(self, channel: str) -> dict[str, Any]: ...
    async def new_channel(self) -> str: ...
    async def group_add(self, group: str, channel: str) -> None: ...
    async def group_discard(self, group: str, channel: str) -> None: ...
    async def group_send(self, group: str, message: dict[str, Any]) -> None: ...
    async def flush(self) -> None: ...


class Bench:
    """Makes layers of one kind on one server or one cluster, and closes them at the end."""

    def __init__(
        self,
        *,
        urls: list[str],
        kind: str,
        prefix: str,
        scale: str = "full",
        cluster: bool = False,
    ) -> None:
        self.urls = urls
        self.cluster = cluster
        self.kind = kind
        self.prefix = prefix
        self.scale_name = scale
        self.scale = SCALES[scale]
        self.meter = Meter(*urls)
        self._layers: list[Layer] = []

    @property
    def url(self) -> str:
        """The server, or one of the cluster."""
        return self.urls[0]

    @property
    def hosts(self) -> list[Any]:
        """The option of this name."""
        return [{"cluster": True, "address": self.url}] if self.cluster else [self.url]

    def as_order(self) -> dict[str, Any]:
        """What another process needs to make the same."""
        return {
            "urls": self.urls,
            "cluster": self.cluster,
            "kind": self.kind,
            "prefix": self.prefix,
            "scale": self.scale_name,
        }

    def layer(self, **config: Any) -> Layer:
        """Make a layer; the pubsub layer of 4.3.0 knows no capacity, so it goes without."""
        module, name = CLASSES[self.kind].rsplit(".", 1)
        layer_class = getattr(importlib.import_module(module), name)
        config = {"hosts": self.hosts, "prefix": self.prefix, **config}
        try:
            layer: Layer = layer_class(**config)
        except TypeError:
            config.pop("capacity", None)
            layer = layer_class(**config)
        self._layers.append(layer)
        return layer

    def crowd_of(self, people: int) -> int:
        """As many as the scale allows."""
        return max(2, round(people * self.scale.crowd))

    async def settle(self) -> None:
        """Let consumers begin their waiting."""
        await asyncio.sleep(self.scale.settle_s)

    async def close(self) -> None:
        """Delete what the layers left on the servers and close their connections."""
        for layer in self._layers:
            await layer.flush()
            close = getattr(layer, "close", None)
            if close is not None:
                await close()
        self._layers.clear()
        self.meter.close()


class Crowd:
    """Consumers that receive for ever, and one counter for all of them."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.seen = 0
        self._expected = 0
        self._complete = asyncio.Event()

    def __len__(self) -> int:
        return len(self.tasks)

    def add(self, layer: Layer, channel: str) -> None:
        """Start one consumer of a channel."""
        task = asyncio.ensure_future(self._consume(layer, channel))
        task.add_done_callback(lambda _: self._complete.set())
        self.tasks.append(task)

    async def _consume(self, layer: Layer, channel: str) -> None:
        while True:
            await layer.receive(channel)
            self.seen += 1
            if self.seen >= self._expected:
                self._complete.set()

    def expect(self, messages: int) -> None:
        """Count from 0 again, up to this number of messages."""
        self.seen = 0
        self._expected = messages
        self._complete.clear()

    async def received(self) -> None:
        """Wait until all that is expected was received; raise what killed a consumer."""
        await asyncio.wait_for(self._complete.wait(), DELIVERY_TIMEOUT_S)
        for task in self.dead():
            task.result()

    def dead(self) -> list[asyncio.Task[None]]:
        """Consumers that ended, which none should."""
        return [task for task in self.tasks if task.done()]

    async def leave(self) -> None:
        """End all consumers."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
