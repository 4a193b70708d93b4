"""For ``INSTALLED_APPS``: system checks and the command ``channel_layer``.  The layers work
without it.
"""

from __future__ import annotations

from django.apps import AppConfig


class ChannelsRedisConfig(AppConfig):  # type: ignore[misc]  # Django has no annotations
    """Registers the system checks."""

    name = "channels_redis"
    verbose_name = "Channel layers on Redis"

    def ready(self) -> None:
        """Register the checks."""
        from .checks import register  # imports the layers, which don't need the app registry

        register()
