"""Rephrases the errors of a server during the handshake.

Servers quote what they do not understand, and a handshake contains passwords. So texts of a server
that may concern credentials are never repeated: known texts are rephrased here, others are omitted.
"""

from __future__ import annotations

import re

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    InvalidResponse,
    RedisError,
    ResponseError,
)

from .._config.secrets import Secrets, causes_of
from ..exceptions import ChannelsRedisError

#: Errors whose text is the server's.
_QUOTING = (ResponseError, AuthenticationError, BusyLoadingError, InvalidResponse)

_CONFUSION = (AttributeError, LookupError, TypeError, ValueError)

UNSAID = "the text of the server is not repeated, as it may quote what it was sent"

_NO_PRIMARY = "no Sentinel names a primary that answers"

#: By what the text has in lower case; the first that fits.
_SAID = (
    ("db index", "DB index is out of range"),
    ("protected mode", "the server is running in protected mode"),
    ("without any password", "AUTH was called without any password configured for the user"),
    ("no password is set", "AUTH was called without any password configured for the user"),
    ("wrong number of arguments", "wrong number of arguments for 'auth' command"),
    ("username-password pair", "invalid username-password pair or user is disabled"),
    ("invalid username or password", "invalid username-password pair or user is disabled"),
    ("invalid password", "invalid password"),
    ("authentication required", "authentication required"),
    ("max number of clients", "max number of clients reached"),
    ("loading the dataset", "the server is loading the dataset in memory"),
    ("unsupported protocol", "unsupported protocol version of HELLO"),
)
_ABOUT_COMMANDS = (
    (re.compile(r"unknown command\W+([a-z|]+)"), "unknown command '{}'"),
    (re.compile(r"to run the\W+([a-z|]+)"), "this user has no permissions to run the '{}' command"),
)
_COMMANDS = {"auth", "hello", "select", "client", "client|setname", "client|setinfo", "sentinel"}
_ABOUT_CREDENTIALS = re.compile(r"command\W+(auth|hello)\W|'(auth|hello)'", re.IGNORECASE)
_REDIRECTIONS = ("MOVED ", "ASK ")


def handshake_error(error: BaseException, secrets: Secrets) -> BaseException:
    """Return an error of a handshake without any text of the server in it or in its causes."""
    for one in causes_of(error):
        if isinstance(one, MasterNotFoundError):
            # redis-py shows each Sentinel's client with its settings, and what it said.
            one.args = (_NO_PRIMARY,)
        elif isinstance(one, _QUOTING):
            one.args = (_in_our_words(str(one)),)
    secrets.error(error)
    if isinstance(error, _CONFUSION) and not isinstance(error, ChannelsRedisError):
        # What redis-py trips over where a server answers what nobody expects.
        confused = ConnectionError(f"the handshake failed: {type(error).__name__}: {error}")
        confused.__cause__ = error
        return confused
    return error


def error_reply(reply: Exception, secrets: Secrets) -> Exception:
    """Return an error reply to any command, without secrets."""
    if isinstance(reply, AskError) or str(reply).startswith(_REDIRECTIONS):
        return reply  # It names a host to connect to, and is not told as it is.
    if isinstance(reply, AuthenticationError) or _ABOUT_CREDENTIALS.search(str(reply)):
        reply.args = (_in_our_words(str(reply)),)
    return secrets.error(reply)


def loss(error: BaseException, reason: str, secrets: Secrets) -> ConnectionError:
    """Return the error to raise for a lost connection, with a known ``reason`` or from an error."""
    if reason:
        return ConnectionError(reason)
    if isinstance(error, ConnectionError):
        return secrets.error(error)
    if isinstance(error, OSError):
        return ConnectionError(secrets.text(f"connection lost: {error}"))
    if isinstance(error, (RedisError, ValueError)):
        return ConnectionError("the server sent what is no reply")
    # Somebody closed the pool, and redis-py dropped its streams.
    return ConnectionError("connection lost")


def _in_our_words(text: str) -> str:
    said = text.lower()
    for words, ours in _SAID:
        if words in said:
            return ours
    for pattern, form in _ABOUT_COMMANDS:
        found = pattern.search(said)
        if found:
            command = found[1] if found[1] in _COMMANDS else "of the handshake"
            return form.format(command.upper())
    return UNSAID
