"""The connections in memory offer what the real ones do, so that neither changes alone."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from channels_redis._transport.wire import Wire

from .wire import FakeWire
from .world import World

#: What only the real one has: how it is opened, and what redis-py tells it.
REAL_ALONE = {"open", "take_token"}


def _public(kind: Any) -> list[str]:
    return [name for name in vars(kind) if not name.startswith("_")]


def _parameters(method: Any) -> list[tuple[str, Any, Any]]:
    return [
        (one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()
    ]


@pytest.mark.parametrize("name", sorted(set(_public(Wire)) - REAL_ALONE))
def test_a_fake_wire_has_what_a_wire_has(name: str) -> None:
    """Each public attribute is there, and each method takes the same parameters."""
    with World() as world:
        fake = world.node().connect()
    real = getattr(Wire, name)
    if inspect.isfunction(real):
        assert _parameters(getattr(FakeWire, name)) == _parameters(real)
        assert inspect.iscoroutinefunction(getattr(FakeWire, name)) == inspect.iscoroutinefunction(
            real
        )
    else:
        assert hasattr(fake, name)
