"""Fixtures for pytest, for projects that ask for them in their top ``conftest.py``::

    pytest_plugins = ["channels_redis.testing.plugin"]

Not an entry point: one would be loaded in every environment that has the package, by every run
of pytest, whether it tests a channel layer or not.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from .recording import RecordingChannelLayer, recording
from .servers import RedisServer


@pytest.fixture(scope="session")
def channels_redis_server() -> Iterator[RedisServer]:
    """A private server for the whole run of tests (with pytest-xdist: one for each worker).

    The program is looked for as :func:`~channels_redis.testing.servers.find_server` does.
    """
    with closing(RedisServer()) as server:
        yield server.start()


@pytest.fixture(scope="session")
def channels_redis_url(request: pytest.FixtureRequest) -> str:
    """The URL of the server that tests use: ``REDIS_URL`` of the environment, if it is set, else
    that of the private one.
    """
    named = os.environ.get("REDIS_URL")
    if named:
        return named
    server: RedisServer = request.getfixturevalue("channels_redis_server")
    return server.url


@pytest.fixture
def redis_channel_layers(channels_redis_url: str) -> Iterator[dict[str, Any]]:
    """``CHANNEL_LAYERS`` of the settings, for one test on the tests' server.

    Each layer of this package gets the server as its only host, and a prefix of its own for this
    test; its other options stay, and so do layers of other packages.  At the end what was made
    is closed, and its keys are deleted.
    """
    from django.conf import settings  # Only here: the plugin is loaded before Django is set up.
    from django.test.utils import override_settings

    mine = f"test-{secrets.token_hex(6)}-"
    layers = {
        alias: _redirected(alias, entry, channels_redis_url, mine)
        for alias, entry in settings.CHANNEL_LAYERS.items()
    }
    with override_settings(CHANNEL_LAYERS=layers):
        yield layers
        _clean_up(layers)


@pytest.fixture
def recorded_channel_layer(redis_channel_layers: dict[str, Any]) -> Iterator[RecordingChannelLayer]:
    """The default layer on the tests' server, as one that remembers what is sent."""
    with recording() as layer:
        yield layer


def _redirected(alias: str, entry: dict[str, Any], url: str, mine: str) -> dict[str, Any]:
    if not _is_ours(entry):
        return entry
    config = dict(entry.get("CONFIG", {}))
    if "layer" in config:  # One that is wrapped, as UnreliableChannelLayer does.
        config["layer"] = _redirected(alias, config["layer"], url, mine)
    else:
        config.update(hosts=[url], prefix=f"{mine}{alias}:")
    return {**entry, "CONFIG": config}


def _is_ours(entry: dict[str, Any]) -> bool:
    backend: str = entry["BACKEND"]
    return backend.startswith("channels_redis.")


def _clean_up(layers: dict[str, Any]) -> None:
    from channels.layers import channel_layers  # As above.

    for alias in filter(lambda alias: _is_ours(layers[alias]), layers):
        layer: Any = channel_layers.backends.get(alias)
        if layer is not None and hasattr(layer, "sync"):
            layer.sync.flush()
            layer.sync.close()
