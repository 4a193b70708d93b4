"""Slots as servers compute them, and addresses as servers name them."""

from __future__ import annotations

from typing import Any

import pytest

from channels_redis._format.slots import SLOTS, named_address, owners_of, read_ranges, slot_of

ASKED = ("asked.example.com", 7000)


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("foo", 12182),
        (b"foo", 12182),
        ("{foo}bar", 12182),
        ("bar{foo}{zap}", 12182),
        ("foo{}", 5542),
        ("123456789", 12739),
    ],
)
def test_a_name_has_the_slot_of_its_first_braces(name: str | bytes, slot: int) -> None:
    """As ``CLUSTER KEYSLOT`` says; the last is the example of the specification."""
    assert slot_of(name) == slot


@pytest.mark.parametrize(
    ("host", "address"),
    [
        (b"10.0.0.1", ("10.0.0.1", 1)),
        (b"node.example.com", ("node.example.com", 1)),
        (b"::1", ("::1", 1)),
        (b"", (ASKED[0], 1)),
        (None, (ASKED[0], 1)),
        (b"?", None),
    ],
)
def test_an_address_is_what_the_server_says_or_where_it_was_asked(host: Any, address: Any) -> None:
    """IPv4, IPv6 and host names; nothing stands for the one that was asked, "?" for nothing."""
    assert named_address(host, 1, ASKED, None) == address


def test_addresses_are_translated() -> None:
    """The user's function has the last word, on what was left out too."""
    remap = lambda address: (f"nat.{address[0]}", address[1] + 1)  # noqa: E731 (stands for a user's)
    assert named_address(b"", 1, ASKED, remap) == ("nat.asked.example.com", 2)
    assert named_address(b"?", 1, ASKED, remap) is None


def test_owners_are_read_from_old_and_new_replies() -> None:
    """Each slot has its primary; slots that nobody serves have none; an IP address stands in for
    a host name that a server has not yet.
    """
    reply = [
        [0, 5, [b"a", 1], [b"replica", 9]],
        [7, 8, [b"b", 2, b"id", [b"hostname", b"b.example.com"]]],
        [9, 9, [b"?", 3, b"id", [b"ip", b"10.0.0.3"]]],
        [10, 10, [b"?", 4, b"id", []]],
    ]
    owners = owners_of(read_ranges(reply, ASKED, None))
    assert len(owners) == SLOTS
    assert owners[:6] == [("a", 1)] * 6
    assert owners[6:12] == [None, ("b", 2), ("b", 2), ("10.0.0.3", 3), None, None]
