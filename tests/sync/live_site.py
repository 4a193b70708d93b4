"""A site and its live tests, as a project has them: test_django runs them by themselves.

    python -m unittest tests.sync.live_site

``SITE_LAYER`` and ``SITE_OPTIONS`` describe the layer, ``SITE_DATABASE`` names a file.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import urllib.request
from typing import Any

import django
from django.conf import settings

# What is tested; Python 3.14 and newer start processes in another way unless asked.
multiprocessing.set_start_method("fork")

settings.configure(
    ALLOWED_HOSTS=["localhost"],
    ASGI_APPLICATION="tests.sync.live_site.application",
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": os.environ["SITE_LAYER"],
            "CONFIG": json.loads(os.environ["SITE_OPTIONS"]),
        }
    },
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["SITE_DATABASE"],
            "TEST": {"NAME": os.environ["SITE_DATABASE"]},
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["channels"],
    ROOT_URLCONF="tests.sync.live_site",
    STATIC_URL="/static/",
    USE_TZ=True,
)
django.setup()

# Only now, because these need the settings.
from channels.generic.websocket import JsonWebsocketConsumer  # noqa: E402  (see above)
from channels.layers import get_channel_layer  # noqa: E402  (see above)
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402  (see above)
from channels.testing import ChannelsLiveServerTestCase  # noqa: E402  (see above)
from django.core.asgi import get_asgi_application  # noqa: E402  (see above)
from django.http import HttpResponse  # noqa: E402  (see above)
from django.urls import path  # noqa: E402  (see above)
from websockets.sync.client import connect  # noqa: E402  (see above)


class Consumer(JsonWebsocketConsumer):  # type: ignore[misc]  # Channels has no annotations
    """A plain synchronous consumer: Channels runs it in a thread."""

    groups = ("room",)

    def connect(self) -> None:
        self.accept()
        self.send_json("welcome")

    def room_note(self, message: dict[str, Any]) -> None:
        self.send_json(message["text"])

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        get_channel_layer().sync.group_send("room", {"type": "room.note", "text": content})


def say(request: Any, text: str) -> HttpResponse:
    get_channel_layer().sync.group_send("room", {"type": "room.note", "text": text})
    return HttpResponse(status=204)


urlpatterns = [path("say/<text>", say)]
application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("ws", Consumer.as_asgi())]),
    }
)


class LiveTest(ChannelsLiveServerTestCase):  # type: ignore[misc]  # Channels has no annotations
    """The server is forked from a process that has used the layer."""

    serve_static = False

    @classmethod
    def setUpClass(cls) -> None:
        get_channel_layer().sync.send("warm-up", {})
        super().setUpClass()

    def test_the_server_and_this_process_send_to_a_consumer(self) -> None:
        with connect(f"{self.live_server_ws_url}/ws", proxy=None) as client:
            self.assertEqual(client.recv(20), '"welcome"')
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            opener.open(f"{self.live_server_url}/say/view", timeout=20).close()
            self.assertEqual(client.recv(20), '"view"')
            client.send('"socket"')
            self.assertEqual(client.recv(20), '"socket"')
            note = {"type": "room.note", "text": "test"}
            get_channel_layer().sync.group_send("room", note)
            self.assertEqual(client.recv(20), '"test"')

    test_it_does_so_again = test_the_server_and_this_process_send_to_a_consumer
