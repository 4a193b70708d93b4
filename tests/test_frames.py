"""Encoded messages whose keys are added and taken off as bytes."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

from channels_redis._format import frames

ADDRESS = "__asgi_channel__"
FORMATS = {
    "msgpack": (frames.MSGPACK, msgpack.packb, msgpack.unpackb),
    "json": (frames.JSON, lambda value: json.dumps(value).encode(), json.loads),
}
MESSAGES: list[dict[str, Any]] = [
    {},
    {"type": "chat"},
    {"type": "chat", "parts": [{}, [], {"deep": [1.5, None, True]}]},
    {"type": "chat", "text": f'}}, "{ADDRESS}": ["x"]}}', "é✓": "é✓"},
    {ADDRESS + "x": "y", "x": ADDRESS},
    *({str(number): number for number in range(count)} for count in (14, 15, 16, 65_535, 65_536)),
]
OWN: list[dict[str, Any]] = [
    {ADDRESS: "specific.a!b"},
    {ADDRESS: ["specific.a!b", "specific.a!c"]},
    {ADDRESS: [f"specific.a!{number}" for number in range(300)], "__asgi_nonce__": "0" * 32},
]


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> Any:
    """A format with its encoder and decoder."""
    return FORMATS[request.param]


@pytest.mark.parametrize("own", OWN, ids=lambda own: f"{len(own)}-{len(own[ADDRESS])}")
@pytest.mark.parametrize("message", MESSAGES, ids=len)
def test_added_keys_give_the_bytes_of_encoding_all_at_once(
    form: Any, message: dict[str, Any], own: dict[str, Any]
) -> None:
    """Receivers of all releases read the same bytes as before."""
    edit, encode, _ = form
    assert edit.extended(encode(message), own) == encode({**message, **own})


@pytest.mark.parametrize("message", MESSAGES, ids=len)
def test_a_frame_is_divided_into_the_message_and_its_addresses(
    form: Any, message: dict[str, Any]
) -> None:
    """Byte for byte what was encoded."""
    edit, encode, decode = form
    names = ["specific.a!b", "specific.a!c"]
    body, addresses = edit.divided(encode({**message, ADDRESS: names}))
    assert body == encode(message)
    assert decode(addresses) == names


@pytest.mark.parametrize("frame", [b"", b"\xde", b"\xdf\x00", b"\x80", b"{}", b"[1]", b"\xb0" * 40])
def test_what_has_no_addresses_is_not_divided(form: Any, frame: bytes) -> None:
    """Whatever was received."""
    assert form[0].divided(frame) is None


def test_where_something_follows_the_addresses_a_part_cannot_be_decoded(form: Any) -> None:
    """So that who divides a frame notices, and decodes the whole."""
    edit, encode, decode = form
    _, addresses = edit.divided(encode({"a": 1, ADDRESS: ["x!"], "b": 2}))
    with pytest.raises(ValueError, match=r"xtra"):
        decode(addresses)
