"""Scripts and the commands that go with them."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Any

from channels_redis._transport import scripts
from channels_redis._transport.commands import Script
from channels_redis._transport.packing import pack


class Unanswered:
    """Takes commands, whose replies the test gives."""

    def __init__(self) -> None:
        self.replies: list[asyncio.Future[Any]] = []

    def call(
        self,
        data: bytes,
        repeatable: bool = False,
        *,
        script: Script | None = None,
        key: bytes | str | None = None,
    ) -> asyncio.Future[Any]:
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
    node.replies[2].set_result([b"new"])
    assert await listing == [b"new"]


async def test_members_are_listed_once_where_the_script_ran_first() -> None:
    """Though both replies come in one piece."""
    node = Unanswered()
    listing = asyncio.create_task(scripts.members(node, b"group", 60))
    await asyncio.sleep(0)
    for reply, value in zip(node.replies, (0, [b"one"]), strict=True):
        reply.set_result(value)
    assert await listing == [b"one"]
    assert len(node.replies) == 2


def test_the_same_call_of_a_script_by_its_source() -> None:
    """Nothing but the head of the command differs, whatever the arguments hold."""
    script = Script("size")
    packed = script.packed(b"group", b"$7\r\nEVALSHA\r\n", 60)
    source = script.as_source(packed)
    size = files("channels_redis._transport").joinpath("lua/size.lua").read_bytes()
    assert source == pack(b"EVAL", size, 1, b"group", b"$7\r\nEVALSHA\r\n", 60)
