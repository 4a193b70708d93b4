"""No secret leaves a layer, with no form of ``hosts``, where servers repeat what they were sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.impostor import Impostor, cluster_answer, sentinel_answer
from tests.secrets.canary import MARK, Ears, hosts_with_secrets
from tests.secrets.steps import try_everything

# The doctor ends its event loop while a busy machine may still be connecting; what is left open is
# looked for by other tests.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

FORMS = list(hosts_with_secrets("localhost", 1))


class Quoting:
    """Answers ``form``, with what it has been sent in it: all at once, or when it was greeted."""

    def __init__(self, form: str, port: int, *, later: bool) -> None:
        self._form = form.encode(errors="surrogateescape")
        self._port = port
        self._later = later
        self._said: list[bytes] = []

    def __call__(self, words: list[bytes]) -> bytes:
        self._said += [word for word in words if MARK.encode() in word.lower()]
        if self._later:
            if words[0] == b"HELLO":
                return b"%1\r\n+proto\r\n:3\r\n"
            known = sentinel_answer(words, self._port) or cluster_answer(words, self._port)
            if known or words[0] in (b"AUTH", b"SELECT", b"CLIENT"):
                return known or b"+OK\r\n"
        text = b" ".join(self._said[-3:] or [b"nothing"])
        reply = self._form.replace(b"<said>", text).replace(b"<cut>", text[:25])
        return reply.replace(b"<other case>", text.swapcase()) + b"\r\n"


AT_ONCE = {
    "unknown command": "-ERR unknown command 'AUTH', with args beginning with: '<said>'",
    "unknown command, cut off": "-ERR unknown command `HELLO`, with args beginning with: `<cut>",
    "wrong password": "-WRONGPASS <said> is no password of mine",
    "no authentication": "-NOAUTH <said>",
    "no permission": "-NOPERM <said> may not run the 'auth' command",
    "any error": "-ERR <said>",
    "an error code": "-<said>",
    "loading": "-LOADING <said>",
    "busy": "-BUSY <said>",
    "no reply at all": "<said>",
    "a wrong length": "$<said>",
    "a status": "+<said>",
    "an error in an array": "*1\r\n-ERR <said>",
}
LATER = {
    "any error": "-ERR <said>",
    "cut off": "-ERR I was sent <cut>",
    "in another case": "-ERR <other case>",
    "a status": "+<said>",
    "moved": "-MOVED 1 <said>:1",
    "to be asked": "-ASK 1 <said>:1",
    "cluster down": "-CLUSTERDOWN <said>",
    "try again": "-TRYAGAIN <said>",
    "read only": "-READONLY <said>",
    "busy": "-BUSY <said>",
    "out of memory": "-OOM <said>",
    "no permission": "-NOPERM <said>",
    "no script": "-NOSCRIPT <said>",
    "wrong password": "-WRONGPASS <said>",
    "no reply at all": "<said>",
    "a version": "+redis_version:4.0.<said>",
    "not in UTF-8": "-ERR \udcff <said>",
}
WAYS = [(way, False) for way in AT_ONCE] + [(way, True) for way in LATER]


@pytest.mark.parametrize(("way", "later"), WAYS)
async def test_a_server_that_quotes_what_it_was_sent_is_not_repeated(
    make_layer: Callable[..., Any], kind: str, ears: Ears, way: str, later: bool
) -> None:
    """However the server says it, in the handshake or later; with each form of an entry."""
    words = (LATER if later else AT_ONCE)[way]

    async def quoted(form: str) -> None:
        async with Impostor().listening() as server:
            server.answer = Quoting(words, server.port, later=later)
            hosts = [hosts_with_secrets("localhost", server.port)[form]]
            await try_everything(make_layer, kind, hosts, ears)
            heard = [word for words in server.heard for word in words]
            assert any(MARK.encode() in word.lower() for word in heard), "it has nothing to quote"

    await asyncio.gather(*map(quoted, FORMS))
