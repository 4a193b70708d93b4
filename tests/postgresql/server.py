"""A private PostgreSQL of the programs that are installed (Debian: ``postgresql``)."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

from channels_redis.testing.servers import reserved_port


def programs() -> Path:
    """Return where they are: Debian keeps them off the PATH."""
    found = shutil.which("pg_ctl")
    if found:
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"))


class Postgres:
    """A server that can be restarted.  It refuses to run as root, and is the user postgres then."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(directory, self._user.pw_uid, self._user.pw_gid)
        self._port = reserved_port()
        self.port = self._port.__enter__()
        self._run("initdb", "-U", "postgres", "-A", "trust", "-N")

    def __enter__(self) -> Postgres:
        self._pg_ctl("start")
        return self

    def __exit__(self, *_: object) -> None:
        self._pg_ctl("stop")
        self._port.__exit__(None, None, None)

    @property
    def options(self) -> dict[str, Any]:
        """An entry of Django's DATABASES."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": "127.0.0.1",
            "PORT": self.port,
        }

    def restart(self) -> None:
        """End all connections, and serve again."""
        self._pg_ctl("restart")

    def _pg_ctl(self, command: str) -> None:
        options = f"-p {self.port} -k {self._directory} -c fsync=off"
        log = str(self._directory / "log")
        self._run("pg_ctl", "-w", "-m", "fast", "-l", log, "-o", options, command)

    def _run(self, program: str, *words: str) -> None:
        command = [str(programs() / program), "-D", str(self._directory / "data"), *words]
        user = self._user.pw_uid if self._user is not None else None
        subprocess.run(command, check=True, user=user, stdout=subprocess.DEVNULL, cwd="/")
