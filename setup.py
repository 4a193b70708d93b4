"""What setup.cfg can't say: the front page on PyPI, and how a source distribution is packed."""

import gzip
import os
import re
import tarfile
import time
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist

REPOSITORY = "https://github.com/django/channels_redis"


def front_page():
    """Return the README, with links that lead somewhere from PyPI, too."""
    text = Path(__file__).with_name("README.rst").read_text(encoding="utf-8")
    text = re.sub(r"(image:: )(?=docs/)", rf"\1{REPOSITORY}/raw/main/", text)
    return re.sub(r"<(?=\w[\w/]*\.(?:rst|txt|md)>)", f"<{REPOSITORY}/blob/main/", text)


class ReproducibleSdist(sdist):
    """Packs the same files into the same bytes, given ``SOURCE_DATE_EPOCH``: seconds since 1970.

    Wheels need no help: setuptools packs them like that.
    """

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, **owner):
        """Pack ``base_dir``, which lies in the working directory; return the file's name."""
        if format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, **owner)
        date = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
        target = Path(f"{base_name}.tar.gz")
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            target.open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=date) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path in sorted(Path(base_dir).rglob("*")):
                archive.add(path, recursive=False, filter=lambda item: _impersonal(item, date))
        return str(target)


def _impersonal(item, date):
    """Leave out of a member of the archive who packed it, when and under what umask."""
    item.mtime = date
    item.uid = item.gid = 0
    item.uname = item.gname = ""
    item.mode = 0o755 if item.isdir() or item.mode & 0o100 else 0o644
    return item


setup(long_description=front_page(), cmdclass={"sdist": ReproducibleSdist})
