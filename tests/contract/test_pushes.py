"""What a server says unasked (RESP3) is no reply: nobody may get it for his own.

A server of Redis Software announces its maintenance so; here it tells of keys that change.
"""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import ConnectionPool

from channels_redis._transport import replies
from tests.conftest import class_of
from tests.helpers import is_older, numbered, receive, receive_until_marker


async def be_told_of_changes(connection: Any) -> None:
    """Have the server tell a new connection of every change of every key, at once."""
    await connection.on_connect()
    await connection.send_command("CLIENT", "TRACKING", "ON", "BCAST")
    assert await connection.read_response() == b"OK"


# redis-py asks so of every redis_connect_func; Python 3.14 and newer warn of it.
@pytest.mark.filterwarnings("ignore:'asyncio.iscoroutinefunction':DeprecationWarning")
@pytest.mark.parametrize("short", [True, False], ids=["the short way", "redis-py"])
async def test_pushes_of_the_server_are_not_taken_for_replies(
    server: Any,
    prefix: str,
    kind: str,
    short: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Replies, messages and confirmations are still those that were asked for."""
    if is_older(server, (6,)):
        pytest.skip("no RESP3 before Redis 6")
    if replies._new_parser is not None and replies._Push is None:
        pytest.skip("hiredis before 3.2 takes pushes for replies itself")
    if not short:
        monkeypatch.setattr(replies, "_new_parser", None)

    class Layer(class_of(kind)):  # type: ignore[misc]  # one of two
        def create_pool(self, index: int) -> ConnectionPool:
            return ConnectionPool.from_url(
                server.url, redis_connect_func=be_told_of_changes, protocol=3
            )

    layer = Layer(prefix=prefix)
    try:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for number in range(20):
            await layer.group_send("room", numbered(number))
            await layer.send("work", numbered(number))
            assert await receive(layer, channel) == numbered(number)
            assert await receive(layer, "work") == numbered(number)
        await layer.group_discard("room", channel)
        await layer.group_send("room", numbered(20))
        assert await receive_until_marker(layer, channel) == []
        assert layer.stats().nodes[0].reconnects == 0
    finally:
        await layer.close()
