"""The ends of the layer: a consumer for each WebSocket, and workers for dice and stories."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs

from channels.consumer import AsyncConsumer
from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings
from redis.exceptions import ConnectionError as RedisConnectionError

from channels_redis.consumers import BroadcastMixin, ResumeMixin, broadcast

from .rooms import (
    DICE_CHANNEL,
    Dice,
    Post,
    Refused,
    chat_message,
    clean_author,
    group_name,
)
from .stories import PAUSE_S, STORY


class RoomConsumer(ResumeMixin, BroadcastMixin, AsyncJsonWebsocketConsumer):
    """One browser in one room."""

    async def connect(self) -> None:
        self.group = group_name(self.scope["url_route"]["kwargs"]["room"])
        self.name = _name_in(self.scope["query_string"])
        await self.accept()
        await self.send_json({"type": "welcome", "process": settings.CHAT_PROCESS})
        # A browser that comes back gets what it missed, and a new one the lines that are kept.
        await self.join(self.group, since="start", presence={"name": self.name})
        presence = await self.channel_layer.group_presence(self.group)
        # Whoever comes or goes from now on is told by the two handlers below.
        await self.send_json({"type": "people", "names": list(presence.by_key)})

    async def receive(self, text_data: str | None = None, **kwargs: Any) -> None:
        try:
            await self.take(_parse(text_data))
        except Refused as refusal:
            await self.send_json({"type": "refused", "text": str(refusal)})
        except RedisConnectionError:
            await self.send_json({"type": "refused", "text": "Redis is away. Please try again."})

    async def take(self, post: Post) -> None:
        if post.author != self.name:
            # Joining again replaces who this is.
            await self.channel_layer.group_add(
                self.group, self.channel_name, presence={"name": post.author}
            )
            self.name = post.author
        dice = Dice.from_command(post.text)
        if dice is None:
            await self.channel_layer.group_send(self.group, chat_message(post, "WebSocket"))
            return
        job = {
            "type": "dice.roll",
            "author": post.author,
            "count": dice.count,
            "sides": dice.sides,
            "group": self.group,
            "reply_channel": self.channel_name,
        }
        try:
            await self.channel_layer.send(DICE_CHANNEL, job)
        except ChannelFull:
            raise Refused("Too many dice are waiting to be rolled.") from None

    @broadcast
    def chat_message(cls, message: dict[str, Any]) -> dict[str, Any]:
        # Once for all browsers in the room that this process serves.
        return {**message, "type": "message"}

    @broadcast
    def presence_join(cls, message: dict[str, Any]) -> dict[str, Any]:
        return {"type": "joined", "name": message["key"]}

    @broadcast
    def presence_leave(cls, message: dict[str, Any]) -> dict[str, Any]:
        return {"type": "left", "name": message["key"]}

    async def layer_reconnected(self, message: dict[str, Any]) -> None:
        if self.group in message.get("missed", ()):
            text = "Redis was away. Lines may be missing here."
            await self.send_json({"type": "note", "text": text, "process": settings.CHAT_PROCESS})

    async def dice_taken(self, message: dict[str, Any]) -> None:
        await self.send_json({**message, "type": "note"})


class DiceWorker(AsyncConsumer):
    """Reads the general channel of dice, in a process of its own."""

    async def dice_roll(self, job: dict[str, Any]) -> None:
        dice = Dice(job["count"], job["sides"])
        taken = {
            "type": "dice.taken",
            "text": f"{job['author']}, the worker took your {dice}. Only you see this.",
            "process": settings.CHAT_PROCESS,
        }
        await self.channel_layer.send(job["reply_channel"], taken)
        result = chat_message(Post(job["author"], dice.roll()), "worker")
        await self.channel_layer.group_send(job["group"], result)


class StoryWorker(AsyncConsumer):
    """Tells stories word by word, like a language model, in a process of its own."""

    async def story_tell(self, job: dict[str, Any]) -> None:
        for word in STORY.split():
            word_message = {"type": "story.word", "text": word}
            await self.channel_layer.group_send(job["group"], word_message)
            await asyncio.sleep(PAUSE_S)
        await self.channel_layer.group_send(job["group"], {"type": "story.end", "text": ""})


def _name_in(query_string: bytes) -> str:
    names = parse_qs(query_string.decode(errors="replace")).get("name", [])
    try:
        return clean_author(names[0] if names else "Guest")
    except Refused:
        return "Guest"


def _parse(text_data: str | None) -> Post:
    try:
        data = json.loads(text_data or "")
    except (ValueError, RecursionError):  # no JSON, a number of many digits, nesting without end
        raise Refused("A message must be JSON of a reasonable size.") from None
    return Post.from_client(data)
