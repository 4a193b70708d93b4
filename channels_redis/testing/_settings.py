"""``CHANNEL_LAYERS`` of a project, moved to the server of its tests.

Django and Channels are imported in functions, as pytest loads its plugins before Django is set up.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def layers_on(url: str) -> Iterator[dict[str, Any]]:
    """Give each layer of this package the server as its only host, and a prefix of its own.

    The other options stay, and so do layers of other packages.  At the end what was made is closed,
    and its keys are deleted.  The value is the changed setting.
    """
    from django.conf import settings
    from django.test.utils import override_settings

    mine = f"test-{secrets.token_hex(6)}-"
    layers = {
        alias: _redirected(alias, entry, url, mine)
        for alias, entry in settings.CHANNEL_LAYERS.items()
    }
    with override_settings(CHANNEL_LAYERS=layers):
        yield layers
        _clean_up(layers)


def _redirected(alias: str, entry: dict[str, Any], url: str, mine: str) -> dict[str, Any]:
    if not _is_ours(entry):
        return entry
    config = dict(entry.get("CONFIG", {}))
    if "layer" in config:  # One that is wrapped, as UnreliableChannelLayer does.
        config["layer"] = _redirected(alias, config["layer"], url, mine)
    else:
        config.update(hosts=[url], prefix=f"{mine}{alias}:")
    return {**entry, "CONFIG": config}


def _is_ours(entry: dict[str, Any]) -> bool:
    backend: str = entry["BACKEND"]
    return backend.startswith("channels_redis.")


def _clean_up(layers: dict[str, Any]) -> None:
    from channels.layers import channel_layers

    for alias in filter(lambda alias: _is_ours(layers[alias]), layers):
        layer: Any = channel_layers.backends.get(alias)
        if layer is not None and hasattr(layer, "sync"):
            layer.sync.flush()
            layer.sync.close()
