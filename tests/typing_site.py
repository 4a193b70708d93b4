"""What type checkers make of the code of a site, as README.rst shows it.  Never run.

``tox -e types-channels`` reads it with types-channels installed, whose ``get_channel_layer()``
knows no more than the methods that all layers have.
"""

from __future__ import annotations

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer

from channels_redis.consumers import BroadcastMixin, ResumeMixin, broadcast
from channels_redis.layers import LayerOptions, get_layer
from channels_redis.views import GroupEventsView

OPTIONS: LayerOptions = {"hosts": ["redis://localhost:6379"]}

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": OPTIONS,
    },
}


class ChatConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        await self.channel_layer.group_add("lobby", self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("lobby", self.channel_name)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        message = {"type": "chat.message", "text": content["text"]}
        await get_layer().group_send("lobby", message, exclude=[self.channel_name])

    async def chat_message(self, message: dict[str, Any]) -> None:
        await self.send_json({"text": message["text"]})


class ScoreConsumer(BroadcastMixin, AsyncJsonWebsocketConsumer):
    groups = ["scores"]  # noqa: RUF012 (Channels' declaration)

    @broadcast
    def score_update(cls, message: dict[str, Any]) -> dict[str, Any]:
        return {"score": message["score"]}


class RoomConsumer(ResumeMixin, BroadcastMixin, AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        await self.accept()
        await self.join("room.lobby", since="start")

    async def may_resume(self, group: str) -> bool:
        return group.startswith("room.")

    async def resume_failed(self, group: str) -> None:
        await self.send_json({"text": "Here are the latest messages."})

    async def room_topic(self, message: dict[str, Any]) -> None:
        await self.send_json(self.positioned({"topic": message["topic"]}, message))


class SyncRoomConsumer(BroadcastMixin, ResumeMixin, JsonWebsocketConsumer):
    groups = ["room.lobby"]  # noqa: RUF012 (Channels' declaration)

    @broadcast
    def room_message(cls, message: dict[str, Any]) -> dict[str, Any]:
        return {"text": message["text"]}


class RoomEvents(GroupEventsView):
    since = "start"

    def get_group(self) -> str:
        return f"room.{self.kwargs['room']}"

    async def has_permission(self, group: str) -> bool:
        return group != "room.closed"


def closing_soon() -> None:
    message = {"type": "chat.message", "text": "The shop closes in ten minutes."}
    get_layer().sync.group_send("lobby", message)
