"""Django's test cases on the tests' server: the recipe of docs/testing.rst in a project."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import find_server_or_skip
from tests.test_docs import BLOCKS

ROOT = Path(__file__).parent.parent

# A whole project is started in each test, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(600)
(SHOWN,) = [block.source for block in BLOCKS if "RedisChannelLayersMixin" in block.source]
# A busy machine needs longer than a developer waits.
RECIPE = SHOWN.replace('/ws/news/")', '/ws/news/", open_timeout=60)').replace("=10)", "=60)")

SETTINGS = """
ASGI_APPLICATION = "site_asgi.application"
CHANNEL_LAYERS = {
    "default": {"BACKEND": "channels_redis.KIND", "CONFIG": {"hosts": ["redis://192.0.2.1:1"]}},
}
DATABASES = {"default": {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": "site.sqlite3",
    "TEST": {"NAME": "test.sqlite3"},
}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["channels"]
STATIC_URL = "/static/"
USE_TZ = True
"""

ASGI = """
import functools

import daphne.server
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path


# As above: five seconds by default, and then daphne refuses the WebSocket.
daphne.server.Server.__init__ = functools.partialmethod(
    daphne.server.Server.__init__, websocket_handshake_timeout=60
)


class NewsConsumer(AsyncWebsocketConsumer):
    groups = ["news"]

    async def connect(self):
        await self.accept()
        await self.send("connected")

    async def news_item(self, message):
        await self.send(message["title"])


application = ProtocolTypeRouter({
    "http": get_asgi_application(),
    "websocket": URLRouter([path("ws/news/", NewsConsumer.as_asgi())]),
})
"""

#: How Python starts the process of the site: as on Linux, and as on macOS and in newer releases.
START = """
import multiprocessing
import os

multiprocessing.set_start_method(os.environ["START_METHOD"])
"""


def make_project(folder: Path, kind: str) -> None:
    find_server_or_skip()
    path = {"core": "core.RedisChannelLayer", "pubsub": "pubsub.RedisPubSubChannelLayer"}[kind]
    (folder / "site_settings.py").write_text(SETTINGS.replace("KIND", path))
    (folder / "site_asgi.py").write_text(ASGI)
    (folder / "test_news.py").write_text(START + RECIPE)


def run(folder: Path, start_method: str, *words: str) -> str:
    """Run Python in the project; return what it said once it has ended well."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), *filter(None, sys.path)]),
        "DJANGO_SETTINGS_MODULE": "site_settings",
        "START_METHOD": start_method,
    }
    ended = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.parametrize(("kind", "start_method"), [("core", "spawn"), ("pubsub", "fork")])
def test_the_recipe_passes_with_the_test_command_of_django(
    kind: str, start_method: str, tmp_path: Path
) -> None:
    """The site and the tests meet on the private server, whose address no settings file has."""
    make_project(tmp_path, kind)
    said = run(tmp_path, start_method, "django", "test", "--noinput")
    assert "Ran 2 tests" in said


def test_a_class_that_fails_to_set_up_gives_the_settings_back(tmp_path: Path) -> None:
    """The classes after it see their own, and a subclass is set up as its base was."""
    make_project(tmp_path, "core")
    (tmp_path / "test_broken.py").write_text(
        "from django.conf import settings\n"
        "from django.test import SimpleTestCase\n"
        "from test_news import NewsLiveTest, RedisChannelLayersMixin\n"
        "class Broken:\n"
        "    @classmethod\n"
        "    def setUpClass(cls):\n"
        "        raise ZeroDivisionError\n"
        "class Test1(SimpleTestCase):\n"
        "    def test_it(self):\n"
        "        class Case(RedisChannelLayersMixin, Broken, SimpleTestCase):\n"
        "            pass\n"
        "        try:\n"
        "            Case.setUpClass()\n"
        "        except ZeroDivisionError:\n"
        "            Case.doClassCleanups()\n"
        "        config = settings.CHANNEL_LAYERS['default']['CONFIG']\n"
        "        assert config == {'hosts': ['redis://192.0.2.1:1']}\n"
        "class SubclassTest(NewsLiveTest):\n"
        "    pass\n"
    )
    assert "Ran 3 tests" in run(tmp_path, "fork", "django", "test", "--noinput", "test_broken")


def test_the_recipe_passes_with_pytest(tmp_path: Path) -> None:
    """With pytest-django, which makes the database."""
    pytest.importorskip("pytest_django")
    make_project(tmp_path, "core")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\n"
        "addopts = -p no:valkey -p no:cacheprovider\n"
        "asyncio_default_fixture_loop_scope = function\n"
    )
    assert "2 passed" in run(tmp_path, "spawn", "pytest", "-q")
