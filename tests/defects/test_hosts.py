"""Every documented way to name a server leads there, and no password leads out."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio

from channels_redis.testing.servers import RedisServer
from tests.conftest import class_of
from tests.helpers import numbered, receive, waiting

SECRET = "s3cret-Pass-w0rd"


async def assert_works(make_layer: Callable[..., Any], kind: str, host: Any) -> None:
    given = repr(host)
    layer, sender = (make_layer(kind, hosts=[host]) for _ in range(2))
    channel = await layer.new_channel()
    wait = waiting(layer, channel)
    await sender.send(channel, numbered(1))
    await sender.send("work", numbered(2))
    assert await asyncio.wait_for(wait, 10) == numbered(1)
    assert await receive(layer, "work") == numbered(2)
    assert repr(host) == given, "the user's own dict is not changed"


TLS_FORMS: dict[str, Callable[[RedisServer], Any]] = {
    "keywords": lambda s: {
        "host": s.host,
        "port": s.tls_port,
        "ssl": True,
        "ssl_ca_certs": certificate(s),
    },
    "ssl_* alone": lambda s: {"host": s.host, "port": s.tls_port, "ssl_ca_certs": certificate(s)},
    "not verified": lambda s: {
        "host": s.host,
        "port": s.tls_port,
        "ssl": True,
        "ssl_cert_reqs": None,
    },
    "address": lambda s: {"address": s.tls_url, "ssl_cert_reqs": None},
    "address and authority": lambda s: {"address": s.tls_url, "ssl_ca_certs": certificate(s)},
    "pair and ssl": lambda s: {
        "address": (s.host, s.tls_port),
        "ssl": True,
        "ssl_cert_reqs": "none",
    },
}


def certificate(server: RedisServer) -> str:
    assert server.certificate is not None
    return server.certificate.path


@pytest.mark.parametrize("form", TLS_FORMS)
async def test_tls_options_in_a_dict_give_a_tls_connection(
    make_layer: Callable[..., Any], kind: str, tls_server: RedisServer, form: str
) -> None:
    """``ssl=True`` or any ``ssl_*`` keyword is enough (371, 235, 331, 334)."""
    await assert_works(make_layer, kind, TLS_FORMS[form](tls_server))


UNIX_FORMS: dict[str, Callable[[RedisServer], Any]] = {
    "url": lambda s: s.unix_url,
    "address": lambda s: {"address": s.unix_url, "db": 1},
    "path": lambda s: {"path": s.unix_path, "db": 1},
    "unix_socket_path": lambda s: {"unix_socket_path": s.unix_path},
}


@pytest.mark.parametrize("form", UNIX_FORMS)
async def test_unix_options_in_a_dict_give_a_unix_connection(
    make_layer: Callable[..., Any], kind: str, unix_server: RedisServer, form: str
) -> None:
    """``path`` and ``unix_socket_path`` work as the URL does (371, 235, 331, 334)."""
    await assert_works(make_layer, kind, UNIX_FORMS[form](unix_server))


@pytest.mark.parametrize(
    "host",
    [
        "redis://localhost:6379/0?decode_responses=True",
        {"address": "redis://localhost:6379/0?decode_responses=true"},
        {"address": "redis://localhost:6379", "decode_responses": True},
        {"host": "localhost", "decode_responses": True},
        {"sentinels": [("localhost", 26379)], "master_name": "main", "decode_responses": True},
    ],
)
def test_decode_responses_is_refused_at_construction(kind: str, host: Any) -> None:
    """The layers need bytes; the error names the option (222)."""
    with pytest.raises(ValueError, match="decode_responses"):
        class_of(kind)(hosts=[host])


SECRET_HOSTS: dict[str, Any] = {
    "url": f"redis://user:{SECRET}@localhost:1",
    "url without user": f"redis://:{SECRET}@localhost:1",
    "url query": f"redis://localhost:1?password={SECRET}",
    "dict": {"host": "localhost", "port": 1, "password": SECRET},
    "address": {"address": f"redis://:{SECRET}@localhost:1"},
    "sentinel": {
        "sentinels": [("localhost", 1)],
        "master_name": "main",
        "password": SECRET,
        "sentinel_kwargs": {"password": SECRET},
    },
}
if "ssl_password" in inspect.signature(redis.asyncio.SSLConnection).parameters:
    # Not in redis-py 5.
    SECRET_HOSTS["tls key"] = {
        "host": "localhost",
        "port": 1,
        "ssl": True,
        "ssl_password": SECRET,
    }


@pytest.mark.parametrize("form", SECRET_HOSTS)
async def test_no_password_shows_in_the_text_of_a_layer(
    make_layer: Callable[..., Any], kind: str, form: str
) -> None:
    """``str(layer)`` and ``repr(layer)`` are redacted; they name the server all the same."""
    layer = make_layer(kind, hosts=[SECRET_HOSTS[form]], symmetric_encryption_keys=[SECRET])
    for text in (str(layer), repr(layer), f"{layer}", repr([layer])):
        assert SECRET not in text
        assert "localhost" in text


@pytest.mark.parametrize("form", SECRET_HOSTS)
async def test_no_password_shows_in_errors_and_logs(
    make_layer: Callable[..., Any], kind: str, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An unreachable server is named without what opens it."""
    layer = make_layer(kind, hosts=[SECRET_HOSTS[form]], connect_wait_s=0.1)
    with caplog.at_level(logging.DEBUG), pytest.raises(Exception) as refusal:
        await layer.send("work", numbered(1))
    assert SECRET not in chain_text(refusal.value)
    assert SECRET not in caplog.text


async def test_a_refused_password_shows_in_no_error_and_no_log(
    make_layer: Callable[..., Any], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The server says no: the error says to which server, and not to what."""
    with RedisServer(config={"requirepass": "another"}) as server:
        url = f"redis://:{SECRET}@{server.host}:{server.port}"
        layer = make_layer(kind, hosts=[url])
        with caplog.at_level(logging.DEBUG), pytest.raises(ValueError) as refusal:
            await layer.send("work", numbered(1))
        await layer.close()
    assert str(server.port) in str(refusal.value) or server.host in str(refusal.value)
    assert SECRET not in chain_text(refusal.value)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "bad",
    [
        {"address": f"http://:{SECRET}@localhost"},
        {"host": "localhost", "password": SECRET, "no_such_option": 1},
        f"nonsense://:{SECRET}@localhost",
        f"redis://:{SECRET}@localhost:notaport",
    ],
)
def test_a_refused_host_entry_shows_no_password(kind: str, bad: Any) -> None:
    """Errors at construction quote no secrets."""
    with pytest.raises(ValueError) as refusal:
        class_of(kind)(hosts=[bad])
    assert SECRET not in chain_text(refusal.value)


def chain_text(error: BaseException | None) -> str:
    """What a traceback would print of an error and of those it came from."""
    texts = []
    while error is not None:
        texts.append(f"{error!r} {error}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(texts)
