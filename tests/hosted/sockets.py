"""A site of consumers with broadcasts, as others' servers import it; alone in its folder."""

from __future__ import annotations

import json
import os
from typing import Any, ClassVar

import django
from asgiref.sync import async_to_sync
from django.conf import settings

OPTIONS = json.loads(os.environ["HOSTED_OPTIONS"])
settings.configure(
    CHANNEL_LAYERS={"default": {"BACKEND": os.environ["HOSTED_LAYER"], "CONFIG": OPTIONS}},
    SECRET_KEY="of a test",
)
django.setup()

# Only now, because these need the settings.
from channels.generic.websocket import (  # noqa: E402  (see above)
    AsyncJsonWebsocketConsumer,
    JsonWebsocketConsumer,
)

from channels_redis.consumers import BroadcastMixin, broadcast  # noqa: E402  (see above)


class Guest(BroadcastMixin, AsyncJsonWebsocketConsumer):  # type: ignore[misc]  # Channels has no annotations
    """Hears broadcasts and notes; tells a worker when it ends."""

    groups: ClassVar[list[str]] = ["room"]

    @broadcast
    def room_all(cls, message: dict[str, Any]) -> dict[str, Any]:
        return {"all": message["n"]}

    async def room_note(self, message: dict[str, Any]) -> None:
        await self.send_json({"note": message["n"]})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.send("ends", {"type": "end"})


class SyncGuest(BroadcastMixin, JsonWebsocketConsumer):  # type: ignore[misc]  # Channels has no annotations
    """The same as Channels runs it in a thread."""

    groups: ClassVar[list[str]] = ["room"]

    @broadcast
    def room_all(cls, message: dict[str, Any]) -> dict[str, Any]:
        return {"all": message["n"]}

    def room_note(self, message: dict[str, Any]) -> None:
        self.send_json({"note": message["n"]})

    def disconnect(self, code: int) -> None:
        async_to_sync(self.channel_layer.send)("ends", {"type": "end"})


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Serve WebSockets alone."""
    if scope["type"] == "websocket":
        kind = SyncGuest if scope["path"] == "/sync" else Guest
        await kind.as_asgi()(scope, receive, send)
    elif scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
