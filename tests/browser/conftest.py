"""A headless Chromium, the example chat on a server of its own, and pages of it."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
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


def wait_in(driver: Any, condition: Callable[[], Any], what: str) -> None:
    """Wait until something is so in a browser."""
    waiting = WebDriverWait(driver, PATIENCE_S, poll_frequency=0.2)
    waiting.until(lambda _: condition(), what)


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

    def shows_both(self) -> bool:
        return len(self._find("people").find_elements(By.TAG_NAME, "li")) == 2

    def is_the_first(self) -> bool:
        self._here()
        return bool(self._driver.execute_script("return window.loadedOnce === true"))

    def bodies(self) -> list[str]:
        """The texts of all messages, without who wrote them."""
        self._here()
        script = "return [...document.querySelectorAll('#log .body')].map(one => one.textContent)"
        texts: list[str] = self._driver.execute_script(script)
        return texts

    def go_offline(self, offline: bool) -> None:
        """Take the network from this page, or give it back."""
        self._here()
        self._driver.set_network_conditions(
            offline=offline, latency=0, download_throughput=-1, upload_throughput=-1
        )

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until something is so on this page."""
        wait_in(self._driver, condition, f"{what}; the page shows {self._messages()}")

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
