"""The two environments that are compared: this one, and one with channels-redis 4.3.0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN_ONE = Path(__file__).resolve().parent / "run_one.py"
OLD_VERSION = "4.3.0"
#: The old environment gets these in the versions that this one has.
SHARED_PACKAGES = ("redis", "hiredis", "msgpack", "channels", "Django", "asgiref", "cryptography")
OPTIONAL_PACKAGES = ("uvloop", "uvicorn", "daphne", "websockets")


class WrongEnvironment(RuntimeError):
    """An environment holds something else than it should."""


@dataclass(frozen=True)
class Environment:
    """An interpreter with a channels_redis, and the versions of what stands around it."""

    name: str
    python: Path
    versions: dict[str, str]


def inspect_environment(name: str, python: Path) -> Environment:
    """Ask an interpreter what it has."""
    completed = subprocess.run(
        [str(python), str(RUN_ONE), json.dumps({"versions": True})],
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode:
        raise WrongEnvironment(f"{python} can't measure: {completed.stderr.strip()}")
    return Environment(name, python, json.loads(completed.stdout))


def new_environment() -> Environment:
    """The environment that runs this, with this package."""
    environment = inspect_environment("new", Path(sys.executable))
    if environment.versions["channels_redis"] == OLD_VERSION:
        raise WrongEnvironment(f"This environment has channels_redis {OLD_VERSION} installed.")
    return environment


def old_environment(python: Path | None = None) -> Environment:
    """The environment of the old release, made if ``python`` names none."""
    environment = inspect_environment("old", python or installed_old_python())
    found = environment.versions["channels_redis"]
    if found != OLD_VERSION:
        raise WrongEnvironment(f"{environment.python} has channels_redis {found}.")
    return environment


def installed_old_python() -> Path:
    """The interpreter of a kept environment with the old release and the same neighbours."""
    requirements = [f"channels-redis=={OLD_VERSION}", *pinned_neighbours()]
    folder = environment_folder()
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    receipt = folder / "requirements.txt"
    wanted = "\n".join([sys.version, *requirements])
    if receipt.exists() and receipt.read_text() == wanted:
        return python
    print(f"Installing channels-redis {OLD_VERSION} into {folder}", file=sys.stderr)
    venv.create(folder, clear=True, with_pip=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
    receipt.write_text(wanted)
    return python


def environment_folder() -> Path:
    """Inside tox's folder, so that ``tox -r`` users find it where environments are."""
    tox_folder = Path(os.environ.get("TOX_WORK_DIR", ROOT / ".tox"))
    return tox_folder / f"bench-channels-redis-{OLD_VERSION}"


def pinned_neighbours() -> list[str]:
    """What both environments must have in one version; only hiredis and uvloop may be missing."""
    pins = []
    for package in (*SHARED_PACKAGES, *OPTIONAL_PACKAGES):
        try:
            pins.append(f"{package}=={metadata.version(package)}")
        except metadata.PackageNotFoundError:
            if package not in ("hiredis", *OPTIONAL_PACKAGES):
                raise
    return pins


def differing_neighbours(one: Environment, other: Environment) -> dict[str, tuple[str, str]]:
    """Packages that would make the comparison unfair."""
    return {
        package: (version, other.versions[package])
        for package, version in one.versions.items()
        if package not in ("channels_redis", "uvloop") and version != other.versions[package]
    }
