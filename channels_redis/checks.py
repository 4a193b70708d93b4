"""Django's system checks of ``CHANNEL_LAYERS``; ``docs/operations.rst`` lists their ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core import checks

from .doctor.config import Setup, examine, examine_for_deployment, read_settings
from .doctor.findings import Finding, Level

#: The tag of the checks, for ``manage.py check --tag``.
TAG = "channels_redis"

_MESSAGES = {Level.ERROR: checks.Error, Level.WARNING: checks.Warning}


def check_settings(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Find errors and probable mistakes in the settings."""
    return _messages(examine)


def check_deployment(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Find settings that are insecure in production."""
    return _messages(examine_for_deployment)


def register() -> None:
    """Register the checks with Django."""
    checks.register(check_settings, TAG)
    checks.register(check_deployment, TAG, checks.Tags.security, deploy=True)


def _messages(look: Callable[[list[Setup]], list[Finding]]) -> list[checks.CheckMessage]:
    setups = read_settings(getattr(settings, "CHANNEL_LAYERS", None) or {})
    return [
        _MESSAGES[finding.level](
            finding.text,
            hint=finding.advice or None,
            obj=f"CHANNEL_LAYERS[{finding.where!r}]",
            id=f"channels_redis.{finding.id}",
        )
        for finding in look(setups)
    ]
