"""Consumers whose clients come back: what they get, what they may ask for, what they are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.layers import InMemoryChannelLayer

from channels_redis._resume.joining import MISSED_TYPE
from channels_redis._resume.naming import MAX_GROUPS
from channels_redis.consumers import BroadcastMixin, ResumeMixin, broadcast
from tests.broadcast.conftest import as_default
from tests.helpers import wait_for
from tests.resume.conftest import MANY, SIZE, Page, members

GROUP = "room.1"
#: A position that no log has.
FOREIGN = "0000000000000007.0123456789abcdef"


class Room(ResumeMixin, AsyncJsonWebsocketConsumer):
    """Ordinary handlers, and a group that the consumer joins by itself."""

    since: ClassVar[str | None] = None
    allowed: ClassVar[tuple[str, ...]] = ()

    async def connect(self) -> None:
        await self.accept()
        await self.join(GROUP, since=self.since)

    async def may_resume(self, group: str) -> bool:
        return group in self.allowed

    async def resume_failed(self, group: str) -> None:
        await self.send_json({"failed": group})

    async def room_note(self, message: dict[str, Any]) -> None:
        await self.send_json(self.positioned({"n": message["n"]}, message))

    async def receive_json(self, content: Any, **options: Any) -> None:
        await self.send_json({"echo": content})


class SyncRoom(ResumeMixin, JsonWebsocketConsumer):
    """The same in the sync family."""

    since: ClassVar[str | None] = None
    allowed: ClassVar[tuple[str, ...]] = ()

    def connect(self) -> None:
        self.accept()
        self.join(GROUP, since=self.since)

    def may_resume(self, group: str) -> bool:
        return group in self.allowed

    def resume_failed(self, group: str) -> None:
        self.send_json({"failed": group})

    def room_note(self, message: dict[str, Any]) -> None:
        self.send_json(self.positioned({"n": message["n"]}, message))

    def receive_json(self, content: Any, **options: Any) -> None:
        self.send_json({"echo": content})


class SharedRoom(ResumeMixin, BroadcastMixin, AsyncJsonWebsocketConsumer):
    """A broadcast, and a group that Channels joins."""

    groups: ClassVar[list[str]] = [GROUP]

    async def resume_failed(self, group: str) -> None:
        await self.send_json({"failed": group})

    @broadcast
    def room_note(cls, message: dict[str, Any]) -> dict[str, Any]:
        return {"n": message["n"]}


class SyncSharedRoom(BroadcastMixin, ResumeMixin, JsonWebsocketConsumer):
    """The same in the sync family, and the mixins in the other order."""

    groups: ClassVar[list[str]] = [GROUP]

    def resume_failed(self, group: str) -> None:
        self.send_json({"failed": group})

    @broadcast
    def room_note(cls, message: dict[str, Any]) -> dict[str, Any]:
        return {"n": message["n"]}


ROOMS = [Room, SyncRoom, SharedRoom, SyncSharedRoom]
JOINERS = [Room, SyncRoom]


async def note(layer: Any, *numbers: int, group: str = GROUP) -> None:
    for number in numbers:
        await layer.group_send(group, {"type": "room.note", "n": number})


def notes(*numbers: int) -> list[dict[str, Any]]:
    return [{"n": number} for number in numbers]


async def joined(page: Page) -> None:
    """Wait until a client was told of its group."""
    await wait_for(lambda: page.notices)


@pytest.mark.parametrize("room", ROOMS)
async def test_a_client_that_comes_back_gets_what_it_missed_and_then_what_comes(
    layer: Any, open_page: Callable[..., Any], room: Any
) -> None:
    """Each message once and in order, and no state has to be loaded again."""
    first = await open_page(room)
    await joined(first)
    await note(layer, 1, 2)
    await first.has(*notes(1, 2))
    await first.leave()
    await note(layer, 3, 4)
    second = await open_page(room, first)
    await joined(second)
    await note(layer, 5)
    await second.has(*notes(3, 4, 5))
    assert [one["complete"] for one in first.notices + second.notices] == [True, True]


@pytest.mark.parametrize("room", ROOMS)
async def test_a_client_that_has_seen_nothing_yet_can_come_back_too(
    layer: Any, open_page: Callable[..., Any], room: Any
) -> None:
    """It was told where it joined."""
    first = await open_page(room)
    await joined(first)
    await first.leave()
    await note(layer, 1)
    second = await open_page(room, first)
    await second.has(*notes(1))


@pytest.mark.parametrize("room", ROOMS)
async def test_a_client_that_was_away_for_too_long_is_told_so(
    layer: Any, open_page: Callable[..., Any], room: Any
) -> None:
    """It gets nothing of what it missed, but the application's hook, and what comes.  When it comes
    back once more, it can be resumed.
    """
    first = await open_page(room)
    await joined(first)
    await first.leave()
    await note(layer, *range(MANY))
    second = await open_page(room, first)
    await joined(second)
    await note(layer, 100)
    await second.has({"failed": GROUP}, *notes(100))
    assert [one["complete"] for one in second.notices] == [False]
    await second.leave()
    await note(layer, 101)
    third = await open_page(room, second)
    await third.has(*notes(101))


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("position", [FOREIGN, "start", "nonsense", "ff" * 40])
async def test_a_position_that_no_client_was_given_is_as_one_that_is_too_old(
    layer: Any, open_page: Callable[..., Any], room: Any, position: str
) -> None:
    """In particular no client can ask for everything by itself."""
    await note(layer, 1)
    page = await open_page(room, query=f"resume={GROUP}:{position}")
    await joined(page)
    await note(layer, 2)
    await page.has({"failed": GROUP}, *notes(2))


@pytest.mark.parametrize("room", JOINERS)
async def test_the_application_can_give_late_joiners_what_is_kept(
    layer: Any, open_page: Callable[..., Any], room: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To who is new, and to who can't be resumed: after the hook, and before what comes."""
    monkeypatch.setattr(room, "since", "start")
    await note(layer, 1, 2)
    first = await open_page(room)
    await first.has(*notes(1, 2))
    await first.leave()
    await note(layer, *range(MANY))
    second = await open_page(room, first)
    await joined(second)
    await note(layer, MANY)
    await second.heard_last({"n": MANY})
    assert second.texts[0] == {"failed": GROUP}
    assert len(second.texts) > SIZE
    assert second.texts[1:] == notes(*range(MANY + 1))[1 - len(second.texts) :]
    stranger = await open_page(room, query=f"resume={GROUP}:{FOREIGN}")
    await stranger.heard_last({"n": MANY})
    assert stranger.texts[0] == {"failed": GROUP}
    assert stranger.texts[-SIZE:] == second.texts[-SIZE:]


@pytest.mark.parametrize("room", JOINERS)
async def test_a_client_gets_no_group_that_the_application_does_not_allow(
    layer: Any, open_page: Callable[..., Any], room: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default none but those that the consumer joins; it is told which it did not get."""
    monkeypatch.setattr(room, "allowed", ("room.2",))
    query = f"resume=room.2:{FOREIGN}&resume=room.3:{FOREIGN}"
    query += "&resume=:x&resume=nothing&resume=a%20b:c&formerly=no%20name"
    page = await open_page(room, query=query)
    await wait_for(lambda: len(page.notices) == 3)
    await note(layer, 3, group="room.3")
    await note(layer, 2, group="room.2")
    await note(layer, 1)
    await page.has({"failed": "room.2"}, *notes(2, 1))
    assert {one["group"] for one in page.notices if "refused" not in one} == {GROUP, "room.2"}
    assert {one["group"] for one in page.notices if "refused" in one} == {"room.3"}


async def test_no_group_is_allowed_by_default() -> None:
    """Neither to async nor to sync consumers."""
    assert not ResumeMixin().may_resume(GROUP)


@pytest.mark.parametrize("room", JOINERS)
async def test_positions_can_be_named_in_a_frame(
    layer: Any, open_page: Callable[..., Any], room: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For clients that keep them out of addresses.  Other frames are the application's."""
    monkeypatch.setattr(room, "allowed", ("room.2",))
    await note(layer, 1, group="room.2")
    place = f"room.2:{(await layer.group_history('room.2', limit=0)).position}"
    await note(layer, 2, group="room.2")
    page = await open_page(room)
    page.say('{"other": "__resume__"}')
    await page.has({"echo": {"other": "__resume__"}})
    page.say(f'{{"__resume__": ["{place}"]}}')
    await page.has({"echo": {"other": "__resume__"}}, *notes(2))
    assert page.notices[-1]["group"] == "room.2"


@pytest.mark.parametrize("room", ROOMS)
async def test_a_position_that_comes_after_the_group_was_joined_is_not_said_to_be_complete(
    layer: Any, open_page: Callable[..., Any], room: Any
) -> None:
    """Later messages may be sent already.  The client is told so once, whatever it sends."""
    await note(layer, 1)
    page = await open_page(room)
    await joined(page)
    for _ in range(3):
        page.say(f'{{"__resume__": ["{GROUP}:{FOREIGN}"]}}')
    page.say(f'{{"__resume__": ["room.7:{FOREIGN}"]}}')
    await wait_for(lambda: len(page.notices) == 3)
    await note(layer, 2)
    await page.has({"failed": GROUP}, *notes(2))
    assert [one.get("complete") for one in page.notices] == [True, False, None]


@pytest.mark.parametrize("room", ROOMS)
async def test_a_client_without_a_position_can_say_so_after_the_group_was_joined(
    layer: Any, open_page: Callable[..., Any], room: Any
) -> None:
    """It has missed nothing."""
    page = await open_page(room)
    await joined(page)
    page.say(f'{{"__resume__": ["{GROUP}:", "room.7:"]}}')
    await wait_for(lambda: len(page.notices) == 2)
    await note(layer, 1)
    await page.has(*notes(1))
    assert page.notices[1] == {"group": "room.7", "refused": True}


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("way", ["address", "frame"])
async def test_a_group_whose_position_was_cut_off_is_not_said_to_be_complete(
    layer: Any, open_page: Callable[..., Any], room: Any, way: str
) -> None:
    """The client names more groups than the server reads, and this one first."""
    position = (await layer.group_history(GROUP, limit=0)).position
    await note(layer, 1)
    places = [f"{GROUP}:{position}", *(f"more.{n}:{FOREIGN}" for n in range(MAX_GROUPS))]
    if way == "address":
        page = await open_page(room, query="&".join(f"resume={place}" for place in places))
    else:
        page = await open_page(room)
        await joined(page)
        page.say(json.dumps({"__resume__": places}))
    beyond = {"group": None, "refused": True}
    await wait_for(lambda: beyond in page.notices)
    await note(layer, 2)
    await page.has({"failed": GROUP}, *notes(2))
    told = [one["complete"] for one in page.notices if one["group"] == GROUP]
    assert told == ([False] if way == "address" else [True, False])
    assert len([one for one in page.notices if "refused" in one]) == MAX_GROUPS + 1


@pytest.mark.parametrize("room", JOINERS)
async def test_fields_of_the_application_cut_off_no_position(
    layer: Any, open_page: Callable[..., Any], room: Any
) -> None:
    """However many there are."""
    position = (await layer.group_history(GROUP, limit=0)).position
    await note(layer, 1)
    page = await open_page(room, query=f"resume={GROUP}:{position}" + "&tag=x" * 300)
    await page.has(*notes(1))


async def test_the_application_is_asked_about_a_limited_number_of_groups(
    layer: Any, open_page: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of frames in which a client names them, or the same again."""
    asked: list[str] = []

    async def may_resume(self: Any, group: str) -> bool:
        asked.append(group)
        return False

    monkeypatch.setattr(Room, "may_resume", may_resume)
    page = await open_page(Room)
    await joined(page)
    for start in (0, 0, 60, 120, 180):
        names = [f"more.{n}:" for n in range(start, start + 60)]
        page.say(json.dumps({"__resume__": names}))
    page.say('{"last": 1}')
    await page.heard_last({"echo": {"last": 1}})
    assert asked == [f"more.{n}" for n in range(MAX_GROUPS)]
    assert len([one for one in page.notices if "refused" in one]) == MAX_GROUPS + 1


@pytest.mark.parametrize("room", JOINERS)
async def test_a_client_never_gets_what_excluded_its_former_channels(
    layer: Any, open_page: Callable[..., Any], room: Any
) -> None:
    """Such as its own lines in a chat: it names the channels that it had."""
    first = await open_page(room)
    await joined(first)
    await first.leave()
    second = await open_page(room, first)
    await joined(second)
    await second.leave()
    for n, page in enumerate([first, second]):
        await layer.group_send(
            GROUP, {"type": "room.note", "n": n}, exclude=[page.notices[0]["channel"]]
        )
    await note(layer, 2)
    third = await open_page(room, second)
    await third.has(*notes(2))


@pytest.mark.parametrize("room", ROOMS)
async def test_a_consumer_leaves_all_groups_at_the_end(
    layer: Any, open_page: Callable[..., Any], room: Any
) -> None:
    """Also those that it joined by itself, without a line of the application's."""
    page = await open_page(room)
    await joined(page)
    assert await members(layer, GROUP) == 1
    await page.leave()
    assert await members(layer, GROUP) == 0


@pytest.mark.parametrize("room", JOINERS)
async def test_a_client_is_told_of_groups_that_the_layer_could_not_catch_up(
    layer: Any, open_page: Callable[..., Any], room: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of ``on_reconnect`` names them; others are no business of this consumer."""

    def layer_back(self: Any, message: dict[str, Any]) -> Any:
        return self.resume_missed(message)

    monkeypatch.setattr(room, "layer_back", layer_back, raising=False)
    page = await open_page(room)
    await joined(page)
    channel = page.notices[0]["channel"]
    await layer.send(channel, {"type": "layer.back", "missed": ["room.7", GROUP]})
    await page.has({"failed": GROUP})
    assert [one["complete"] for one in page.notices] == [True, False]


@pytest.mark.parametrize("room", ROOMS)
async def test_no_handler_is_needed_for_what_the_layer_sends_by_itself(
    layer: Any, open_page: Callable[..., Any], room: Any
) -> None:
    """Its message where ``on_reconnect`` is unset is handled by every class with the mixin."""
    page = await open_page(room)
    await joined(page)
    channel = page.notices[0]["channel"]
    await layer.send(channel, {"type": MISSED_TYPE, "missed": ["room.7", GROUP]})
    await page.has({"failed": GROUP})
    assert [one["complete"] for one in page.notices] == [True, False]


@pytest.mark.parametrize("room", ROOMS)
async def test_a_layer_without_history_resumes_nobody(
    open_page: Callable[..., Any], room: Any
) -> None:
    """Such as Channels' own in a project's tests: who comes back is told so."""
    with as_default(InMemoryChannelLayer()) as layer:
        page = await open_page(room, query=f"resume={GROUP}:{FOREIGN}")
        await joined(page)
        await layer.group_send(GROUP, {"type": "room.note", "n": 1})
        await page.has({"failed": GROUP}, *notes(1))


async def test_a_broadcast_with_positions_is_made_once(
    layer: Any, open_page: Callable[..., Any]
) -> None:
    """The position is in the frame that all members share."""
    pages = [await open_page(SharedRoom) for _ in range(3)]
    for page in pages:
        await joined(page)
    await note(layer, 1)
    for page in pages:
        await page.has(*notes(1))
    assert len({page.frames[-1] for page in pages}) == 1
    assert SharedRoom.room_note({"n": 1}) == {"n": 1}
