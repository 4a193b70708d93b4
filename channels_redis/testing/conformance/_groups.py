"""What is expected of groups, and of ``flush()``."""

from __future__ import annotations

import asyncio

from ._running import (
    EXPIRED_S,
    MESSAGE,
    Conformance,
    Make,
    numbered,
    on_a_loop,
    receive,
    receive_until_marker,
    receives_nothing,
)


class Groups(Conformance):
    """Joining, leaving, sending, flushing."""

    @on_a_loop
    async def test_every_member_of_a_group_gets_a_copy(self, make: Make) -> None:
        """The sender too, if he is one."""
        layer = make()
        channels = [await layer.new_channel() for _ in range(5)]
        for channel in channels:
            await layer.group_add("test-group", channel)
        await layer.group_send("test-group", MESSAGE)
        for channel in channels:
            assert await receive_until_marker(layer, channel) == [MESSAGE]

    @on_a_loop
    async def test_a_group_has_members_in_all_processes(self, make: Make) -> None:
        """And any process sends to it."""
        layers = make(), make()
        members = [(layer, await layer.new_channel()) for layer in layers for _ in range(2)]
        for layer, channel in members:
            await layer.group_add("test-group", channel)
        await make().group_send("test-group", MESSAGE)
        for layer, channel in members:
            assert await receive(layer, channel) == MESSAGE

    @on_a_loop
    async def test_members_share_no_object(self, make: Make) -> None:
        """What one consumer does to his message, others don't see."""
        layer = make()
        channels = [await layer.new_channel() for _ in range(3)]
        for channel in channels:
            await layer.group_add("test-group", channel)
        await layer.group_send("test-group", {"type": "test.list", "list": []})
        for channel in channels:
            message = await receive(layer, channel)
            assert message == {"type": "test.list", "list": []}
            message["list"].append(1)
            message["new"] = 1

    @on_a_loop
    async def test_who_has_left_a_group_gets_nothing(self, make: Make) -> None:
        """And the others do; to leave a group that one is not in is no error."""
        layer = make()
        stays, leaves = await layer.new_channel(), await layer.new_channel()
        for channel in (stays, leaves):
            await layer.group_add("test-group", channel)
        await layer.group_discard("test-group", leaves)
        await layer.group_discard("test-group", leaves)
        await layer.group_send("test-group", MESSAGE)
        assert await receive(layer, stays) == MESSAGE
        assert await receive_until_marker(layer, leaves) == []

    @on_a_loop
    async def test_joining_twice_brings_one_copy(self, make: Make) -> None:
        """``group_add()`` is idempotent."""
        layer = make()
        channel = await layer.new_channel()
        for _ in range(2):
            await layer.group_add("test-group", channel)
        await layer.group_send("test-group", MESSAGE)
        assert await receive_until_marker(layer, channel) == [MESSAGE]

    @on_a_loop
    async def test_a_message_to_nobody_is_no_error(self, make: Make) -> None:
        """A group without members."""
        await make().group_send("test-nobody", MESSAGE)

    @on_a_loop
    async def test_a_full_member_is_no_error_for_the_sender(self, make: Make) -> None:
        """``group_send()`` skips it or drops for it, and the others get their copies."""
        layer = make(capacity=2)
        full, free = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("test-group", full)
        await layer.group_add("test-group", free)
        for number in range(6):
            await layer.group_send("test-group", numbered(number))
            assert await receive(layer, free) == numbered(number)

    @on_a_loop
    async def test_memberships_end_after_group_expiry(self, make: Make) -> None:
        """Of consumers that have gone without leaving."""
        layer = make(group_expiry=1, expiry=1)
        gone = await layer.new_channel()
        await layer.group_add("test-group", gone)
        await asyncio.sleep(EXPIRED_S)
        new = await layer.new_channel()
        await layer.group_add("test-group", new)
        await layer.group_send("test-group", MESSAGE)
        assert await receive(layer, new) == MESSAGE
        assert await receives_nothing(layer, gone)

    @on_a_loop
    async def test_flush_forgets_messages_and_groups(self, make: Make) -> None:
        """And the layer works as before."""
        layer = make()
        channel = await layer.new_channel()
        await layer.group_add("test-group", channel)
        await layer.send(channel, numbered(1))
        await layer.flush()
        await layer.group_send("test-group", numbered(2))
        assert await receives_nothing(layer, channel)
        channel = await layer.new_channel()
        await layer.group_add("test-group", channel)
        await layer.group_send("test-group", MESSAGE)
        assert await receive(layer, channel) == MESSAGE
