"""A site whose clients come back.  ``python served.py PLAN`` (a `Plan` as JSON) serves it."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from typing import Any, TypedDict

import django
from django.conf import settings


class Plan(TypedDict):
    """``layer`` is a dotted path, ``server`` uvicorn or daphne, ``socket`` a descriptor."""

    layer: str
    options: dict[str, Any]
    secret_key: str
    server: str
    socket: int


plan: Plan = json.loads(sys.argv[1])
settings.configure(
    ALLOWED_HOSTS=["*"],
    CHANNEL_LAYERS={"default": {"BACKEND": plan["layer"], "CONFIG": plan["options"]}},
    MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=plan["secret_key"],
)
django.setup()

# Only now, because these need the settings.
from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402  (see above)
from channels.routing import ProtocolTypeRouter  # noqa: E402  (see above)
from django.core.asgi import get_asgi_application  # noqa: E402  (see above)
from django.urls import path  # noqa: E402  (see above)

from channels_redis.consumers import BroadcastMixin, ResumeMixin, broadcast  # noqa: E402  (see above)
from channels_redis.views import GroupEventsView  # noqa: E402  (see above)

GROUP = "room.1"


class Room(ResumeMixin, BroadcastMixin, AsyncJsonWebsocketConsumer):
    """Tells what it hears in the group."""

    async def connect(self) -> None:
        await self.accept()
        await self.join(GROUP)

    @broadcast
    def room_note(cls, message: dict[str, Any]) -> dict[str, Any]:
        return {"n": message["n"]}


class PlainRoom(BroadcastMixin, AsyncJsonWebsocketConsumer):
    """The same for clients that can't come back."""

    async def connect(self) -> None:
        await self.accept()
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.send_json({"joined": True})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(GROUP, self.channel_name)

    @broadcast
    def room_note(cls, message: dict[str, Any]) -> dict[str, Any]:
        return {"n": message["n"]}


rooms = {"/resuming": Room.as_asgi(), "/plain": PlainRoom.as_asgi()}
urlpatterns = [path("events", GroupEventsView.as_view(group=GROUP, retry_ms=200))]


async def sockets(scope: Any, receive: Any, send: Any) -> None:
    await rooms[scope["path"]](scope, receive, send)


application = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": sockets})


def end_with_parent() -> None:
    """End the process as soon as nobody holds its standard input any more."""
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    if plan["server"] == "daphne":
        from daphne.server import Server

        endpoint = f"fd:fileno={plan['socket']}"
        Server(application, endpoints=[endpoint], verbosity=0).run()
    else:
        import uvicorn

        config = uvicorn.Config(
            application,
            lifespan="off",
            log_level="warning",
            timeout_graceful_shutdown=1,
            ws_per_message_deflate=False,
        )
        uvicorn.Server(config).run(sockets=[socket.socket(fileno=plan["socket"])])


if __name__ == "__main__":
    main()
