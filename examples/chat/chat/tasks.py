"""What a task queue runs: plain functions, in worker processes that were forked."""

from __future__ import annotations

from channels.layers import get_channel_layer

from .rooms import Post, chat_message, group_name


def announce(room: str, post: Post) -> None:
    """Speak in a room.  With Celery this would be a ``@shared_task``, and the same line in it."""
    get_channel_layer().sync.group_send(group_name(room), chat_message(post, "task"))
