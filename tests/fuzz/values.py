"""Hostile values, names, options and frames, drawn from a seeded generator."""

from __future__ import annotations

import decimal
import json
import math
import random
import secrets
from collections.abc import Callable
from typing import Any

import msgpack


class Odd:
    """An object that no format carries."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class OddStr(str):
    """A str that lies about itself."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


def deep(levels: int, *, dicts: bool = False) -> Any:
    """Return a value in so many lists or dicts."""
    value: Any = 1
    for _ in range(levels):
        value = {"x": value} if dicts else [value]
    return value


def endless() -> Any:
    """Return a list that contains itself."""
    value: list[Any] = []
    value.append(value)
    return value


TEXTS = [
    "", " ", "a", "a\n", "\x00", "a\x00b", "ü", "٣", "☃", "\ud800", "𝒳", "a!b", "a!b!c", "!",
    "*", "[",
    "%s", "{}", "{0.__class__}", "../..", "asgi", "asgi:group:x", "__group__x",
    "__asgi_channel__",
    "x" * 99, "x" * 100, "x" * 100_000, "\r\nDEL x\r\n", "$5\r\n", "-1", "nan", "1e400",
    OddStr("z"),
]  # fmt: skip
NUMBERS = [
    0, 1, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.0, -0.0, 0.5, 1e308, math.inf,
    -math.inf,
    math.nan, True, False, decimal.Decimal("NaN"), decimal.Decimal(1), 1j,
]  # fmt: skip
OBJECTS: list[Callable[[], Any]] = [
    Odd, object, lambda: None, lambda: ..., list, dict, set, tuple, bytearray,
    lambda: b"\xff\x00",
    lambda: b"a", lambda: memoryview(b"x"), lambda: {1: 2}, lambda: {None: 1},
    lambda: {b"k": b"v"},
    lambda: {"": ""}, lambda: {"type": "x", "n": float("nan")}, lambda: {"type": Odd()},
    lambda: {"__asgi_channel__": "x"}, lambda: {"__asgi_nonce__": 1},
    lambda: {"__asgi_exclude__": []},
    endless, lambda: {"x": endless()}, lambda: deep(300), lambda: deep(5000),
    lambda: {"x": deep(600, dicts=True)}, lambda: {"x": "\ud800"}, lambda: {"\ud800": 1},
    lambda: {"x": "y" * 5_000_000}, lambda: {"x": [[] for _ in range(150_000)]}, lambda: type,
    lambda: (value for value in "ab"), lambda: lambda: 1, lambda: OddStr("q"),
    lambda: {OddStr("q"): 1},
    lambda: ["a", "b"], lambda: [Odd()], lambda: {"x": {1, 2}}, lambda: Exception("x"),
]  # fmt: skip


def value(dice: random.Random) -> Any:
    """Return a hostile value of any type."""
    kind = dice.randrange(4)
    if kind == 0:
        return dice.choice(TEXTS)
    if kind == 1:
        return dice.choice(NUMBERS)
    if kind == 2:
        return dice.choice(OBJECTS)()
    return {dice.choice(TEXTS): value(dice) for _ in range(dice.randrange(3))}


def name(dice: random.Random, prefix: str) -> Any:
    """Return what may be given as the name of a channel or a group."""
    kind = dice.randrange(4)
    if kind == 0:
        return value(dice)
    middle = dice.choice(TEXTS)
    digits = dice.choice(["0" * 32, "f" * 32, "F" * 32, "", "0" * 31, "٣" * 32])
    if kind == 1:
        return prefix + middle + digits
    if kind == 2:
        return f"{middle}.{digits}!{dice.choice(TEXTS)}"
    return f"{dice.choice(['a', 'b-', 'c.'])}{dice.randrange(20)}"


def frame(dice: random.Random, channel: str) -> bytes:
    """Return bytes that a reader of a channel may find on the wire."""
    kind = dice.randrange(8)
    if kind == 0:
        return dice.randbytes(dice.choice([0, 1, 11, 12, 13, 40, 300]))
    message = {"type": "x", "n": dice.randrange(100)}
    addresses: Any = dice.choice([channel, [channel], [channel] * 50, [], 5, None, {channel: 1}])
    payload = msgpack.packb({**message, "__asgi_channel__": addresses})
    if kind == 1:
        payload = payload[: dice.randrange(len(payload))]
    elif kind == 2:
        spot = dice.randrange(len(payload))
        payload = payload[:spot] + dice.randbytes(1) + payload[spot + 1 :]
    elif kind == 3:
        payload = json.dumps(dice.choice([1, [], {}, "x", message, deep(200)])).encode()
    elif kind == 4:
        payload = dice.choice(BOMBS)
    elif kind == 5:
        own = channel.partition("!")[0]
        names = [f"{own}!{number}" for number in range(dice.randrange(300))]
        payload = msgpack.packb({**message, "__asgi_channel__": names, "__asgi_exclude__": names})
    elif kind == 6:
        odd: Any = dice.choice([5, None, [5], [None], {"a": 1}, [[]], "x", [channel], b"x"])
        payload = msgpack.packb({**message, "__asgi_channel__": channel, "__asgi_exclude__": odd})
    return dice.choice([b"", secrets.token_bytes(12)]) + payload


BOMBS = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 5000,
    b"\x81\xa1x" * 5000,
    b"\xdd\x00\x03\x00\x00" + b"\x90" * 0x30000,
    b"\xd6\xff\x00\x00\x00\x00" * 100,
    b"\xc7\x0c\xff" + b"\xff" * 12,
    b"[" * 50_000,
    b'{"a":' * 50_000,
    b"9" * 50_000,
    b"\xc1",
]
