"""Layers for tests that run no event loop of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import class_of


@pytest.fixture
def make_layer_blocking(redis_url: str, prefix: str) -> Iterator[Callable[..., Any]]:
    """As ``make_layer``, for code without an event loop."""
    layers = []

    def make(kind: str, **options: Any) -> Any:
        layer = class_of(kind)(**{"hosts": [redis_url], "prefix": prefix, **options})
        layers.append(layer)
        return layer

    yield make
    for layer in layers:
        layer.sync.close()
