"""Layers for code that has no event loop: opened by nobody, and closed after the test."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.helpers import script_arguments_for


@pytest.fixture
def build(make_layer_blocking: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """A function ``(**options)`` that makes a layer of the test's kind."""
    return partial(make_layer_blocking, kind)


@pytest.fixture
def layer(build: Callable[..., Any]) -> Any:
    """One layer with default options."""
    return build()


@pytest.fixture
def script_arguments(layer_class: type[Any], redis_url: str, prefix: str) -> tuple[str, str]:
    """The dotted path and the JSON options with which a script makes the test's layer."""
    return script_arguments_for(layer_class, [redis_url], prefix)
