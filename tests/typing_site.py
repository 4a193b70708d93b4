"""What type checkers make of the code of a site, as README.rst shows it.  Never run.

``tox -e types-channels`` reads it with types-channels installed, whose ``get_channel_layer()``
knows no more than the methods that all layers have.
"""

from __future__ import annotations

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from channels_redis.consumers import BroadcastMixin, broadcast
from channels_redis.layers import LayerOptions, get_layer

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


def closing_soon() -> None:
    message = {"type": "chat.message", "text": "The shop closes in ten minutes."}
    get_layer().sync.group_send("lobby", message)
