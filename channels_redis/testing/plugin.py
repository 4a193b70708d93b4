"""Fixtures for pytest.  A project enables them in its top-level ``conftest.py``::

    pytest_plugins = ["channels_redis.testing.plugin"]

This is not an entry point, because an entry point would be loaded in every run of pytest, whether
it tests a channel layer or not.
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
    """A private server for the whole test run (with pytest-xdist: one for each worker).

    The program is found with :func:`~channels_redis.testing.servers.find_server`.
    """
    with closing(RedisServer()) as server:
        yield server.start()


@pytest.fixture(scope="session")
def channels_redis_url(request: pytest.FixtureRequest) -> str:
    """The URL of the server that tests use: the environment variable ``REDIS_URL``, if it is set,
    otherwise that of the private server.
    """
    named = os.environ.get("REDIS_URL")
    if named:
        return named
    server: RedisServer = request.getfixturevalue("channels_redis_server")
    return server.url


@pytest.fixture
def redis_channel_layers(channels_redis_url: str) -> Iterator[dict[str, Any]]:
    """``CHANNEL_LAYERS`` of the settings, for one test on the tests' server.

    Each layer of this package gets the server as its only host, and a separate prefix for this
    test.  Its other options, and layers of other packages, are not changed.  At the end the layers
    are closed and their keys are deleted.
    """
    with layers_on(channels_redis_url) as layers:
        yield layers


@pytest.fixture
def recorded_channel_layer(redis_channel_layers: dict[str, Any]) -> Iterator[RecordingChannelLayer]:
    """The default layer on the tests' server, which records the messages that are sent."""
    with recording() as layer:
        yield layer
