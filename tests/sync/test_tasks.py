"""``examples/tasks``: django.tasks of Django 6.0 and newer."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.test.utils import override_settings

from tests.sync.test_on_commit import database_for_transactions

pytest.importorskip("django.tasks", reason="Django before 6.0 has no tasks")

EXAMPLE = Path(__file__).parents[2] / "examples" / "tasks" / "thumbnails.py"

if not settings.configured:
    settings.configure()


class Image:
    """In place of a model."""

    pk = 7

    def save(self) -> None:
        """Be in no database."""


async def test_a_task_tells_the_browser_of_its_user(layer: Any, kind: str, redis_url: str) -> None:
    """From the view through the task and the layer to the WebSocket."""
    backend = f"{type(layer).__module__}.{type(layer).__name__}"
    layers = {"default": {"BACKEND": backend, "CONFIG": {"hosts": [redis_url]}}}
    tasks = {"default": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}}

    def upload(example: dict[str, Any]) -> None:
        with database_for_transactions("default"):
            example["upload"](Image(), 3)

    with override_settings(CHANNEL_LAYERS=layers, TASKS=tasks):
        example = runpy.run_path(str(EXAMPLE))
        client = WebsocketCommunicator(example["ThumbnailConsumer"].as_asgi(), "/")
        client.scope["user"] = SimpleNamespace(pk=3)
        assert (await client.connect(timeout=10))[0]
        await sync_to_async(upload)(example)
        assert await client.receive_json_from(timeout=10) == {"image": 7}
        await client.disconnect(timeout=10)
