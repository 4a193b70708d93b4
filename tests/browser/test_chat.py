"""The example chat in a real browser: two pages, two processes, and a Redis that restarts."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from channels_redis.testing.servers import RedisServer
from tests.browser.conftest import Page


def talk(one: Page, other: Page, words: str) -> None:
    """What is said on each page is read on both, once."""
    for speaker, text in [(one, f"{words} from one"), (other, f"{words} from the other")]:
        speaker.say(text)
        for page in (one, other):
            page.wait(partial(page.shows, text), f"{text!r} is read")
            assert page.count(text) == 1


def asked_again(speaker: Page, reader: Page) -> bool:
    """Say it once more, as nobody tells a page when the other's consumer is back in the room."""
    speaker.say("Back again?")
    return reader.shows("Back again?")


def talk_through_a_restart(driver: Any, sites: dict[str, str], server: RedisServer) -> None:
    one, other = (Page(driver, site) for site in sites.values())
    for page in (one, other):
        page.wait(page.is_connected, "the page is connected")
    talk(one, other, "Hello")
    for page in (one, other):
        page.wait(page.shows_both, "both are in the room")

    server.stop()
    one.say("Is anybody there?")
    one.wait(lambda: "Redis is away" in one.refusal(), "the page tells that Redis is away")
    server.start()

    for speaker, reader in [(one, other), (other, one)]:
        reader.wait(partial(asked_again, speaker, reader), "messages cross again")
    talk(one, other, "Welcome back")
    one.roll()
    for page in (one, other):
        page.wait(partial(page.shows, "general channel"), "the worker rolls dice")
        assert page.is_connected()
        assert page.is_the_first()


@pytest.mark.timeout(180)
async def test_two_pages_talk_through_a_restart_of_redis(
    browser: Any, chat: Any, private_server: RedisServer
) -> None:
    """The pages are never loaded again, and nobody has to do anything but to say it again."""
    await asyncio.to_thread(talk_through_a_restart, browser, chat.sites, private_server)


MARKUP = (
    "<img src=x onerror='window.attacked = true'><b id=attack>bold</b><script>attack()</script>"
)


def say_markup(driver: Any, sites: dict[str, str]) -> None:
    page = Page(driver, next(iter(sites.values())))
    page.wait(page.is_connected, "the page is connected")
    page.say(MARKUP)
    page.wait(partial(page.shows, MARKUP), "the markup is read as it was written")
    made = "return document.querySelectorAll('#log img, #log script, #attack').length"
    assert driver.execute_script(made) == 0
    assert driver.execute_script("return window.attacked === undefined")


@pytest.mark.timeout(180)
async def test_a_message_with_markup_stays_text(browser: Any, chat: Any) -> None:
    """It makes no element and runs no script in the pages of others."""
    await asyncio.to_thread(say_markup, browser, chat.sites)
