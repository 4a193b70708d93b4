"""Scripts and the commands that go with them."""

from __future__ import annotations

import asyncio
from typing import Any

from channels_redis._transport import scripts


class Unanswered:
    """Takes commands, whose replies the test gives."""

    hash_forbidden = False

    def __init__(self) -> None:
        self.loaded: set[Any] = set()
        self.replies: list[asyncio.Future[Any]] = []

    def call(self, data: bytes, repeatable: bool = False) -> asyncio.Future[Any]:
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.replies.append(reply)
        return reply

    def push(self) -> None:
        pass


async def test_members_are_listed_again_where_those_to_drop_were_dropped_later() -> None:
    """The list came from a demoted server, which refused the script before it."""
    node = Unanswered()
    listing = asyncio.create_task(scripts.members(node, b"group", 60))
    await asyncio.sleep(0)
    script, names = node.replies
    names.set_result([b"old"])
    await asyncio.sleep(0)
    script.set_result(1)
    while len(node.replies) == 2:
        await asyncio.sleep(0)
    for reply, value in zip(node.replies[2:], (0, [b"new"]), strict=True):
        reply.set_result(value)
    assert await listing == [b"new"]
