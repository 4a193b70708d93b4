"""Those who listen to topics: what they want, what they were told, and what they got."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

from redis.exceptions import MovedError, NoPermissionError, RedisError

from channels_redis._transport.multiplexer import Multiplexer
from channels_redis._transport.packing import pack
from channels_redis._transport.subscriber import Subscriber
from channels_redis._transport.subscriptions import CLASSIC, SHARDED, Verbs
from channels_redis._watch.events import NodeBack
from channels_redis.exceptions import ChannelsRedisError

from .chance import Action, Player
from .server import Server
from .wire import FakeNode, FakeWire
from .world import World

#: How long a call waits for its subscription.
LIMIT_S = 3.0
OWN = b"own"

TOPICS = [b"red", b"green", b"blue"]


class Listener:
    """One call of ``subscribe()``, and whether its caller listens by now."""

    def __init__(self, topic: bytes) -> None:
        self.topic = topic
        self.told = 0
        self.listens = False
        self.failed = False
        self.task: asyncio.Task[None] | None = None


class Place:
    """A server with its subscriber and the connection for what that publishes."""

    def __init__(self, listeners: Listeners, server: Server, verbs: Verbs, name: str) -> None:
        self._listeners = listeners
        self.server = server
        self.node = FakeNode(server, listeners.world.loop, name=name)
        self.node.is_sharded = verbs is SHARDED
        self.commands_node = FakeNode(server, listeners.world.loop, name=f"commands of {name}")
        self.commands = Multiplexer(self.commands_node)
        self._numbers = itertools.count()
        self.drops = 0
        self.subscriber = Subscriber(
            self.node,
            listeners.on_message,
            listeners.in_use,
            lambda: b"%b%d" % (OWN, next(self._numbers)),
            lambda topic, payload: self.commands.call(pack(verbs.publish, topic, payload)),
            verbs,
            self._dropped,
        )

    def _dropped(self) -> None:
        self.drops += 1

    def subscribed(self) -> set[bytes]:
        """Return the topics that the server has for the subscriber."""
        topics = {topic for wire in self.node.wires for topic in wire.topics}
        return {topic for topic in topics if not topic.startswith(OWN)}

    def is_confirmed(self, topic: bytes) -> bool:
        """Tell whether the last that was heard of a topic, on the latest connection, is that it
        is subscribed.
        """
        if not self.node.wires:
            return False
        kinds = [reply[0] for reply in self.node.wire.heard if _is_about(reply, topic)]
        return bool(kinds) and kinds[-1].endswith(b"subscribe") and b"uns" not in kinds[-1]


def _is_about(reply: Any, topic: bytes) -> bool:
    return isinstance(reply, list) and reply[1] == topic and reply[0].endswith(b"subscribe")


class Listeners:
    """Subscribes to topics at one server, or at several where topics may move."""

    def __init__(self, world: World, *, servers: int = 1) -> None:
        self.world = world
        self.got: list[tuple[bytes, bytes]] = []
        self.listeners: list[Listener] = []
        self.breaches: list[str] = []
        self._payloads = itertools.count()
        verbs = CLASSIC if servers == 1 else SHARDED
        self.places = [
            Place(self, world.server if number == 0 else world.another_server(), verbs, f"{number}")
            for number in range(servers)
        ]
        for place in self.places:
            place.node.hooks.append(self._reported)
        #: Where each topic is served; by the first server if it never moved.
        self.homes: dict[bytes, Place] = {}
        #: The same as far as it is known here.
        self.known: dict[bytes, Place] = {}

    # What a subscriber calls

    def on_message(self, topic: bytes, payload: bytes) -> None:
        self._promise(not topic.startswith(OWN), "its own topic was handed on")
        self.got.append((topic, payload))

    def in_use(self, topic: bytes) -> bool:
        return any(one.listens and one.topic == topic for one in self.listeners)

    def _reported(self, event: Any) -> None:
        """See that an outage is over only when all is subscribed that somebody listens to.

        What moves between servers is an outage of its own, told by ``ClusterSubscriber``.
        """
        if isinstance(event, NodeBack) and len(self.places) == 1:
            place = self.places[0]
            for topic in self.wanted_at(place):
                self._promise(place.is_confirmed(topic), f"an outage was over without {topic!r}")

    def _promise(self, kept: bool, breach: str) -> None:
        """Note a breach where an assertion would be taken for an error of the connection."""
        if not kept:
            self.breaches.append(breach)

    # What the test does

    def place(self, topic: bytes) -> Place:
        return self.homes.get(topic, self.places[0])

    def wanted_at(self, place: Place) -> set[bytes]:
        """Return the topics that somebody listens to and that a server has to serve."""
        topics = {one.topic for one in self.listeners if one.listens}
        return {topic for topic in topics if self.place(topic) is place}

    def subscribe(self, topic: bytes) -> Listener:
        listener = Listener(topic)
        self.listeners.append(listener)
        listener.task = self.world.start(self._subscribe(listener))
        return listener

    async def _subscribe(self, listener: Listener) -> None:
        def arrived() -> None:
            confirmed = any(place.is_confirmed(listener.topic) for place in self.places)
            self._promise(confirmed, f"{listener.topic!r} was not confirmed")
            self._promise(not listener.told, f"{listener.topic!r} was told twice")
            listener.told += 1
            listener.listens = True

        try:
            subscriber = self.known.get(listener.topic, self.places[0]).subscriber
            await subscriber.subscribe(listener.topic, arrived, LIMIT_S)
            self._promise(listener.told == 1, "a call returned before it was told")
        except (RedisError, ChannelsRedisError):
            listener.failed = True
            self._promise(not listener.told, "a call was told and failed")
            self._undo(listener)
        except asyncio.CancelledError:
            self._undo(listener)
            raise

    def _undo(self, listener: Listener) -> None:
        """Undo what came of a call that failed, as ``subscribe()`` asks its callers to."""
        was_told, listener.listens = listener.listens, False
        # Where topics move, ClusterSubscriber does this; else it is not left to the caller.
        if was_told or len(self.places) > 1:
            self._release(listener.topic)

    def leave(self, listener: Listener) -> None:
        if listener.task is not None and not listener.task.done():
            listener.task.cancel()
        elif listener.listens:
            listener.listens = False
            self._release(listener.topic)

    def leave_all(self, topic: bytes | None = None) -> None:
        """Have all go, or all of one topic."""
        for listener in self.listeners:
            if topic is None or listener.topic == topic:
                self.leave(listener)

    def _release(self, topic: bytes) -> None:
        for place in self.places:
            place.subscriber.release(topic)

    def publish(self, topic: bytes) -> bytes:
        """Publish something; return what."""
        payload = b"%d" % next(self._payloads)
        place = self.place(topic)
        kind = b"message" if len(self.places) == 1 else b"smessage"
        place.server.publish(topic, payload, kind)
        return payload

    def move(self, topic: bytes, number: int) -> None:
        """Have another server serve a topic; those who asked for it learn of it by a refusal, or
        as their subscription ends.
        """
        new = self.places[number % len(self.places)]
        for place in self.places:
            if place is new:
                place.server.elsewhere.pop(topic, None)
            else:
                place.server.elsewhere[topic] = MovedError("1 elsewhere:1")
                place.server.drop(topic)
        self.homes[topic] = new

    def follow(self) -> None:
        """Take topics to where they are served, as a change of the map does."""
        self.known = dict(self.homes)
        for place in self.places:
            for topic in list(place.subscriber.topics):
                new = self.place(topic)
                if place.subscriber.topics.knows(topic) and new is not place:
                    moved = place.subscriber.move_out(topic)
                    new.subscriber.move_in(topic, moved)

    def close(self) -> None:
        for place in self.places:
            self.world.finish(place.subscriber.aclose())
            self.world.finish(place.commands.aclose())
        self.world.loop.settle()

    # The promises

    def check_commands(self) -> None:
        """See that each topic has one command on its way at most."""
        for place in self.places:
            for wire in place.node.wires:
                named = Counter(topic for args in wire.written for topic in args[1:])
                assert max(named.values(), default=1) == 1

    def check_quiet(self) -> None:
        """See that the servers have what is wanted, and that what is published comes once."""
        topics = {one.topic for one in self.listeners}
        for place in self.places:
            assert place.subscribed() == self.wanted_at(place)
        before = len(self.got)
        sent = [(topic, self.publish(topic)) for topic in sorted(topics)]
        self.world.quiet()
        assert sorted(self.got[before:]) == [one for one in sent if self.in_use(one[0])]

    def check_got(self) -> None:
        """See that nothing came twice, once all has ended."""
        assert max(Counter(self.got).values(), default=1) == 1
        wires: list[FakeWire] = []
        for place in self.places:
            wires += place.node.wires + place.commands_node.wires
        assert all(wire.lost for wire in wires)
        assert all(one.task is None or one.task.done() for one in self.listeners)
        assert self.breaches == [], self.breaches


class Listening(Player):
    """Joins, leaves and publishes, over connections that fail."""

    def __init__(self, world: World, *, servers: int = 1) -> None:
        self.listeners = Listeners(world, servers=servers)
        super().__init__(world, self.listeners.places[0].node)

    def play(self, chosen: list[Action]) -> None:
        for action in chosen:
            super().play([action])
            self.listeners.check_commands()

    def join(self, number: int) -> None:
        self.listeners.subscribe(TOPICS[number % 3])

    def leave(self, number: int) -> None:
        """Have one go who joined lately, or all who joined one topic."""
        if number == 3:
            self.listeners.leave_all(TOPICS[0])
        elif len(self.listeners.listeners) > number:
            self.listeners.leave(self.listeners.listeners[-1 - number])

    def publish(self, number: int) -> None:
        self.listeners.publish(TOPICS[number % 3])

    def refuse(self, number: int) -> None:
        """Have the server refuse the next command."""
        if self.node.wires and self.node.wire.written:
            self.world.server.refusals.append(NoPermissionError("no permissions for a channel"))
            self.node.wire.run(1)
