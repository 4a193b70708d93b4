"""The pytest plugin in a project that asks for it, and in one that does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""

CONFTEST = """
from django.conf import settings

pytest_plugins = ["channels_redis.testing.plugin"]
settings.configure(CHANNEL_LAYERS={
    "default": {
        "BACKEND": "channels_redis.KIND",
        "CONFIG": {"hosts": ["redis://192.0.2.1:1"], "capacity": 7},
    },
    "bad": {
        "BACKEND": "channels_redis.testing.resilience.UnreliableChannelLayer",
        "CONFIG": {"drop": 1.0, "layer": {"BACKEND": "channels_redis.KIND"}},
    },
    "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
})
"""

TESTS = """
import asyncio
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

prefixes = set()


async def talk(layer):
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "hello"})
    return await layer.receive(channel)


def test_settings(redis_channel_layers):
    layer = get_channel_layer()
    assert async_to_sync(talk)(layer) == {"type": "hello"}
    assert layer.capacity == 7
    prefixes.add(layer.prefix)


async def test_coroutine(redis_channel_layers):
    layer = get_channel_layer()
    assert await talk(layer) == {"type": "hello"}
    await layer.send("left-over", {"type": "x"})
    prefixes.add(layer.prefix)
    assert len(prefixes) == 2


def test_cleaned_up(channels_redis_server):
    assert channels_redis_server.command("KEYS", "*") == []


def test_recorded(recorded_channel_layer):
    async_to_sync(get_channel_layer().group_send)("room", {"type": "hello", "n": 1})
    recorded_channel_layer.assert_group_sent("room", n=1)


async def test_wrapped(redis_channel_layers):
    layer = get_channel_layer("bad")
    await layer.send("work", {"type": "x"})
    try:
        await asyncio.wait_for(layer.receive("work"), 0.2)
    except asyncio.TimeoutError:
        assert layer.dropped == 1
    else:
        raise AssertionError


async def test_others_are_left_alone(redis_channel_layers):
    await get_channel_layer("memory").send("work", {"type": "x"})
    assert redis_channel_layers["memory"] == {"BACKEND": "channels.layers.InMemoryChannelLayer"}
"""


def run_project(folder: Path, *files: tuple[str, str]) -> str:
    """Run pytest in a project of its own; return what it says once all has passed."""
    (folder / "pytest.ini").write_text(INI)
    for name, text in files:
        (folder / name).write_text(text)
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), *sys.path]))
    completed = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def test_a_project_gets_its_layers_on_a_private_server(
    kind: str, tmp_path: Path, redis_url: str
) -> None:
    """Its own options, a prefix for each test, nothing left behind, no warning."""
    path = {"core": "core.RedisChannelLayer", "pubsub": "pubsub.RedisPubSubChannelLayer"}[kind]
    said = run_project(
        tmp_path,
        ("conftest.py", CONFTEST.replace("KIND", path)),
        ("test_project.py", TESTS),
    )
    assert "6 passed" in said


def test_a_project_that_does_not_ask_notices_nothing(tmp_path: Path) -> None:
    """Nothing of this package is imported in its tests because it is installed."""
    test = "import sys\ndef test_it():\n    assert 'channels_redis' not in sys.modules\n"
    assert "1 passed" in run_project(tmp_path, ("test_project.py", test))


@pytest.fixture(autouse=True)
def _needs_a_private_server() -> None:
    from tests.conftest import find_server_or_skip  # Skips where only REDIS_URL is there.

    find_server_or_skip()
