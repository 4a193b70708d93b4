"""Pub/Sub in a cluster: one subscriber per primary, and topics that follow their slots.

Where the servers have no sharded Pub/Sub, or it is not wanted, one subscriber at any primary
does for all topics: each message reaches every server of the cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from ..._format.slots import Address, slot_of
from ..._runtime.scope import Stage
from ..node import Node
from ..packing import pack
from ..subscriber import Subscriber
from ..subscriptions import CLASSIC, SHARDED, Verbs
from .cluster import MARK_BYTES, Cluster
from .slot import AnyNode

#: Names that are tried for a topic in the slots of one server.
_TRIES = 200_000
#: Slots that move one after the other within this time make one outage.
MOVING_S = 0.5


class ClusterSubscriber:
    """Keeps the wanted topics of one event loop subscribed in a cluster.

    Takes what :class:`Subscriber` takes, and does the same. On sharded Pub/Sub ``on_message()``
    gets the mark of each message too (see :data:`.cluster.MARK_BYTES`).
    """

    def __init__(
        self,
        cluster: Cluster,
        on_message: Callable[..., None],
        in_use: Callable[[bytes], bool],
        new_own_topic: Callable[[], bytes],
        on_join: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self._cluster = cluster
        self._on_join = on_join
        self._on_message = on_message
        self._in_use = in_use
        self._new_own_topic = new_own_topic
        self._anywhere: Subscriber | None = None
        self._by_server: dict[Address, Subscriber] = {}
        self._moving = cluster.scope.timer(self._check_moved)
        self._closed = False
        cluster.watchers.add(self)
        gone = partial(cluster.health.gone, self)
        self._part = cluster.scope.hold(Stage.RECEIVING, self.aclose, forget=gone)

    @property
    def _subscribers(self) -> list[Subscriber]:
        anywhere = [self._anywhere] if self._anywhere is not None else []
        return [*anywhere, *self._by_server.values()]

    async def subscribe(
        self, name: bytes, arrived: Callable[[], None], limit_s: float | None
    ) -> None:
        """Return when a server has confirmed the subscription (see :class:`Subscriber`)."""
        if not self._cluster.map.known:
            await self._cluster.map.wait_until_known(limit_s)
        if self._closed:
            raise self._cluster.health.abandoned("the layer was closed")
        try:
            await self._subscriber_for(name).subscribe(name, arrived, limit_s)
        except BaseException:
            # Meanwhile, another subscriber may have the topic.
            self.release(name)
            raise

    def release(self, name: bytes) -> None:
        """Unsubscribe from a topic, unless somebody listens or waits to."""
        for subscriber in self._subscribers:
            subscriber.release(name)

    def write_changes(self) -> None:
        """Write what was asked for in this tick."""
        for subscriber in self._subscribers:
            subscriber.write_changes()

    def map_changed(self) -> None:
        """Move the topics whose slots have other servers."""
        moved = False
        for address, subscriber in list(self._by_server.items()):
            is_here = partial(self._is_at, address)
            for name in subscriber.topics.elsewhere(is_here):
                moved = True
                topic = subscriber.move_out(name)
                self._subscriber_for(name).move_in(name, topic)
        if moved:
            self._drop()
        # Servers without slots: other subscribers have their topics.
        for address in self._by_server.keys() - set(self._cluster.map.primaries):
            subscriber = self._by_server[address]
            if not subscriber.topics.elsewhere(_nowhere):
                del self._by_server[address]
                self._end(subscriber)

    async def aclose(self) -> None:
        """Close all connections; fail those who wait."""
        self._closed = True
        self._cluster.watchers.discard(self)
        self._cluster.health.gone(self)
        self._moving.cancel()
        await asyncio.gather(*[one.aclose() for one in self._subscribers])
        self._part.release()

    def _subscriber_for(self, name: bytes) -> Subscriber:
        """Return the subscriber that a topic belongs to by the map."""
        if not self._cluster.sharded:
            if self._anywhere is None:
                self._anywhere = self._make(AnyNode(self._cluster), self._new_own_topic, CLASSIC)
            return self._anywhere
        address = self._cluster.owner(slot_of(name))
        if address is None:
            # The subscriber that has it keeps it, or else any one gets it, until the slot has a
            # server.
            holders = [one for one in self._by_server.values() if one.topics.knows(name)]
            if holders:
                return holders[0]
            address = self._cluster.map.primaries[0]
        subscriber = self._by_server.get(address)
        if subscriber is None:
            node = self._cluster.server(address).node
            subscriber = self._make(node, partial(self._topic_at, address), SHARDED)
            self._by_server[address] = subscriber
        return subscriber

    def _make(self, node: Node, new_own_topic: Callable[[], bytes], verbs: Verbs) -> Subscriber:
        def publish(topic: bytes, payload: bytes) -> asyncio.Future[Any]:
            return self._cluster.commands(topic).call(pack(verbs.publish, topic, payload))

        on_message = self._on_marked if verbs is SHARDED else self._on_message
        return Subscriber(
            node,
            on_message,
            self._in_use,
            new_own_topic,
            publish,
            verbs,
            self._drop,
            self._on_join,
        )

    def _on_marked(self, topic: bytes, payload: bytes) -> None:
        self._on_message(topic, payload[MARK_BYTES:], payload[:MARK_BYTES])

    def _drop(self) -> None:
        """Report an outage: until a topic is subscribed again, its messages are missed.

        Slots mostly move many at a time, one after the other, which makes one outage.
        """
        self._cluster.health.lost(self, "servers gave slots away")
        self._moving.start(MOVING_S)

    def _check_moved(self) -> None:
        if all(subscriber.topics.complete for subscriber in self._subscribers):
            self._cluster.health.works(self)
        else:
            self._moving.start(MOVING_S)

    def _is_at(self, address: Address, slot: int) -> bool:
        owner = self._cluster.owner(slot)
        return owner is None or owner == address

    def _topic_at(self, address: Address) -> bytes:
        """Return a topic for a subscriber to listen to itself, in a slot of its server."""
        first = self._new_own_topic()
        topic = first
        for number in range(_TRIES):
            if self._cluster.owner(slot_of(topic)) == address:
                break
            topic = b"%b%d" % (first, number)
        return topic

    def _end(self, subscriber: Subscriber) -> None:
        self._cluster.health.gone(subscriber)
        # Where this is cancelled, the scope closes it.
        self._cluster.scope.start(subscriber.aclose(), "close of a subscriber")


def _nowhere(slot: int) -> bool:
    return False
