"""The ASGI application: HTTP, WebSockets and the workers' general channels."""

from __future__ import annotations

import os

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")
django_application = get_asgi_application()

# Only now, because these need the settings.
from .consumers import DiceWorker, StoryWorker  # noqa: E402  (see above)
from .rooms import DICE_CHANNEL  # noqa: E402  (see above)
from .stories import STORY_CHANNEL  # noqa: E402  (see above)
from .urls import websocket_urlpatterns  # noqa: E402  (see above)

application = ProtocolTypeRouter(
    {
        "http": ASGIStaticFilesHandler(django_application),
        "websocket": AllowedHostsOriginValidator(URLRouter(websocket_urlpatterns)),
        "channel": ChannelNameRouter(
            {DICE_CHANNEL: DiceWorker.as_asgi(), STORY_CHANNEL: StoryWorker.as_asgi()}
        ),
    }
)
