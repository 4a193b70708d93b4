"""Typed access to the layers for type checkers: :func:`get_layer` for code, and
:class:`LayerOptions` for settings.

Settings files import this module, so it does not import Django, Channels or redis before
:func:`get_layer` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from .core import RedisChannelLayer
    from .pubsub import RedisPubSubChannelLayer

    #: What :func:`get_layer` returns.
    ChannelLayer: TypeAlias = RedisChannelLayer | RedisPubSubChannelLayer

__all__ = ["HistoryOptions", "LayerOptions", "get_layer"]

# Any for the entries, as type checkers do not infer a list of several kinds. No Sequence, as a
# string is one, and ``"hosts": "redis://localhost:6379"`` is a common mistake.
Hosts: TypeAlias = list[Any] | tuple[Any, ...]


class HistoryOptions(TypedDict, total=False):
    """What is kept of the groups of one pattern in the option ``history``."""

    #: Messages, about.
    size: int
    #: Seconds after the last message.
    ttl: float


class PresenceRule(TypedDict, total=False):
    """What the option ``presence`` says about the groups of a pattern."""

    key: str | None
    grace_s: float
    events: bool
    max_bytes: int


class LayerOptions(TypedDict, total=False):
    """The options in ``CONFIG``, which are the same for both layers. :doc:`configuration`
    describes each of them.
    """

    hosts: Hosts | None
    prefix: str
    expiry: float
    group_expiry: float
    capacity: int
    channel_capacity: Mapping[Any, int] | None
    symmetric_encryption_keys: Collection[str | bytes] | None
    random_prefix_length: int
    serializer_format: str
    on_disconnect: str | None
    on_reconnect: str | None
    max_message_bytes: int
    max_buffered_bytes: int
    max_queued_bytes: int
    connect_wait_s: float
    command_timeout_s: float
    serializer_default: bool | str | Callable[[Any], Any] | None
    encryption_binding: Literal["off", "write", "require"]
    presence: Mapping[Any, PresenceRule] | None
    history: Mapping[Any, HistoryOptions] | None
    max_catch_up: int


def get_layer(alias: str = "default") -> ChannelLayer:
    """Return the layer of this package with this alias in ``CHANNEL_LAYERS``.

    It is the same object that ``channels.layers.get_channel_layer(alias)`` returns, with type hints
    for ``layer.sync``, ``group_send(exclude=...)`` and all other methods. A layer that wraps one of
    this package, such as those of ``channels_redis.testing``, is returned unchanged.

    Raises :class:`ConfigurationError` if ``CHANNEL_LAYERS`` has no such alias, or a layer of
    another package.
    """
    from channels.layers import channel_layers

    from .exceptions import ConfigurationError

    if alias not in channel_layers and alias not in channel_layers.backends:
        known = ", ".join(repr(name) for name in channel_layers.configs) or "no alias"
        raise ConfigurationError(
            f"get_layer({alias!r}): CHANNEL_LAYERS has {known}, and not {alias!r}."
        )
    layer: Any = channel_layers[alias]
    # Layers of channels_redis.testing wrap one of ours, and pass on what they don't define.
    if not hasattr(layer, "sync"):
        kind = type(layer)
        raise ConfigurationError(
            f"get_layer({alias!r}): CHANNEL_LAYERS[{alias!r}] is a "
            f"{kind.__module__}.{kind.__qualname__}, which is not a layer of channels_redis. "
            "Use channels.layers.get_channel_layer() for it."
        )
    found: ChannelLayer = layer
    return found
