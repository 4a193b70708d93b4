"""Groups with presence while processes of 4.3.0 still run: what each side sees of the other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import class_of
from tests.helpers import numbered, numbers
from tests.mixed.conftest import Fleet

pytestmark = pytest.mark.asyncio(loop_scope="session")

Options = dict[str, Any]
ROOM = "room.1"


def rooms(**more: Any) -> Options:
    """The option of the new processes."""
    return {"room.*": {"key": "user", **more}}


async def test_messages_cross_and_old_members_are_missing(
    fleet: Fleet, kind: str, options: Options
) -> None:
    """An old process writes and reads nothing of presence; on core it stays in the group."""
    old = await fleet.old.layer(kind, **options)
    new = class_of(kind)(**options, presence=rooms())
    theirs, mine = await old.new_channel(), await new.new_channel()
    await old.group_add(ROOM, theirs)
    await new.group_add(ROOM, mine, presence={"user": 1})
    await old.group_send(ROOM, numbered(1))
    await new.group_send(ROOM, numbered(2))
    assert numbers([await old.receive(theirs) for _ in range(2)]) == [1, 2]
    assert numbers([await new.receive(mine) for _ in range(2)]) == [1, 2]
    assert list((await new.group_presence(ROOM)).by_channel) == [mine]
    there = {mine, theirs} if kind == "core" else {mine}
    assert set(await new.group_channels(ROOM)) == there
    assert await new.group_size(ROOM) == len(there)
    await old.group_discard(ROOM, theirs)
    await new.close()


async def test_old_members_get_the_messages_about_joins_and_leaves(
    fleet: Fleet, kind: str, options: Options
) -> None:
    """As ordinary messages, for which a consumer needs handlers."""
    old = await fleet.old.layer(kind, **options)
    new = class_of(kind)(**options, presence=rooms(events=True, grace_s=0.1))
    theirs, mine = await old.new_channel(), await new.new_channel()
    await old.group_add(ROOM, theirs)
    await new.group_add(ROOM, mine, presence={"user": 1})
    await new.group_discard(ROOM, mine)
    join, leave = [await old.receive(theirs) for _ in range(2)]
    about = {"group": ROOM, "key": 1, "info": {"user": 1}}
    assert join == {"type": "presence.join", **about}
    assert leave == {"type": "presence.leave", **about, "id": leave["id"]}
    await new.close()
