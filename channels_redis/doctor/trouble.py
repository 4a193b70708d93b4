"""Explains why a server could not be used.  Does no I/O."""

from __future__ import annotations

import asyncio
import ssl

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import AuthenticationError, NoPermissionError, TimeoutError

from .._config.secrets import causes_of
from .facts import ServerFacts, ShardFacts
from .findings import Finding, Level

_TLS_EXPECTED = (
    "tls-expected",
    "The server uses TLS on this port, but the settings are for a connection without TLS.",
    "Use rediss:// instead of redis://, or add the keyword ssl: True.",
)
_TLS_MISSING = (
    "tls-missing",
    "The settings are for TLS, but the server does not use it on this port.",
    "Use the TLS port of the server (tls-port), or redis:// if the network is trusted.",
)
_SILENCE = (asyncio.TimeoutError, TimeoutError)


def explain_trouble(shard: ShardFacts) -> Finding:
    """Return the finding for a server that could not be used."""
    id, text, advice = _explained(shard.server, shard)
    return Finding(Level.ERROR, id, shard.where, text, advice)


def _explained(server: ServerFacts, shard: ShardFacts) -> tuple[str, str, str]:
    assert server.trouble is not None
    causes = list(causes_of(server.trouble))
    said = " ".join(str(cause) for cause in causes)
    if server.speaks_otherwise:
        return _TLS_MISSING if shard.endpoint.tls else _TLS_EXPECTED
    for cause in causes:
        found = _tls_trouble(cause) or _refusal(cause)
        if found is not None:
            return found
    if "protected mode" in said:
        return (
            "protected-mode",
            "The server is in protected mode: it accepts only connections from its own machine.",
            "Set a password on the server (requirepass, or an ACL user), or bind it to a private "
            "address and set protected-mode to no.",
        )
    if any(isinstance(cause, MasterNotFoundError) for cause in causes):
        return (
            "no-primary",
            "No Sentinel names a primary that is running.",
            "See the other findings about the Sentinels.",
        )
    if any(isinstance(cause, _SILENCE) for cause in causes) or "no reply" in said:
        return (
            "unreachable",
            f"{shard.endpoint} does not reply: {first_line(server.trouble)}.",
            "Check the address, the firewall, and that the server is running.",
        )
    return (
        "unreachable",
        f"{shard.endpoint} can't be reached: {first_line(server.trouble)}.",
        "Check host name and port, that the server is running, and that it listens on this "
        "address (bind, protected-mode, firewall).",
    )


def _refusal(cause: BaseException) -> tuple[str, str, str] | None:
    said = str(cause)
    if isinstance(cause, AuthenticationError):
        if "without any password" in said:
            return (
                "password-unwanted",
                "A password is configured, but the server has none for this user.",
                "Remove the password from hosts, or set one on the server (requirepass).",
            )
        if "required" in said.lower():
            return (
                "password-missing",
                "The server requires a password, but this entry of hosts has none.",
                "Add username and password to this entry of hosts.",
            )
        return (
            "wrong-password",
            "The server refused the user name or password.",
            "Correct username and password of this entry of hosts; percent-encode special "
            "characters in a URL. ACL LOG on the server shows refused attempts.",
        )
    if isinstance(cause, NoPermissionError):
        return "rights", f"The server refused the connection: {said}.", "Allow +select or use db 0."
    if "DB index" in said:
        return (
            "wrong-database",
            "The server has no database with this number.",
            "Correct db in this entry of hosts (a cluster has only 0), or raise databases on the "
            "server.",
        )
    return None


def _tls_trouble(cause: BaseException) -> tuple[str, str, str] | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            "certificate",
            f"The certificate of the server can't be verified: {cause.verify_message}.",
            "Set ssl_ca_certs to the file of the authority that signed it, and use the host name "
            "in the certificate.",
        )
    if isinstance(cause, ssl.SSLError):
        return _TLS_MISSING
    return None


def first_line(error: BaseException) -> str:
    """Return the text of an error in one line, without the full stop at its end."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said.rstrip(".")
