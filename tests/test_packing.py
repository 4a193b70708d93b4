"""How commands are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_redis._transport import packing
from channels_redis._transport.packing import pack

#: What arguments there are, and what of them arrives.
ARGUMENTS = st.one_of(
    st.binary().map(lambda value: (value, value)),
    st.text().map(lambda value: (value, value.encode())),
    st.integers().map(lambda value: (value, b"%d" % value)),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda v: (v, repr(v).encode())),
)


def parsed(command: bytes) -> list[bytes]:
    """Read an array of bulk strings, as the protocol defines it."""
    head, _, rest = command.partition(b"\r\n")
    assert head[:1] == b"*"
    found = []
    for _ in range(int(head[1:])):
        size, _, rest = rest.partition(b"\r\n")
        assert size[:1] == b"$"
        length = int(size[1:])
        found.append(rest[:length])
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
    assert rest == b""
    return found


@pytest.mark.parametrize("in_c", [True, False], ids=["hiredis", "Python"])
@given(st.lists(ARGUMENTS, min_size=1), st.sampled_from([0, 10, packing._LARGE_BYTES + 1]))
def test_a_command_is_written_as_the_protocol_says(
    in_c: bool, pairs: list[tuple[bytes | str | int | float, bytes]], large: int
) -> None:
    """Whoever packs it, and however large an argument is."""
    with pytest.MonkeyPatch.context() as patch:
        if not in_c:
            patch.setattr(packing, "_pack_in_c", None)
        message = b"x" * large
        written = pack(*[given_ for given_, _ in pairs], message)
    assert parsed(written) == [*[arrives for _, arrives in pairs], message]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_serializers_may_return_is_written_as_it_is(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Python packs."""
    monkeypatch.setattr(packing, "_pack_in_c", None)
    assert parsed(pack("PUBLISH", kind(b"\x00message"))) == [b"PUBLISH", b"\x00message"]
