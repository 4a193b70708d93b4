"""Plain synchronous views: the page of a room, and a way to speak there without a WebSocket; and
stories, whose words come as server-sent events.
"""

from __future__ import annotations

import secrets
from typing import Any

from channels.layers import get_channel_layer
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from redis.exceptions import ConnectionError as RedisConnectionError

from channels_redis.views import GroupEventsView

from .rooms import MAX_AUTHOR_LENGTH, MAX_TEXT_LENGTH, Post, Refused, chat_message, group_name
from .stories import STORY_CHANNEL, story_group


@require_GET
def room(request: HttpRequest, room: str) -> HttpResponse:
    context = {
        "room": room,
        "process": settings.CHAT_PROCESS,
        "sites": settings.CHAT_SITES,
        "backend": settings.CHANNEL_LAYERS["default"]["BACKEND"].rpartition(".")[2],
        "max_author_length": MAX_AUTHOR_LENGTH,
        "max_text_length": MAX_TEXT_LENGTH,
    }
    return render(request, "chat/room.html", context)


@require_POST
def announce(request: HttpRequest, room: str) -> HttpResponse:
    try:
        message = chat_message(Post.from_client(request.POST.dict()), "plain view")
        get_channel_layer().sync.group_send(group_name(room), message)
    except Refused as refusal:
        return JsonResponse({"text": str(refusal)}, status=400)
    except RedisConnectionError:
        return JsonResponse({"text": "Redis is away. Please try again."}, status=503)
    return HttpResponse(status=204)


@require_http_methods(["GET", "POST"])
def stories(request: HttpRequest) -> HttpResponse:
    """A page with a button, which has a worker tell a new story."""
    if request.method == "GET":
        return render(request, "chat/story.html", {"process": settings.CHAT_PROCESS})
    story = secrets.token_hex(8)
    job = {"type": "story.tell", "group": story_group(story)}
    get_channel_layer().sync.send(STORY_CHANNEL, job)
    return redirect("story", story)


@require_GET
def story(request: HttpRequest, story: str) -> HttpResponse:
    context = {"process": settings.CHAT_PROCESS, "story": story}
    return render(request, "chat/story.html", context)


class StoryEvents(GroupEventsView):
    """The words of a story: from the first for a page that is loaded, be it in the middle, and from
    where it was for one whose connection was lost.
    """

    since = "start"

    def get_group(self) -> str:
        return story_group(self.kwargs["story"])

    def has_permission(self, group: str) -> bool:
        return True  # The address is random: who has it may read.

    def get_event_name(self, message: dict[str, Any]) -> str:
        return str(message["type"].rpartition(".")[2])  # "word" or "end"

    def get_content(self, message: dict[str, Any]) -> str:
        return str(message["text"])
