"""Renews credentials on open connections.

redis-py's ``StreamingCredentialProvider`` calls back with each new token. Many providers keep only
the last callback. So each provider has one callback here, which notifies every connection that was
made with its credentials, of all layers and event loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Protocol

from redis.credentials import StreamingCredentialProvider
from redis.exceptions import RedisError

from .._config.pools import nodes_of
from .._config.secrets import remember
from .._runtime.native import Lock

if TYPE_CHECKING:
    from redis.asyncio import RedisCluster

_log = logging.getLogger("channels_redis")

Credentials = tuple[str, ...]
"""What follows AUTH: user name and password, or the password alone."""


class Bearer(Protocol):
    """A connection whose server should get the newest credentials."""

    def take_token(self, token: Any, credentials: Credentials) -> None:
        """Present them to the server.  Called from any thread."""


class Renewals:
    """The tokens that one provider has sent in this process, and the connections to notify."""

    def __init__(self) -> None:
        #: The newest credentials that were sent; None before the first.
        self.latest: Credentials | None = None
        self._lock = Lock()
        self._bearers: weakref.WeakSet[Bearer] = weakref.WeakSet()
        self._provider: weakref.ref[StreamingCredentialProvider] | None = None
        self._pid = os.getpid()

    def listen(self, provider: StreamingCredentialProvider) -> None:
        """Register the callback with the provider."""
        self._provider = weakref.ref(provider)
        provider.on_next(self._renewed)
        provider.on_error(self._failed)

    def notify(self, bearer: Bearer) -> None:
        """Notify a connection from now on, as long as it exists."""
        with self._lock:
            self._bearers.add(bearer)

    def _renewed(self, token: Any) -> Any:
        """Accept a token, an object with redis-py's ``TokenInterface``."""
        # A forked child leaves what it inherited alone.
        if self._pid == os.getpid():
            name, secret = token.try_get("oid"), token.get_value()
            credentials = (str(name), secret) if name else (secret,)
            provider = self._provider() if self._provider is not None else None
            if provider is not None:
                remember(provider, secret)
            with self._lock:
                self.latest = credentials
                bearers = list(self._bearers)
            for bearer in bearers:
                bearer.take_token(token, credentials)
        return _Done()

    def _failed(self, error: Exception) -> Any:
        _log.warning(
            "A credential_provider could not renew its credentials (%s); connections are used "
            "until the server closes them.",
            type(error).__name__,
        )
        return _Done()


class ClusterClient:
    """redis-py's client of a whole cluster; ``run`` runs a coroutine on its loop."""

    def __init__(
        self,
        client: RedisCluster,
        loop: asyncio.AbstractEventLoop,
        run: Callable[[Coroutine[Any, Any, None], str], object],
    ) -> None:
        self._client = client
        self._loop = loop
        self._run = run
        provider = client.connection_kwargs.get("credential_provider")
        renewals = renewals_of(provider)
        if renewals is not None:
            renewals.notify(self)

    def take_token(self, token: Any, credentials: Credentials) -> None:
        """Have redis-py present new credentials on the connections that nobody uses just now."""
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._present, token)

    def _present(self, token: Any) -> None:
        self._run(self._present_everywhere(token), "renewal of credentials")

    async def _present_everywhere(self, token: Any) -> None:
        for node in nodes_of(self._client):
            with contextlib.suppress(RedisError, OSError):
                await node.re_auth_callback(token)


class _Done:
    """The result of a callback, for providers that await it and for those that don't."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


# By process and identity, as a provider need not be hashable.
_known: dict[tuple[int, int], Renewals] = {}


def renewals_of(provider: Any) -> Renewals | None:
    """Return the renewals of a provider, wrapped or not; None if it does not send tokens itself."""
    provider = getattr(provider, "source", provider)
    if not isinstance(provider, StreamingCredentialProvider):
        return None
    key = os.getpid(), id(provider)
    if key not in _known:
        mine = Renewals()
        if _known.setdefault(key, mine) is mine:
            weakref.finalize(provider, _known.pop, key, None)
            mine.listen(provider)
    return _known[key]
