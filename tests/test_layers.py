"""``channels_redis.layers``: the layer of the settings, typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.conf import settings
from django.test.utils import override_settings

from channels_redis.core import RedisChannelLayer
from channels_redis.exceptions import ConfigurationError
from channels_redis.layers import get_layer
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.testing.recording import recording

ROOT = Path(__file__).parent.parent

LAYERS: dict[str, Any] = {
    "default": {"BACKEND": "channels_redis.core.RedisChannelLayer"},
    "news": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"},
    "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    "unreliable": {
        "BACKEND": "channels_redis.testing.resilience.UnreliableChannelLayer",
        "CONFIG": {"layer": {"BACKEND": "channels_redis.core.RedisChannelLayer"}},
    },
}

if not settings.configured:
    settings.configure()


@pytest.fixture(autouse=True)
def configured_layers() -> Any:
    with override_settings(CHANNEL_LAYERS=LAYERS):
        yield


def test_it_returns_the_layer_that_channels_has() -> None:
    """One object for both ways to ask."""
    assert isinstance(get_layer(), RedisChannelLayer)
    assert isinstance(get_layer("news"), RedisPubSubChannelLayer)
    assert get_layer() is get_channel_layer()
    assert get_layer("news") is get_channel_layer("news")


def test_it_returns_layers_that_wrap_one_of_ours() -> None:
    """Tests replace the layer, and the code under test goes on calling get_layer()."""
    assert get_layer("unreliable") is get_channel_layer("unreliable")
    with recording() as layer:
        assert get_layer() is layer


def test_an_alias_that_does_not_exist_is_refused_with_those_that_do() -> None:
    """A typo in the alias."""
    with pytest.raises(ConfigurationError, match=r"get_layer\('chat'\).*'default', 'news'"):
        get_layer("chat")
    with (
        override_settings(CHANNEL_LAYERS={}),
        pytest.raises(ConfigurationError, match="CHANNEL_LAYERS has no alias"),
    ):
        get_layer()


@pytest.mark.parametrize("is_recorded", [False, True])
def test_a_layer_of_another_package_is_refused(is_recorded: bool) -> None:
    """It has no ``sync``; wrapped, it still has none."""
    match = r"CHANNEL_LAYERS\['memory'\] is a .*, which is not a layer of channels_redis"
    if is_recorded:
        with recording("memory"), pytest.raises(ConfigurationError, match=match):
            get_layer("memory")
    else:
        with pytest.raises(ConfigurationError, match=match):
            get_layer("memory")


def test_settings_can_import_the_options_before_django_is_set_up() -> None:
    """Importing the module imports neither Django nor Channels nor redis."""
    code = (
        "import sys\n"
        "from channels_redis.layers import LayerOptions\n"
        "print(*{name.partition('.')[0] for name in sys.modules} & {'django', 'channels', 'redis'})"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert said.stdout.split() == []
