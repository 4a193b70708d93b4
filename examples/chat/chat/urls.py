"""Where HTTP and WebSocket requests go."""

from __future__ import annotations

from django.urls import path, re_path
from django.views.generic import RedirectView

from . import views
from .consumers import RoomConsumer

STORY = r"stories/(?P<story>[a-z0-9]{16})"
ROOM = r"rooms/(?P<room>[A-Za-z0-9_-]{1,50})"

urlpatterns = [
    path("", RedirectView.as_view(url="/rooms/lobby/")),
    re_path(rf"^{ROOM}/$", views.room, name="room"),
    re_path(rf"^{ROOM}/announce/$", views.announce, name="announce"),
    path("stories/", views.stories, name="stories"),
    re_path(rf"^{STORY}/$", views.story, name="story"),
    re_path(rf"^{STORY}/events/$", views.StoryEvents.as_view(), name="story-events"),
]

websocket_urlpatterns = [re_path(rf"^ws/{ROOM}/$", RoomConsumer.as_asgi())]
