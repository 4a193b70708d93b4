"""Settings of the chat.  ``CHAT_*`` variables tell each process who it is and where Redis is."""

from __future__ import annotations

import os
import secrets

# One key for all processes of a run, made by run.py; alone, each process makes its own.
SECRET_KEY = os.environ.get("CHAT_SECRET_KEY") or secrets.token_urlsafe(50)
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

INSTALLED_APPS = ["channels", "channels_redis", "django.contrib.staticfiles", "chat"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "chat.headers.content_security_policy",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
ROOT_URLCONF = "chat.urls"
ASGI_APPLICATION = "chat.asgi.application"
STATIC_URL = "/static/"
TIME_ZONE = "UTC"
USE_TZ = True

LAYERS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": LAYERS[os.environ.get("CHAT_LAYER", "core")],
        "CONFIG": {
            "hosts": [os.environ.get("CHAT_REDIS_URL", "redis://localhost:6379")],
            "prefix": "chat",
            "history": {
                # Of a room also who has joined and left is kept, so that a browser that was away
                # gets that, too.
                "room.*": {"size": 300, "ttl": 24 * 3600},
                "story.*": {"size": 1000, "ttl": 3600},
            },
            # A name is a person, in however many tabs.
            "presence": {"room.*": {"key": "name", "events": True, "grace_s": 3}},
            "on_reconnect": "layer.reconnected",
        },
    }
}

# What the page shows of the process that serves it, and where its siblings are.
CHAT_PROCESS = os.environ.get("CHAT_PROCESS", f"process-{os.getpid()}")
CHAT_SITES = dict(site.split("=", 1) for site in os.environ.get("CHAT_SITES", "").split())
