"""Checks the TLS keywords of an entry of ``hosts``.

Also decides whether the chain and the host name of a certificate are verified, because the
defaults of redis-py differ between versions.  Does not import redis-py.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from typing import Any

from ..exceptions import ConfigurationError
from .hosts import is_plain_address

_REQUIREMENTS = ("none", "optional", "required")
_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_FALSE_WORDS = ("0", "f", "false", "n", "no")
_TRUE_WORDS = ("1", "t", "true", "y", "yes")

#: Keywords that control verification, but do not enable TLS.
VERIFICATION_KEYWORDS = frozenset({"ssl_cert_reqs", "ssl_check_hostname"})

Options = Mapping[str, Any]


def settle_verification(options: dict[str, Any]) -> None:
    """Set the options so that everything is verified by default.  ``ssl_cert_reqs="none"`` disables
    all checks, ``ssl_check_hostname=False`` only the check of the name.
    """
    requirement = options.get("ssl_cert_reqs", "required")
    if requirement is None:
        requirement = "none"
    elif isinstance(requirement, int) and requirement in list(ssl.VerifyMode):
        requirement = ssl.VerifyMode(requirement).name.removeprefix("CERT_").lower()
    options["ssl_cert_reqs"] = requirement
    checks_name = options.get("ssl_check_hostname")
    if isinstance(checks_name, str):  # in a URL
        word = checks_name.lower()
        if word in _FALSE_WORDS or word in _TRUE_WORDS:
            checks_name = word in _TRUE_WORDS
    if requirement == "none":
        checks_name = False
    options["ssl_check_hostname"] = True if checks_name is None else checks_name


def is_verified(options: Options) -> bool:
    """Return whether chain and name are verified, for options of :func:`settle_verification`."""
    return options.get("ssl_cert_reqs") != "none" and options.get("ssl_check_hostname") is True


def check_tls(where: str, options: Options) -> None:
    """Refuse values that would later look like repeated network failures."""
    if options.get("ssl_cert_reqs", "none") not in _REQUIREMENTS:
        words = "'required', 'optional' or 'none'"
        raise ConfigurationError(f"{where}: ssl_cert_reqs must be {words}.")
    if not isinstance(options.get("ssl_check_hostname", False), bool):
        raise ConfigurationError(f"{where}: ssl_check_hostname must be True or False.")
    for keyword in _FILES:
        if options.get(keyword) is not None and not _is_readable(options[keyword]):
            raise ConfigurationError(f"{where}: the file of {keyword} can't be read.")
    for keywords, load in _LOADERS.items():
        if any(options.get(keyword) is not None for keyword in keywords):
            _try_out(where, keywords, load, options)


def refuse_plain_address(where: str, host: Options) -> None:
    """Refuse an entry whose keywords request TLS although its address does not."""
    tls = host.get("ssl")
    if tls not in (None, True, False):
        raise ConfigurationError(f"{where}: ssl must be True or False.")
    wanted = ["ssl"] if tls else [key for key in host if key.startswith("ssl_") and tls is None]
    wanted = [key for key in wanted if key not in VERIFICATION_KEYWORDS]
    if wanted and is_plain_address(host):
        raise ConfigurationError(
            f"{where}: {wanted[0]} requests TLS, but the address does not; "
            "use rediss:// (or valkeys://) instead of redis://, or remove the keyword."
        )


def _try_out(
    where: str,
    keywords: tuple[str, ...],
    load: Callable[[ssl.SSLContext, Options], None],
    options: Options,
) -> None:
    try:
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), options)
        return
    except Exception as error:  # noqa: BLE001  # whatever a wrong type leads to
        reason = getattr(error, "reason", None) or type(error).__name__
    # Raised outside of the except block: the cause may quote a value.
    given = [keyword for keyword in keywords if options.get(keyword) is not None]
    raise ConfigurationError(f"{where}: TLS rejects {' and '.join(given)} ({reason}).")


def _load_authorities(context: ssl.SSLContext, options: Options) -> None:
    context.load_verify_locations(
        options.get("ssl_ca_certs"), options.get("ssl_ca_path"), options.get("ssl_ca_data")
    )


def _load_own_certificate(context: ssl.SSLContext, options: Options) -> None:
    # Without a password OpenSSL would prompt for one on the terminal.
    password = options.get("ssl_password") or ""
    certificate: Any = options.get("ssl_certfile")
    context.load_cert_chain(certificate, options.get("ssl_keyfile"), password)


def _set_ciphers(context: ssl.SSLContext, options: Options) -> None:
    context.set_ciphers(options["ssl_ciphers"])


def _set_oldest_version(context: ssl.SSLContext, options: Options) -> None:
    context.minimum_version = ssl.TLSVersion(options["ssl_min_version"])


def _set_flags(context: ssl.SSLContext, options: Options) -> None:
    for keyword in ("ssl_include_verify_flags", "ssl_exclude_verify_flags"):
        context.verify_flags |= reduce(or_, options.get(keyword) or (), ssl.VerifyFlags(0))


_LOADERS: dict[tuple[str, ...], Callable[[ssl.SSLContext, Options], None]] = {
    ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data"): _load_authorities,
    ("ssl_certfile", "ssl_keyfile"): _load_own_certificate,
    ("ssl_ciphers",): _set_ciphers,
    ("ssl_min_version",): _set_oldest_version,
    ("ssl_include_verify_flags", "ssl_exclude_verify_flags"): _set_flags,
}


def _is_readable(path: Any) -> bool:
    try:
        return isinstance(path, (str, bytes, os.PathLike)) and os.access(path, os.R_OK)
    except ValueError:  # a NUL, or a lone surrogate
        return False
