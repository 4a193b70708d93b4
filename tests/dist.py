"""Builds what is published, twice and apart, and compares: ``python tests/dist.py DIRECTORY``.

No test of pytest: it needs the package ``build``, and writes the sdist and the wheel to DIRECTORY.
Each build is of a copy of what git tracks, at another place and with other times. The date inside
is ``SOURCE_DATE_EPOCH``, else that of the last commit.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# A wheel carries the modes of the files that it was made of.
UMASK = 0o022
CHECKOUT = Path(__file__).resolve().parent.parent


def git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=CHECKOUT, check=True, capture_output=True, text=True
    ).stdout


def copy_checkout(target: Path, file_time: int) -> None:
    """Copy what git tracks, as it is now."""
    for name in git("ls-files").splitlines():
        source, copy = CHECKOUT / name, target / name
        if source.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
            os.utime(copy, (file_time, file_time))


def build(folder: Path, file_time: int) -> list[Path]:
    """Build from a fresh copy in ``folder``; the wheel is built from the sdist."""
    copy_checkout(folder / "source", file_time)
    subprocess.run(
        [*(sys.executable, "-m", "build", "--no-isolation"), "--outdir", str(folder / "dist")],
        cwd=folder / "source",
        check=True,
        stdout=subprocess.DEVNULL,
        umask=UMASK,
    )
    return sorted((folder / "dist").iterdir())


def check_front_page(wheel: Path) -> None:
    """On PyPI, a link that is relative to the repository leads nowhere."""
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith("dist-info/METADATA")]
        page = archive.read(metadata).decode()
    links = [*re.findall(r"`[^`]+ <([^>]+)>`_", page), *re.findall(r"image:: (\S+)", page)]
    assert len(links) > 10, "the front page is missing"
    assert [link for link in links if not link.startswith("https://")] == []


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(target: Path) -> None:
    os.environ.setdefault("SOURCE_DATE_EPOCH", git("log", "-1", "--format=%ct").strip())
    with tempfile.TemporaryDirectory() as scratch:
        first = build(Path(scratch, "here"), file_time=1_000_000_000)
        second = build(Path(scratch, "over", "there"), file_time=1_600_000_000)
        assert [path.name for path in first] == [path.name for path in second]
        for one, other in zip(first, second, strict=True):
            assert digest(one) == digest(other), f"two builds of {one.name} differ"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for path in first:
            shutil.copy(path, target)
            print(f"{digest(path)}  {path.name}")
    assert len(first) == 2, "an sdist and a wheel were expected"
    [wheel] = target.glob("*.whl")
    check_front_page(wheel)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
