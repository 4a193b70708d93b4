"""The view for server-sent events: what it sends, to whom, and what it leaves behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.test import AsyncRequestFactory, RequestFactory

from channels_redis._resume import events
from channels_redis.exceptions import ConnectionLost
from channels_redis.views import GroupEventsView
from tests.broadcast.conftest import as_default
from tests.helpers import wait_for
from tests.resume.conftest import MANY, SIZE, Events, members

GROUP = "room.1"


@pytest.fixture
async def ask() -> AsyncIterator[Callable[..., Any]]:
    """A coroutine function ``(last_id=None, query="", **attributes)``: the events of a view."""
    opened: list[Events] = []

    async def ask(last_id: str | None = None, query: str = "", **attributes: Any) -> Events:
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        request = AsyncRequestFactory().get(f"/events/?{query}", headers=headers)
        view: Any = GroupEventsView.as_view(**{"group": GROUP, **attributes})
        opened.append(Events(await view(request)))
        return opened[-1]

    yield ask
    for one in opened:
        await one.end()


async def begun(source: Events) -> asyncio.Task[Any]:
    """Have a response join its group; return the task that waits for the first event."""
    task = asyncio.create_task(source.next())
    await wait_for(lambda: source.last_id or task.done())
    return task


async def say(layer: Any, *texts: str) -> None:
    for text in texts:
        await layer.group_send(GROUP, {"type": "room.note", "text": text})


def data(*texts: str) -> list[str]:
    return [f'{{"type": "room.note", "text": "{text}"}}' for text in texts]


async def test_a_browser_gets_what_comes_and_comes_back_for_what_it_missed(
    layer: Any, ask: Callable[..., Any]
) -> None:
    """The position is the id; also of a browser that has seen no message yet."""
    first = await ask()
    waiting = await begun(first)
    await say(layer, "a")
    assert (await waiting) == ("message", data("a")[0])
    await first.end()
    await say(layer, "b", "c")
    second = await ask(first.last_id)
    assert await second.take(2) == data("b", "c")
    loaded_again = await ask(query=f"since={first.last_id}")
    assert await loaded_again.take(2) == data("b", "c")
    assert loaded_again.last_id == second.last_id


async def test_a_browser_that_was_away_for_too_long_gets_a_reset(
    layer: Any, ask: Callable[..., Any]
) -> None:
    """Then what comes, and it can come back from there."""
    first = await ask()
    (await begun(first)).cancel()
    await say(layer, *map(str, range(MANY)))
    second = await ask(first.last_id)
    assert await second.next() == ("reset", f'{{"group": "{GROUP}"}}')
    await second.end()
    await say(layer, "later")
    third = await ask(second.last_id)
    assert await third.take(1) == data("later")


@pytest.mark.parametrize("named", ["start", "nonsense", "0000000000000007.0123456789abcdef"])
async def test_a_position_that_was_never_given_is_one_that_is_too_old(
    layer: Any, ask: Callable[..., Any], named: str
) -> None:
    """Nobody gets all that is kept by asking for it."""
    await say(layer, "a")
    source = await ask(named)
    assert (await source.next())[0] == "reset"


async def test_a_view_can_begin_with_what_is_kept(layer: Any, ask: Callable[..., Any]) -> None:
    """For new browsers, and for those that can't be resumed, after the reset."""
    first = await ask()
    (await begun(first)).cancel()
    await say(layer, *map(str, range(MANY)))
    kept = [one["text"] for one in (await layer.group_history(GROUP)).messages]
    assert SIZE <= len(kept) < MANY
    assert await (await ask(since="start")).take(len(kept)) == data(*kept)
    for named in ("nonsense", first.last_id):
        source = await ask(named, since="start")
        assert (await source.next())[0] == "reset"
        assert await source.take(len(kept)) == data(*kept)


async def test_a_view_decides_what_an_event_is(layer: Any, ask: Callable[..., Any]) -> None:
    """Its text, its type, or that there is none, but for its position."""

    class Lines(GroupEventsView):
        group = GROUP
        since = "start"

        def get_content(self, message: dict[str, Any]) -> str | None:
            return None if message["text"] == "secret" else message["text"]

        def get_event_name(self, message: dict[str, Any]) -> str:
            return "line"

    await say(layer, "two\r\nlines\rand \u2028 one", "secret")
    view: Any = Lines.as_view()
    source = Events(await view(AsyncRequestFactory().get("/")))
    assert await source.next() == ("line", "two\nlines\nand \u2028 one")
    seen = source.last_id
    waiting = asyncio.create_task(source.next())
    await wait_for(lambda: source.last_id != seen)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert source.last_id == (await layer.group_history(GROUP, limit=0)).position


async def test_an_idle_response_has_heartbeats_and_an_end(
    layer: Any, ask: Callable[..., Any]
) -> None:
    """So that proxies keep it, and no response stays for ever."""
    source = await ask(heartbeat_s=0.01, lifetime_s=0.1)
    with pytest.raises(StopAsyncIteration):
        await source.next()
    assert source.heartbeats > 0
    assert await members(layer, GROUP) == 0


@pytest.mark.parametrize("way", ["closed", "cancelled"])
async def test_a_response_that_is_left_leaves_its_group(
    layer: Any, ask: Callable[..., Any], way: str
) -> None:
    """Whether Django closes it, or cancels the task that waits for a message."""
    source = await ask()
    waiting = await begun(source)
    assert await members(layer, GROUP) == 1
    if way == "closed":
        await say(layer, "a")
        await waiting
        await source.end()
    else:
        waiting.cancel()
        await asyncio.wait({waiting})
    assert await members(layer, GROUP) == 0


async def test_a_response_ends_where_the_layer_has_lost_its_server(
    layer: Any, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser comes back after a while; it would not after an error."""

    async def group_add(*arguments: Any, **options: Any) -> None:
        raise ConnectionLost("it is away")

    monkeypatch.setattr(layer, "group_add", group_add)
    source = await ask()
    with pytest.raises(StopAsyncIteration):
        await source.next()


async def test_only_the_group_of_the_view_may_be_read_by_default(
    layer: Any, ask: Callable[..., Any]
) -> None:
    """A group that a request names needs a decision of the application's."""

    class Any_(GroupEventsView):
        def get_group(self) -> str:
            return str(self.kwargs["name"])

    class Asked(Any_):
        async def has_permission(self, group: str) -> bool:
            return group == "room.7"

    with pytest.raises(PermissionDenied):
        await Any_.as_view()(AsyncRequestFactory().get("/"), name="room.7")
    with pytest.raises(PermissionDenied):
        await Asked.as_view()(AsyncRequestFactory().get("/"), name="room.8")
    response: Any = await Asked.as_view()(AsyncRequestFactory().get("/"), name="room.7")
    assert response.status_code == 200
    with pytest.raises(ImproperlyConfigured, match="get_group"):
        await ask(group=None)


async def test_a_view_says_what_it_needs(layer: Any) -> None:
    """An ASGI server, and a layer with history."""
    view: Any = GroupEventsView.as_view(group=GROUP)
    with pytest.raises(ImproperlyConfigured, match="ASGI"):
        await view(RequestFactory().get("/"))
    with as_default(InMemoryChannelLayer()), pytest.raises(ImproperlyConfigured, match="InMemory"):
        await view(AsyncRequestFactory().get("/"))


async def test_a_view_answers_only_to_get(layer: Any) -> None:
    """The answer to HEAD would have no end either."""
    view: Any = GroupEventsView.as_view(group=GROUP)
    assert (await view(AsyncRequestFactory().head("/"))).status_code == 405
    assert (await view(AsyncRequestFactory().post("/"))).status_code == 405


async def test_browsers_come_back_at_different_times(layer: Any, ask: Callable[..., Any]) -> None:
    """So that a server that restarts does not meet all of them at once."""
    delays = set()
    for _ in itertools.repeat(None, 20):
        request = AsyncRequestFactory().get("/")
        view: Any = GroupEventsView.as_view(group=GROUP, retry_ms=2000)
        parts = aiter(await view(request))
        delays.add(int((await anext(parts)).decode().removeprefix("retry: ")))
        await parts.aclose()
    assert len(delays) > 1
    assert all(1000 <= delay <= 2000 for delay in delays)


def test_content_that_is_no_text_is_json() -> None:
    """And a text is never more than the lines of one event."""
    assert events.event({"a": 1}, position="p", name="n") == 'id: p\nevent: n\ndata: {"a": 1}\n\n'
    assert events.event("a\n\nid: b") == "data: a\ndata: \ndata: id: b\n\n"
    assert events.event(None, position="p", name="n") == "id: p\n\n"
