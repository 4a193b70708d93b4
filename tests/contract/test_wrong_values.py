"""Values that can't work are refused when a layer is made, by the name of their option."""

from __future__ import annotations

from typing import Any

import pytest
from redis.credentials import CredentialProvider

from channels_redis.exceptions import ConfigurationError, InvalidName

MANY_DIGITS = "9" * 5000
RECURSIVE: list[Any] = []
RECURSIVE.append(RECURSIVE)
RECURSIVE_DICT: dict[str, Any] = {"host": "h"}
RECURSIVE_DICT["sentinel_kwargs"] = RECURSIVE_DICT


class NoTuple(CredentialProvider):
    """A provider that is one, whatever it gives."""

    def get_credentials(self) -> tuple[str]:
        return ("word",)


def shortly(one: Any) -> str:
    return "a large number" if isinstance(one, int) and one > 10**9 else repr(one)[:30]


OPTIONS: list[tuple[str, Any]] = [
    ("expiry", 10**400),
    ("group_expiry", 10**400),
    ("connect_wait_s", 10**400),
    ("prefix", "\ud800"),
    ("serializer_format", ["msgpack"]),
    ("serializer_format", {}),
    ("serializer_format", 5),
    ("symmetric_encryption_keys", ["\ud800 no key"]),
    ("hosts", RECURSIVE),
    ("hosts", [RECURSIVE_DICT]),
    ("hosts", [{1: 2}]),
    ("hosts", [("localhost", MANY_DIGITS)]),
    ("hosts", [f"redis://localhost:{MANY_DIGITS}"]),
    ("hosts", [f"redis://localhost/{MANY_DIGITS}"]),
]
KEYWORDS: list[tuple[str, Any]] = [
    ("port", MANY_DIGITS),
    ("db", MANY_DIGITS),
    ("db", 10**5000),
    ("db", -1),
    ("socket_timeout", "x"),
    ("socket_timeout", -1),
    ("socket_timeout", float("nan")),
    ("socket_timeout", 10**400),
    ("socket_connect_timeout", [1]),
    ("health_check_interval", "often"),
    ("socket_read_size", "much"),
    ("socket_read_size", 0),
    ("credential_provider", 5),
    ("credential_provider", NoTuple),
    ("encoding", "bogus"),
    ("encoding", 5),
    ("encoding_errors", "bogus"),
    ("password", ["x"]),
    ("password", "\ud800"),
    ("username", "\ud800"),
    ("client_name", "\ud800"),
    ("client_name", ["x"]),
    ("host", "\ud800"),
    ("host", "a\0b"),
    ("retry", 3),
    ("retry_on_error", 5),
    ("retry_on_error", ["x"]),
    ("protocol", [3]),
    ("redis_connect_func", 5),
    ("parser_class", 5),
    ("socket_keepalive_options", 5),
    ("sentinel_kwargs", {1: 2}),
    ("ssl_ciphers", "bogus"),
    ("ssl_ciphers", 5),
    ("ssl_min_version", "old"),
    ("ssl_ca_data", "no certificate"),
    ("ssl_ca_certs", "\ud800"),
    ("ssl_ca_certs", __file__),
    ("ssl_certfile", __file__),
    ("ssl_keyfile", __file__),
    ("ssl_cert_reqs", "sometimes"),
    ("ssl_cert_reqs", 17),
    ("ssl_check_hostname", "perhaps"),
]


@pytest.mark.parametrize(("option", "value"), OPTIONS, ids=shortly)
def test_an_option_that_cannot_work_is_refused_by_name(
    layer_class: Any, option: str, value: Any
) -> None:
    """As ``ConfigurationError``, when the layer is made."""
    with pytest.raises(ConfigurationError, match=option.removeprefix("serializer_")):
        layer_class(**{option: value})


@pytest.mark.parametrize(("keyword", "value"), KEYWORDS, ids=shortly)
def test_a_keyword_of_a_host_that_cannot_work_is_refused_by_place(
    layer_class: Any, keyword: str, value: Any
) -> None:
    """Also where it would only fail once connecting; with no trace of the value."""
    host = {"host": "localhost", keyword: value}
    if keyword.startswith("ssl_"):
        host["ssl"] = True
    if keyword == "sentinel_kwargs":
        host = {"sentinels": [("localhost", 1)], "master_name": "main", keyword: value}
    with pytest.raises(ConfigurationError, match=r"hosts\[0\]") as raised:
        layer_class(hosts=[host])
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None or raised.value.__suppress_context__


@pytest.mark.parametrize(
    "keyword", ["socket_timeout", "password", "encoding", "credential_provider"]
)
def test_keywords_of_sentinels_are_looked_at_too(layer_class: Any, keyword: str) -> None:
    """They would fail at the first connection to a Sentinel."""
    wrong = {name: value for name, value in reversed(KEYWORDS) if name == keyword}
    entry = {"sentinels": [("localhost", 1)], "master_name": "main", "sentinel_kwargs": wrong}
    with pytest.raises(ConfigurationError, match="sentinel_kwargs"):
        layer_class(hosts=[entry])


@pytest.mark.parametrize("name", [[], {}, None, 5, b"bytes", ""])
async def test_receiving_on_what_is_no_name_is_an_invalid_name(
    make_layer: Any, kind: str, name: Any
) -> None:
    """Whatever its type."""
    with pytest.raises(InvalidName):
        await make_layer(kind).receive(name)
