"""The typing test, which only type checkers read, is about the whole public interface."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from channels_redis import events, exceptions, layers, serializers, stats, sync, tracing
from channels_redis._layer.base import BaseRedisLayer
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.testing import recording, resilience, servers

TREE = ast.parse((Path(__file__).parent / "typing_api.py").read_text())
MODULES = [events, exceptions, layers, serializers, servers, stats, tracing]
CLASSES = [
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    sync.SyncFace,
    stats.LayerStats,
    stats.NodeStats,
    events.Operation,
    recording.RecordingChannelLayer,
    recording.Sent,
    resilience.UnreliableChannelLayer,
    servers.RedisServer,
    servers.SentinelSet,
]
# A placeholder that nobody makes.
UNTYPED = {"MissingSerializer"}


def used() -> set[str]:
    """Every name that the typing test uses, however it does."""
    names = set()
    for node in ast.walk(TREE):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.keyword(arg=str(name)):
                names.add(name)
    return names


def own_names(module: ModuleType) -> list[str]:
    classes = (name for name, value in vars(module).items() if inspect.isclass(value))
    found = (name for name in classes if getattr(module, name).__module__ == module.__name__)
    return list(getattr(module, "__all__", found))


def members(owner: type) -> Iterator[str]:
    for one in owner.__mro__:
        if one.__module__.startswith("channels_redis."):
            yield from vars(one)
            yield from getattr(one, "__annotations__", {})


def options_of(layer: type) -> set[str]:
    parameters = inspect.signature(layer).parameters.values()
    return {one.name for one in parameters if one.kind is not one.VAR_KEYWORD}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_typing_test_uses_every_name_of_a_module(module: ModuleType) -> None:
    """What a module offers is typed as we promise."""
    assert {name for name in own_names(module) if name[0] != "_"} - used() - UNTYPED == set()


@pytest.mark.parametrize("owner", CLASSES, ids=lambda owner: owner.__name__)
def test_the_typing_test_uses_every_member_of_a_class(owner: type) -> None:
    """So is every method and attribute, those of base classes included."""
    assert {name for name in members(owner) if name[0] != "_"} - used() == set()


def test_the_typing_test_uses_every_option() -> None:
    """Each option takes what the reference says."""
    assert options_of(BaseRedisLayer) - used() == set()


@pytest.mark.parametrize("layer", [RedisChannelLayer, RedisPubSubChannelLayer])
def test_the_options_in_settings_are_those_of_the_constructors(layer: type) -> None:
    """A typo in settings is found, and what is right is not called wrong."""
    assert layers.LayerOptions.__optional_keys__ == options_of(layer)
    assert layers.LayerOptions.__required_keys__ == frozenset()
