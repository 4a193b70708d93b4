"""What Django and its tests do to layers: settings that change, live servers, loops by scope."""

from __future__ import annotations

import asyncio
import gc
import json
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.test.utils import override_settings

from channels_redis.testing.servers import wait_until
from tests.conftest import class_of
from tests.helpers import (
    numbered,
    receive,
    receive_numbers,
    receive_until_marker,
    script_environment,
)
from tests.proxy import Proxy

if not settings.configured:
    settings.configure()


def layers(script_arguments: tuple[str, str], **options: Any) -> override_settings:
    """The setting CHANNEL_LAYERS with one layer like that of the fixture."""
    path, given = script_arguments
    config = {**json.loads(given), **options}
    return override_settings(CHANNEL_LAYERS={"default": {"BACKEND": path, "CONFIG": config}})


def test_overridden_settings_give_another_layer_and_then_the_first_anew(
    script_arguments: tuple[str, str], prefix: str
) -> None:
    """Layers with different prefixes know nothing of each other."""
    with layers(script_arguments):
        get_channel_layer().sync.send("work", numbered(1))
        with layers(script_arguments, prefix=f"{prefix}-other"):
            get_channel_layer().sync.send("work", numbered(2))
            async_to_sync(get_channel_layer().send)("work", numbered(3))
            assert async_to_sync(receive_numbers)(get_channel_layer(), "work", 2) == [2, 3]
        get_channel_layer().sync.send("work", numbered(4))
        assert async_to_sync(receive_numbers)(get_channel_layer(), "work", 2) == [1, 4]


def test_layers_that_settings_have_replaced_leave_no_connection(
    script_arguments: tuple[str, str], proxy: Proxy, build: Callable[..., Any]
) -> None:
    """A suite overrides the setting in each test, and closes nothing.  A layer that goes on
    receiving on the portal is left in peace.
    """
    bystander = build()
    channel = async_to_sync(bystander.new_channel)()
    bystander.sync.send(channel, numbered(1))
    assert async_to_sync(receive)(bystander, channel) == numbered(1)
    for number in range(20):
        with layers(script_arguments, hosts=[proxy.url]):
            get_channel_layer().sync.send("work", numbered(number))
            async_to_sync(get_channel_layer().group_send)("room", numbered(number))
            asyncio.run(get_channel_layer().send("work", numbered(number)))
    gc.collect()
    wait_until(lambda: proxy.links == [], "rid of the connections of replaced layers")
    bystander.sync.send(channel, numbered(2))
    assert async_to_sync(receive)(bystander, channel) == numbered(2)


async def run_site(*words: str, **settings: str) -> str:
    """Run Python in a process of its own, which must end well; return what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *words),
        env={**script_environment(), **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 50)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_a_live_server_is_forked_from_a_process_that_used_the_layer(
    script_arguments: tuple[str, str], tmp_path: Path
) -> None:
    """``ChannelsLiveServerTestCase``: its server and its client send to a consumer."""
    path, options = script_arguments
    database = str(tmp_path / "database")
    words = ("-m", "unittest", "tests.sync.live_site")
    output = await run_site(*words, SITE_LAYER=path, SITE_OPTIONS=options, SITE_DATABASE=database)
    assert "Ran 2 tests" in output


RELOADED = """
import json, os, pathlib
import django
from django.conf import settings
from django.utils import autoreload
from django.utils.module_loading import import_string

settings.configure()
layer = import_string(os.environ["SITE_LAYER"])(**json.loads(os.environ["SITE_OPTIONS"]))
runs = pathlib.Path(__file__).with_name("runs")

def serve():
    django.setup()
    layer.sync.group_send("room", {"n": 0})
    with runs.open("a") as log:
        log.write("run\\n")
    if len(runs.read_text().split()) == 3:
        os._exit(0)
    while True:  # until the reloader has noticed
        layer.sync.group_send("room", {"n": 0})
        os.utime(__file__)

autoreload.run_with_reloader(serve)
"""


@pytest.mark.slow
async def test_a_reload_of_the_development_server_ends_and_starts_the_portal(
    script_arguments: tuple[str, str], tmp_path: Path
) -> None:
    """Django's reloader ends the process while a daemon thread serves; three times in a row."""
    site = tmp_path / "site.py"
    site.write_text(RELOADED)
    path, options = script_arguments
    output = await run_site("-X", "dev", str(site), SITE_LAYER=path, SITE_OPTIONS=options)
    assert (tmp_path / "runs").read_text() == "run\n" * 3
    assert "Warning" not in output
    assert "Traceback" not in output


@pytest.fixture(scope="session")
def shared(redis_url: str) -> Any:
    """One layer of each kind for tests on loops of all scopes, as a module of a project has it."""
    prefix = f"test-{secrets.token_hex(6)}"
    return {kind: class_of(kind)(hosts=[redis_url], prefix=prefix) for kind in ("core", "pubsub")}


async def converse(layer: Any) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", numbered(1))
    assert await receive(layer, channel) == numbered(1)
    await layer.send("work", numbered(2))
    assert await receive(layer, "work") == numbered(2)
    assert await receive_until_marker(layer, channel) == []
    await layer.group_discard("room", channel)


class TestLoopsOfAllScopes:
    """pytest-asyncio's loops: of a function, of the session, and of another function."""

    async def test_on_the_loop_of_a_function(self, shared: Any, kind: str) -> None:
        """The first one."""
        await converse(shared[kind])

    @pytest.mark.asyncio(loop_scope="session")
    async def test_on_the_loop_of_the_session(self, shared: Any, kind: str) -> None:
        """It stays open, and stands still while others run."""
        await converse(shared[kind])

    async def test_on_another_loop_of_a_function(self, shared: Any, kind: str) -> None:
        """The session's loop is there still."""
        await converse(shared[kind])

    @pytest.mark.asyncio(loop_scope="session")
    async def test_on_the_loop_of_the_session_again(self, shared: Any, kind: str) -> None:
        """On the connections that it had."""
        await converse(shared[kind])
        await shared[kind].close()
