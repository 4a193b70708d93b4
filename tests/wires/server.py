"""A model of a Redis server: as much of it as multiplexer, reader and subscriber use.

It runs one command of one connection when it is told to, and keeps a log of what it ran. What it
replies lies in the connection until the test has it delivered.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

if TYPE_CHECKING:
    from .wire import FakeWire

#: The server's clock when that of the loop shows 0.
EPOCH_S = 1.8e9

Args = list[bytes]


def commands(data: bytes) -> Iterator[Args]:
    """Parse packed commands."""
    at = 0
    while at < len(data):
        end = data.index(b"\r\n", at)
        count = int(data[at + 1 : end])
        at = end + 2
        args = []
        for _ in range(count):
            end = data.index(b"\r\n", at)
            size = int(data[at + 1 : end])
            args.append(data[end + 2 : end + 2 + size])
            at = end + 2 + size + 2
        yield args


def _scripts() -> dict[bytes, str]:
    """Return the names of the scripts by their source and by its hash."""
    names: dict[bytes, str] = {}
    for file in (resources.files("channels_redis._transport") / "lua").iterdir():
        source = file.read_bytes()
        name = file.name.removesuffix(".lua")
        names[source] = names[hashlib.sha1(source).hexdigest().encode()] = name
    return names


SCRIPTS = _scripts()


class Server:
    """Sorted sets, Pub/Sub and scripts, on the clock of a loop.

    ``refusals`` holds errors for the next commands, in their order: None lets one through, and
    CLIENT and PING are never refused.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._ids = itertools.count(1)
        self._last_s = 0.0
        self.wires: list[FakeWire] = []
        #: Sorted sets: the pairs of a key, lowest score first.
        self.queues: dict[bytes, list[tuple[float, bytes]]] = {}
        self.loaded: set[bytes] = set()
        self.refusals: deque[Exception | None] = deque()
        #: How often each command was run, by its bytes as a tuple.
        self.ran: Counter[tuple[bytes, ...]] = Counter()
        self.refused: Counter[tuple[bytes, ...]] = Counter()
        #: Whether it is a replica, which refuses to write.
        self.read_only = False
        #: Topics that it refuses, and how.
        self.elsewhere: dict[bytes, Exception] = {}

    def now_s(self) -> float:
        """Return the time, a little later each time."""
        self._last_s = max(EPOCH_S + self._time(), self._last_s + 1e-6)
        return self._last_s

    def accept(self, wire: FakeWire) -> None:
        """Take a new connection."""
        wire.client_id = next(self._ids)
        self.wires.append(wire)

    def run(self, wire: FakeWire) -> None:
        """Run the next command of a connection, unless that is blocked."""
        args = wire.written.popleft()
        is_refused = self.refusals and args[0] not in {b"CLIENT", b"PING"}
        refusal = self.refusals.popleft() if is_refused else None
        if refusal is not None:
            self.refused[tuple(args)] += 1
            wire.reply(refusal)
            return
        name = args[0].decode().lower()
        try:
            reply = getattr(self, f"_{name}")(wire, *args[1:])
        except ResponseError as error:
            wire.reply(error)
        else:
            self.ran[tuple(args)] += 1
            wire.reply(*reply)

    def disconnect(self, wire: FakeWire) -> None:
        """Note the end of a connection: it is blocked no more, and subscribed to nothing."""
        if wire in self.wires:
            self.wires.remove(wire)
        wire.blocked_on = None
        wire.topics.clear()

    def tick(self) -> None:
        """End the blocking pops whose time is over."""
        for wire in self.wires:
            if wire.blocked_on is not None and self._time() >= wire.blocked_until:
                wire.blocked_on = None
                wire.reply(None)

    def add(self, key: bytes, score: float, member: bytes) -> None:
        """Add to a sorted set, and serve who is blocked there, longest first."""
        queue = self.queues.setdefault(key, [])
        queue.append((score, member))
        queue.sort()
        for wire in sorted(self.wires, key=lambda one: one.blocked_since):
            if wire.blocked_on == key and queue:
                wire.blocked_on = None
                wire.reply(self._pop(key))

    def publish(self, topic: bytes, payload: bytes, kind: bytes = b"message") -> int:
        """Hand a message to all who are subscribed; return how many that are."""
        heard = [wire for wire in self.wires if topic in wire.topics]
        for wire in heard:
            wire.reply([kind, topic, payload])
        return len(heard)

    def drop(self, topic: bytes) -> None:
        """End the subscriptions to a topic unasked, as its slot goes to another server."""
        for wire in self.wires:
            if topic in wire.topics:
                wire.topics.remove(topic)
                wire.reply([b"sunsubscribe", topic, len(wire.topics)])

    # Commands: each returns the replies that it has at once

    def _ping(self, wire: FakeWire) -> list[Any]:
        return [b"PONG"]

    def _asking(self, wire: FakeWire) -> list[Any]:
        return [b"OK"]

    def _echo(self, wire: FakeWire, text: bytes) -> list[Any]:
        return [text]

    def _auth(self, wire: FakeWire, *credentials: bytes) -> list[Any]:
        return [b"OK"]

    def _client(self, wire: FakeWire, verb: bytes, client_id: bytes = b"0") -> list[Any]:
        if verb == b"ID":
            return [wire.client_id]
        blocked = [one for one in self.wires if one.client_id == int(client_id) and one.blocked_on]
        for one in blocked:
            one.blocked_on = None
            one.reply(None)
        return [len(blocked)]

    def _zadd(self, wire: FakeWire, key: bytes, score: bytes, member: bytes) -> list[Any]:
        self.add(key, float(score), member)
        return [1]

    def _bzpopmin(self, wire: FakeWire, key: bytes, timeout_s: bytes) -> list[Any]:
        if self.queues.get(key):
            return [self._pop(key)]
        wire.blocked_on = key
        wire.blocked_since = self.now_s()
        wire.blocked_until = self._time() + float(timeout_s)
        return []

    def _pop(self, key: bytes) -> list[bytes]:
        score, member = self.queues[key].pop(0)
        return [key, member, _text(score)]

    def _subscribe(self, wire: FakeWire, *topics: bytes, kind: bytes = b"subscribe") -> list[Any]:
        for topic in topics:
            if topic in self.elsewhere:
                raise self.elsewhere[topic]
        replies: list[Any] = []
        for topic in topics:
            wire.topics.add(topic)
            replies.append([kind, topic, len(wire.topics)])
        return replies

    def _unsubscribe(
        self, wire: FakeWire, *topics: bytes, kind: bytes = b"unsubscribe"
    ) -> list[Any]:
        replies: list[Any] = []
        for topic in topics:
            wire.topics.discard(topic)
            replies.append([kind, topic, len(wire.topics)])
        return replies

    def _ssubscribe(self, wire: FakeWire, *topics: bytes) -> list[Any]:
        return self._subscribe(wire, *topics, kind=b"ssubscribe")

    def _sunsubscribe(self, wire: FakeWire, *topics: bytes) -> list[Any]:
        return self._unsubscribe(wire, *topics, kind=b"sunsubscribe")

    def _publish(self, wire: FakeWire, topic: bytes, payload: bytes) -> list[Any]:
        return [self.publish(topic, payload)]

    def _spublish(self, wire: FakeWire, topic: bytes, payload: bytes) -> list[Any]:
        if topic in self.elsewhere:
            raise self.elsewhere[topic]
        return [self.publish(topic, payload, b"smessage")]

    def _eval(self, wire: FakeWire, source: bytes, keys: bytes, *args: bytes) -> list[Any]:
        self.loaded.add(hashlib.sha1(source).hexdigest().encode())
        return self._script(SCRIPTS[source], *args)

    def _evalsha(self, wire: FakeWire, sha: bytes, keys: bytes, *args: bytes) -> list[Any]:
        if sha not in self.loaded:
            raise NoScriptError("No matching script. Please use EVAL.")
        return self._script(SCRIPTS[sha], *args)

    def _script(self, name: str, key: bytes, *args: bytes) -> list[Any]:
        if self.read_only:
            raise ReadOnlyError("You can't write against a read only replica.")
        if name == "pop":
            return [self._pop_batch(key, int(args[0]))]
        assert name == "put_back"
        pairs = args[1:]
        for score, member in zip(pairs[::2], pairs[1::2], strict=True):
            self.add(key, float(score), member)
        return [len(pairs) // 2]

    def _pop_batch(self, key: bytes, limit: int) -> list[Any]:
        queue = self.queues.get(key, [])
        taken, self.queues[key] = queue[:limit], queue[limit:]
        pairs = [part for score, member in taken for part in (member, _text(score))]
        return [_text(self.now_s()), 0, *pairs]


def _text(score: float) -> bytes:
    return b"%.17g" % score
