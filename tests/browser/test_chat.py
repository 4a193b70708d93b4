"""The example chat in a real browser: two pages, two processes, and a Redis that restarts."""

from __future__ import annotations

import asyncio
import importlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from channels_redis.testing.servers import RedisServer

CHAT = Path(__file__).resolve().parents[2] / "examples" / "chat"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 30


def program(*names: str) -> str:
    """The first of these programs that is there; .ci/run installs Debian's."""
    for name in names:
        if path := shutil.which(name):
            return path
    # Not a skip: who asks for this environment wants to know.
    raise RuntimeError(
        f"{' or '.join(names)} is not on the PATH: apt-get install chromium chromium-driver"
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    options = webdriver.ChromeOptions()
    options.binary_location = program(*BROWSERS)
    # The sandbox refuses to run as root, containers have little shared memory, and the pages are
    # on this machine.
    for word in ["headless=new", "no-sandbox", "disable-dev-shm-usage", "no-proxy-server"]:
        options.add_argument(f"--{word}")
    service = webdriver.ChromeService(executable_path=program("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


class Page:
    """A tab with one room on one web process."""

    def __init__(self, driver: Any, site: str) -> None:
        self._driver = driver
        driver.switch_to.new_window("tab")
        self._handle = driver.current_window_handle
        driver.get(f"{site}/rooms/lobby/")
        # Gone if the page is loaded again.
        driver.execute_script("window.loadedOnce = true")

    def is_connected(self) -> bool:
        return self._text("status") == "Connected"

    def refusal(self) -> str:
        return self._text("refusal")

    def say(self, words: str) -> None:
        field = self._find("text")
        field.clear()
        field.send_keys(words)
        self._find("composer").find_element(By.CSS_SELECTOR, "button.primary").click()

    def roll(self) -> None:
        self._find("roll").click()

    def shows(self, words: str) -> bool:
        return any(words in text for text in self._messages())

    def count(self, words: str) -> int:
        return sum(words in text for text in self._messages())

    def is_the_first(self) -> bool:
        self._here()
        return bool(self._driver.execute_script("return window.loadedOnce === true"))

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until something is so on this page."""
        waiting = WebDriverWait(self._driver, PATIENCE_S, poll_frequency=0.2)
        waiting.until(lambda _: condition(), f"{what}; the page shows {self._messages()}")

    def _messages(self) -> list[str]:
        self._here()
        # Not the elements' own text: of a tab in the background it may be empty.
        script = "return [...document.querySelectorAll('#log li')].map(item => item.textContent)"
        messages: list[str] = self._driver.execute_script(script)
        return messages

    def _text(self, name: str) -> str:
        text: str = self._find(name).get_attribute("textContent")
        return text

    def _find(self, name: str) -> Any:
        self._here()
        return self._driver.find_element(By.ID, name)

    def _here(self) -> None:
        self._driver.switch_to.window(self._handle)


@pytest.fixture
async def chat(
    kind: str, private_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    """The processes of the chat on a server of this test's own."""
    # The example is no package; its processes are started by a module in its folder.
    monkeypatch.syspath_prepend(str(CHAT))
    fleet = importlib.import_module("fleet")
    async with fleet.Fleet(private_server, kind, echo=False) as running:
        yield running


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
