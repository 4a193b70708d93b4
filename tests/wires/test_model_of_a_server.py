"""The model of a server replies as a real one does, to all that the tests over it rely on."""

from __future__ import annotations

import secrets
import time
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from channels_redis._transport import scripts
from channels_redis._transport.packing import pack
from channels_redis.testing.servers import RedisServer
from tests.helpers import ExternalServer

from .wire import FakeWire
from .world import World


class Both:
    """Two connections to a real server and two to the model, which are told the same."""

    def __init__(self, world: World, url: str) -> None:
        self._world = world
        self._client = Redis.from_url(url, protocol=2)
        pool = self._client.connection_pool
        self._real: list[Any] = [pool.make_connection() for _ in range(2)]
        node = world.node()
        self._fake = [node.connect() for _ in range(2)]
        self.ids: list[tuple[int, int]] = []

    def write(self, number: int, *args: bytes | str | int | float) -> None:
        self._write(number, pack(*args), pack(*args))

    def _write(self, number: int, real: bytes, fake: bytes) -> None:
        self._real[number].send_packed_command([real])
        self._fake[number].write(fake)

    def read(self, number: int) -> Any:
        """Return the reply of both, which is the same."""
        try:
            real = self._real[number].read_response(disable_decoding=True)
        except ResponseError as error:
            real = error
        return self._same(real, self._fake_reply(self._fake[number]))

    def _fake_reply(self, wire: FakeWire) -> Any:
        self._world.tick()
        for one in self._fake:
            one.run()
        return wire.replies.popleft()

    def _same(self, real: Any, fake: Any) -> Any:
        assert type(real) is type(fake)
        if isinstance(real, Exception):
            return type(real)
        assert real == fake
        return real

    def ask(self, number: int, *args: bytes | str | int | float) -> Any:
        self.write(number, *args)
        return self.read(number)

    def batch(self, key: str, limit: int, *, by_hash: bool) -> Any:
        """Take a batch; return it without the time."""
        command = scripts.pop(key, limit, 60, by_hash=by_hash)
        self._write(0, command, command)
        real = self._real[0].read_response(disable_decoding=True)
        fake = self._fake_reply(self._fake[0])
        assert float(real[0]) > 1e9
        assert float(fake[0]) > 1e9
        return self._same(real[1:], fake[1:])

    def learn_ids(self) -> None:
        for number in range(2):
            self.write(number, "CLIENT", "ID")
            real = self._real[number].read_response()
            self.ids.append((real, self._fake_reply(self._fake[number])))

    def unblock(self, asking: int, blocked: int) -> Any:
        real, fake = self.ids[blocked]
        commands = [pack("CLIENT", "UNBLOCK", one) for one in (real, fake)]
        self._write(asking, *commands)
        return self.read(asking)

    def close(self) -> None:
        for connection in self._real:
            connection.disconnect()
        self._client.close()


def test_the_model_of_a_server_replies_as_a_server_does(
    server: RedisServer | ExternalServer,
) -> None:
    """Sorted sets, blocking pops, scripts, Pub/Sub and CLIENT UNBLOCK."""
    prefix = secrets.token_hex(4)
    key, topic = f"{prefix}:queue", f"{prefix}:topic".encode()
    with World() as world:
        both = Both(world, server.url)
        try:
            _compare_pops(both, key)
            _compare_pub_sub(both, topic)
        finally:
            both.close()


def _compare_pops(both: Both, key: str) -> None:
    now_s = int(time.time())
    score = str(now_s).encode()
    both.learn_ids()
    assert both.ask(0, "PING") == b"PONG"
    assert both.ask(0, "ECHO", "text") == b"text"
    for member in ("b", "c", "a", "d"):
        assert both.ask(0, "ZADD", key, now_s, member) == 1
    assert both.batch(key, 1, by_hash=False) == [0, b"a", score]
    assert both.batch(key, 0, by_hash=True) == [0]
    assert both.ask(0, "BZPOPMIN", key, 1) == [key.encode(), b"b", score]
    assert both.batch(key, 5, by_hash=True) == [0, b"c", score, b"d", score]
    both.write(0, "BZPOPMIN", key, 20)
    both.write(1, "ECHO", "which the pop comes before")
    both.read(1)
    while not both.unblock(1, 0):
        pass
    assert both.read(0) is None
    assert both.unblock(1, 0) == 0
    both.write(0, "BZPOPMIN", key, 20)
    assert both.ask(1, "ZADD", key, now_s, "late") == 1
    assert both.read(0) == [key.encode(), b"late", score]
    assert both.ask(0, "EVALSHA", "0" * 40, 1, key).__name__ == "NoScriptError"


def _compare_pub_sub(both: Both, topic: bytes) -> None:
    both.write(0, "SUBSCRIBE", topic, topic + b"2")
    assert both.read(0) == [b"subscribe", topic, 1]
    assert both.read(0) == [b"subscribe", topic + b"2", 2]
    assert both.ask(1, "PUBLISH", topic, "hello") == 1
    assert both.read(0) == [b"message", topic, b"hello"]
    assert both.ask(0, "SUBSCRIBE", topic) == [b"subscribe", topic, 2]
    assert both.ask(0, "UNSUBSCRIBE", topic) == [b"unsubscribe", topic, 1]
    assert both.ask(0, "UNSUBSCRIBE", topic) == [b"unsubscribe", topic, 1]
    assert both.ask(1, "PUBLISH", topic, "nobody hears it") == 0
