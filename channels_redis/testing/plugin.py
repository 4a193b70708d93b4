"""Fixtures for pytest, for projects that ask for them in their top ``conftest.py``::

    pytest_plugins = ["channels_redis.testing.plugin"]

Not an entry point: one would be loaded in every environment that has the package, by every run
of pytest, whether it tests a channel layer or not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from ._settings import layers_on
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
    with layers_on(channels_redis_url) as layers:
        yield layers


@pytest.fixture
def recorded_channel_layer(redis_channel_layers: dict[str, Any]) -> Iterator[RecordingChannelLayer]:
    """The default layer on the tests' server, as one that remembers what is sent."""
    with recording() as layer:
        yield layer
