"""Pages of the example chat that come back: after a lost network, a restart and a reload."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from asyncio import to_thread
from collections.abc import AsyncIterator
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer
from tests.browser.conftest import Page, wait_in
from tests.conftest import class_of
from tests.resume.site import signing_with

#: Seconds between two messages: 30 in a second.
PAUSE_S = 1 / 30
#: What is shown of each line that the test sends.
WORDS = "line "


class Talk:
    """Sends numbered lines to the lobby as long as the block runs."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.sent = 0
        #: How many lines may be sent in all; None for any number.
        self._limit: int | None = None
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Talk:
        self._sending = asyncio.create_task(self._send())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended.set()
        await self._sending

    async def _send(self) -> None:
        while not self._ended.is_set():
            if self._limit is None or self.sent < self._limit:
                text = f"{WORDS}{self.sent}"
                line = {"text": text, "author": "a", "way": "w", "process": "p", "at": "2030"}
                await self._layer.group_send("room.lobby", {"type": "chat.message", **line})
                self.sent += 1
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ended.wait(), PAUSE_S)

    def at_most(self, count: int | None) -> None:
        """Send so many more lines, and then no more: on a slow machine, a page may be away for
        longer than the log has room for.
        """
        self._limit = None if count is None else self.sent + count

    async def goes_on(self, count: int) -> None:
        """Wait until so many more lines were sent."""
        until = self.sent + count
        while self.sent < until and not self._sending.done():
            await asyncio.sleep(PAUSE_S)


@pytest.fixture
async def talk(kind: str, private_server: RedisServer, chat: Any) -> AsyncIterator[Talk]:
    history = {"room.*": {"size": 100, "ttl": 24 * 3600}}
    # Positions are signed with the secret key of the site.
    with signing_with(chat.secret_key):
        layer = class_of(kind)(hosts=[private_server.url], prefix="chat", history=history)
    yield Talk(layer)
    await layer.close()


async def has_all(page: Page, count: int) -> None:
    """Wait until the page has all lines; each is there once, in order, and it was never loaded
    again.
    """
    wanted = [f"{WORDS}{number}" for number in range(count)]
    await to_thread(page.wait, lambda: page.shows(wanted[-1]), f"line {count - 1} is read")
    assert await to_thread(page.bodies) == wanted
    assert await to_thread(page.is_the_first)


async def opened(driver: Any, site: str) -> Page:
    page: Page = await to_thread(Page, driver, site)
    await to_thread(page.wait, page.is_connected, "the page is connected")
    return page


@pytest.mark.timeout(180)
async def test_a_page_that_was_offline_misses_no_message(
    browser: Any, chat: Any, talk: Talk
) -> None:
    """Under 30 messages in a second, and three times."""
    page = await opened(browser, chat.sites["web-1"])
    async with talk:
        for _ in range(3):
            await talk.goes_on(10)
            talk.at_most(60)
            await to_thread(page.go_offline, True)
            await to_thread(page.wait, lambda: not page.is_connected(), "the page is offline")
            await talk.goes_on(30)
            await to_thread(page.go_offline, False)
            await to_thread(page.wait, page.is_connected, "the page is back")
            talk.at_most(None)
    await has_all(page, talk.sent)


@pytest.mark.timeout(180)
async def test_pages_miss_no_message_when_all_processes_are_restarted(
    browser: Any, chat: Any, talk: Talk
) -> None:
    """One after the other, under 30 messages in a second."""
    pages = [await opened(browser, site) for site in chat.sites.values()]
    async with talk:
        for name, page in zip(chat.sites, pages, strict=True):
            await talk.goes_on(5)
            talk.at_most(60)
            await chat.restart(name)
            await to_thread(page.wait, page.is_connected, "the page is back")
            talk.at_most(None)
    for page in pages:
        await has_all(page, talk.sent)
    late = await opened(browser, chat.sites["web-1"])
    await to_thread(late.wait, lambda: late.shows(f"{WORDS}{talk.sent - 1}"), "old lines are read")
    kept = await to_thread(late.bodies)
    assert len(kept) >= min(100, talk.sent)
    assert kept == [f"{WORDS}{number}" for number in range(talk.sent - len(kept), talk.sent)]


@pytest.mark.timeout(180)
async def test_a_story_survives_a_reload_and_a_restart(browser: Any, chat: Any) -> None:
    """Its words come as server-sent events, each of them once and in order."""
    await to_thread(begin_story, browser, chat.sites["web-1"])
    await to_thread(wait_in, browser, lambda: len(words(browser)) > 5, "words come")
    await to_thread(browser.refresh)
    await to_thread(wait_in, browser, lambda: len(words(browser)) > 10, "words come again")
    browser.execute_script("window.loadedOnce = true")
    await chat.restart("web-1")
    await to_thread(wait_in, browser, lambda: status(browser) == "The end", "it ends")
    told = words(browser)
    assert browser.execute_script("return window.loadedOnce === true")
    assert (told[0], told[-1]) == ("Once", "herself.")
    assert told == importlib.import_module("chat.stories").STORY.split()


def begin_story(driver: Any, site: str) -> None:
    driver.switch_to.new_window("tab")
    driver.get(f"{site}/stories/")
    driver.find_element("css selector", "button").click()


def words(driver: Any) -> list[str]:
    text: str = driver.execute_script("return document.getElementById('story').textContent")
    return text.split()


def status(driver: Any) -> str:
    text: str = driver.execute_script("return document.getElementById('status').textContent")
    return text
