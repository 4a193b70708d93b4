"""Plain synchronous views: the page of a room, and a way to speak there without a WebSocket."""

from __future__ import annotations

from channels.layers import get_channel_layer
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_POST
from redis.exceptions import ConnectionError as RedisConnectionError

from .rooms import MAX_AUTHOR_LENGTH, MAX_TEXT_LENGTH, Post, Refused, chat_message, group_name


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
