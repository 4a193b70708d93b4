"""What a process of 4.3.0 reads and writes, with nothing but redis-py, msgpack, cryptography."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import Any

import msgpack
from cryptography.fernet import Fernet

from channels_redis.utils import _consistent_hash


def fernet(key: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()))


def member(message: Any) -> bytes:
    """A queue member as an old process writes it."""
    return os.urandom(12) + bytes(msgpack.packb(message))


def message_of(data: bytes) -> Any:
    """What an old process makes of a queue member."""
    return msgpack.unpackb(data[12:], raw=False)


def queue_of(channel: str) -> str:
    return channel.partition("!")[0] + "!"


def shard_of(shards: list[Any], name: str) -> Any:
    """The shard on which the ring of an old process puts a name."""
    return shards[_consistent_hash(name, len(shards))]
