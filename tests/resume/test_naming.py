"""What a client can name, and that it can name nothing that harms."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_redis._format.positions import PositionText
from channels_redis._resume.naming import (
    MAX_FORMERLY,
    MAX_GROUPS,
    MAX_POSITION,
    NOTHING,
    UNREAD,
    Named,
    named_in_frame,
    named_in_query,
    positioned,
)


def test_positions_and_former_channels_are_named_in_the_address() -> None:
    """Each in a field of its own, which may be repeated."""
    query = b"resume=a.1:p-1&x=y&resume=b:&formerly=c!d&formerly=specific.e"
    assert named_in_query(query) == Named({"a.1": "p-1", "b": ""}, ["c!d", "specific.e"])
    assert named_in_query(b"x=y") == NOTHING


def test_the_same_is_named_in_a_frame() -> None:
    """In one that the application never sees; all others are its own."""
    frame = '{"__resume__": ["a.1:p"], "formerly": ["c!d"]}'
    assert named_in_frame(frame) == Named({"a.1": "p"}, ["c!d"])
    for other in [None, "", "{}", '{"text": "__resume__"}', '["__resume__"]', '{"__resume__"']:
        assert named_in_frame(other) is None


@pytest.mark.parametrize("places", [None, 7, "a:b", {"a": "b"}, [7, None, [], "nocolon", "a b:c"]])
def test_what_is_malformed_is_ignored(places: Any) -> None:
    """It raises nothing, and names nothing."""
    frame = json.dumps({"__resume__": places, "formerly": places})
    named = named_in_frame(frame)
    assert named is not None
    assert named.positions == {}


def test_a_client_can_not_name_more_than_a_few() -> None:
    """The newest are those that count."""
    frame = {
        "__resume__": [f"g{n}:p" for n in range(1000)],
        "formerly": [f"c{n}" for n in range(1000)],
    }
    named = named_in_frame(json.dumps(frame))
    assert named is not None
    assert len(named.positions) == MAX_GROUPS
    assert named.formerly[-1] == "c999"
    assert len(named.formerly) == MAX_FORMERLY
    assert named.is_cut
    assert named_in_query(b"resume=a:b&" * 1000) == Named({"a": "b"}, [], is_cut=True)


def test_a_group_whose_position_was_not_read_is_not_one_without_a_position() -> None:
    """Its client must not be told that it has missed nothing."""
    few, many = (named_in_query(b"resume=a:b&" * count) for count in (MAX_GROUPS, MAX_GROUPS + 1))
    assert (few.position("a"), few.position("c")) == ("b", "")
    assert (many.position("a"), many.position("c")) == ("b", UNREAD)


def test_other_fields_of_an_address_do_not_matter() -> None:
    """Neither how many there are, nor what is in them."""
    query = b"x=\xff&y=1&" * 1000 + b"resume=a%2E1:p%2D1" + b"&resumed=c:d" * 1000
    assert named_in_query(query) == Named({"a.1": "p-1"}, [])


@pytest.mark.parametrize("position", ["x" * 1000, "a b", "a\nb", "\N{SNOWMAN}"])
def test_a_malformed_position_is_a_position(position: str) -> None:
    """Of a client that has missed something, and not of one that has seen nothing."""
    named = named_in_frame(json.dumps({"__resume__": [f"a:{position}"]}))
    assert named is not None
    assert named.positions == {"a": position[:MAX_POSITION]}


def test_a_connection_can_not_name_more_than_a_frame() -> None:
    """What was named first counts."""
    first = Named({f"g{n}": "p" for n in range(60)}, ["a"])
    both = first.followed_by(Named({f"g{n}": "q" for n in range(50, 100)}, ["b"]))
    assert both.positions == {f"g{n}": "p" if n < 60 else "q" for n in range(MAX_GROUPS)}
    assert (both.formerly, both.is_cut) == (["a", "b"], False)
    assert both.followed_by(Named({"g7": "q"}, [])) == both
    more = both.followed_by(Named({"more": "q"}, []))
    assert (more.positions, more.is_cut) == (both.positions, True)


@given(st.binary(max_size=200))
def test_no_address_raises(query: bytes) -> None:
    """Whatever is in it."""
    named_in_query(b"resume=" + query)


@given(st.text(max_size=200))
def test_no_frame_raises(text: str) -> None:
    """Whatever is in it."""
    named_in_frame('{"__resume__": ' + text)


@pytest.mark.parametrize("content", ["text", b"bytes", None, 7, ["list"]])
def test_only_a_dict_has_room_for_a_position(content: Any) -> None:
    """All else is sent as it is."""
    message = {"__position__": PositionText.of("g", "p")}
    assert positioned(content, message) is content
    assert positioned({"a": 1}, message) == {"a": 1, "__position__": "g:p"}
    assert positioned({**message, "a": 1}, message) == {"a": 1, "__position__": "g:p"}
    assert positioned({"a": 1}, {}) == {"a": 1}
