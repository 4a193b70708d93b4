"""A task of django.tasks (Django 6.0 or newer) that tells the browser of its user when it is done.

``ThumbnailConsumer`` is in a group of its user's, and passes on what the task says there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.db import transaction
from django.tasks import task

from channels_redis.layers import get_layer


@task
def make_thumbnail(image_id: int, user_id: int) -> None:
    """Make the thumbnail of an image, in a worker of the task queue."""
    # ... what takes its time ...
    get_layer().sync.group_send(f"user-{user_id}", {"type": "thumbnail.ready", "image": image_id})


def upload(image: Any, user_id: int) -> None:
    """Save an image, in a view; the task starts once it can be found in the database."""
    with transaction.atomic():
        image.save()
        transaction.on_commit(partial(make_thumbnail.enqueue, image.pk, user_id))


class ThumbnailConsumer(AsyncJsonWebsocketConsumer):
    """The WebSocket of a user who has logged in."""

    async def connect(self) -> None:
        """Join the group of the user."""
        self.group = f"user-{self.scope['user'].pk}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        """Leave it."""
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def thumbnail_ready(self, message: dict[str, Any]) -> None:
        """Tell the page which image to load again."""
        await self.send_json({"image": message["image"]})
