"""Groups with a history while processes of 4.3.0 and processes without the option still run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers import numbered, numbers, wait_for
from tests.mixed.conftest import Fleet
from tests.mixed.fleet import RemoteError

pytestmark = pytest.mark.asyncio(loop_scope="session")

Options = dict[str, Any]
HISTORY = {"room.*": {}}


@pytest.fixture
def layer_of(kind: str, options: Options) -> Callable[..., Any]:
    """Makes a layer of this release in this process."""
    from tests.conftest import class_of

    return lambda **more: class_of(kind)(**{**options, **more})


async def test_what_an_old_process_sends_is_delivered_and_breaks_the_log(
    fleet: Fleet, kind: str, options: Options, layer_of: Callable[..., Any]
) -> None:
    """On pubsub, by who hears it; on core it is in no log, and is delivered as ever."""
    old = await fleet.old.layer(kind, **options)
    new = layer_of(history=HISTORY)
    channel = await new.new_channel()
    await new.group_add("room.1", channel)
    await new.group_send("room.1", numbered(1))
    position = (await new.group_history("room.1")).position
    await old.group_send("room.1", numbered(2))
    assert numbers([await new.receive(channel) for _ in range(2)]) == [1, 2]
    if kind == "pubsub":

        async def is_broken() -> bool:
            return not (await new.group_history("room.1", since=position)).complete

        await wait_for(is_broken)
    await new.group_send("room.1", numbered(3))
    assert numbers([await new.receive(channel)]) == [3]
    await new.close()


async def test_old_members_can_read_the_messages_on_core_alone(
    fleet: Fleet, options: Options, layer_of: Callable[..., Any], kind: str
) -> None:
    """With two more keys in them. So on pubsub the option is set when no old process is left."""
    old = await fleet.old.layer(kind, **options)
    new = layer_of(history=HISTORY)
    channel = await old.new_channel()
    await old.group_add("room.1", channel)
    await new.group_send("room.1", numbered(1))
    if kind == "core":
        message = await old.receive(channel)
        assert message.keys() - numbered(1).keys() == {"__position__", "__group__"}
    else:
        with pytest.raises(RemoteError):
            await old.receive(channel)
    await new.close()
