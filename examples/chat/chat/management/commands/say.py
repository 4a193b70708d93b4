"""``manage.py say lobby Ada "Hello" "Is anybody there?"``: speak in a room from a terminal."""

from __future__ import annotations

import multiprocessing
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from channels.layers import get_channel_layer
from django.core.management.base import BaseCommand, CommandError
from redis.exceptions import ConnectionError as RedisConnectionError

from ...rooms import Post, Refused, chat_message, group_name
from ...tasks import announce


class Command(BaseCommand):
    help = "Speak in a room, from here or from forked worker processes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("room")
        parser.add_argument("author")
        parser.add_argument("text", nargs="+", help="each one becomes a message")
        parser.add_argument(
            "--workers", type=int, default=0, help="have so many processes take turns to speak"
        )

    def handle(
        self, *args: Any, room: str, author: str, text: Sequence[str], workers: int, **options: Any
    ) -> None:
        try:
            posts = [Post.from_client({"author": author, "text": words}) for words in text]
            if workers:
                speak_from_workers(room, posts, workers)
            else:
                speak(room, posts)
        except Refused as refusal:
            raise CommandError(str(refusal)) from None
        except RedisConnectionError as error:
            raise CommandError(f"Redis is away: {error}") from error


def speak(room: str, posts: Sequence[Post]) -> None:
    layer = get_channel_layer()
    for post in posts:
        layer.sync.group_send(group_name(room), chat_message(post, "command"))


def speak_from_workers(room: str, posts: Sequence[Post], workers: int) -> None:
    """Do what Celery's prefork pool does: fork processes, and hand tasks to them."""
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        for post in posts:
            pool.apply(announce, (room, post))
