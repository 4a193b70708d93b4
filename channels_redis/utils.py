"""Hosts and the ring: converts entries of ``hosts`` to redis-py connection pools, and names to
shards.
"""

from __future__ import annotations

from typing import Any

from ._config.hosts import describe_host, is_cluster, redact_hosts
from ._config.pools import close_client, close_pool, create_pool, decode_hosts
from ._format.keyspace import consistent_hash

__all__ = [
    "close_pool",
    "create_pool",
    "decode_hosts",
    "describe_host",
    "is_cluster",
    "redact_hosts",
]

# Names of earlier releases, for those who import them.
_consistent_hash = consistent_hash
_close_redis = close_client


def _wrap_close(loop: Any, target: Any) -> None:
    """Do nothing: earlier releases patched ``loop.close`` here. Kept for code that imports it."""
