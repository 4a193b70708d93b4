"""For Django's test cases, run by ``manage.py test`` or by pytest::

    class ChatTest(RedisChannelLayersMixin, ChannelsLiveServerTestCase):
        ...

pytest's fixtures come too late for these: ``setUpClass()`` starts the site before them.
"""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ClassVar

from ._settings import layers_on
from .servers import RedisServer


class RedisChannelLayersMixin:
    """A mixin for test cases of Django or Channels; the first base of a class.

    While the tests of the class run, every layer of this package in ``CHANNEL_LAYERS`` uses the
    tests' server, with its configured options and a prefix for this class. A site that
    ``ChannelsLiveServerTestCase`` starts uses the same layers, however it starts its process.

    The server is the one in the environment variable ``REDIS_URL``, or else a private one, which
    all classes share and which is stopped with the process.
    """

    _layers: ClassVar[dict[str, Any]]

    @classmethod
    def setUpClass(cls) -> None:
        """Change ``CHANNEL_LAYERS`` before the class is set up."""
        case: Any = cls
        stack = ExitStack()
        # Class cleanups run after tearDownClass(), and also where setUpClass() has failed.
        case.addClassCleanup(stack.close)
        cls._layers = stack.enter_context(layers_on(os.environ.get("REDIS_URL") or _server().url))
        live_server = getattr(case, "ProtocolServerProcess", None)
        if live_server is not None:
            # Undone at the end, so that a subclass does not wrap what is wrapped.
            case.addClassCleanup(delattr, case, "ProtocolServerProcess")
            case.ProtocolServerProcess = functools.partial(_start, live_server, cls._layers)
        super().setUpClass()  # type: ignore[misc]  # that of the test case beside this mixin


@functools.cache
def _server() -> RedisServer:
    server = RedisServer().start()
    atexit.register(server.close)
    return server


def _start(
    live_server: Callable[..., Any],
    layers: dict[str, Any],
    *args: Any,
    setup: Callable[[], None] | None = None,
    **options: Any,
) -> Any:
    """Make the process of a live server, which changes its settings before it serves."""
    return live_server(*args, setup=functools.partial(_set_up, layers, setup), **options)


def _set_up(layers: dict[str, Any], setup: Callable[[], None] | None) -> None:
    """In the process of the site: one that was not forked has read the settings anew."""
    from django.conf import settings
    from django.test.utils import override_settings

    if layers != settings.CHANNEL_LAYERS:
        # This also has Channels forget layers that were made while the application was imported.
        override_settings(CHANNEL_LAYERS=layers).enable()
    if setup is not None:
        setup()
