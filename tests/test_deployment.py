"""``examples/deployment``: files that are run by programs which the tests do not have.

What is tested is that they can be read, agree with each other, and name what exists.
"""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "deployment"
PAGE = (ROOT / "docs" / "deployment.rst").read_text()
UNITS = sorted((FOLDER / "systemd").glob("*.service"))
WORKER = ["python", "manage.py", "runworker", "dice"]


def documents(name: str) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def unit(path: Path) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as the documentation says
    parser.read_string(path.read_text().replace("\\\n", " "))
    return parser["Service"]


def docker_targets() -> dict[str, dict[str, str]]:
    """Return the instructions of each target of the Dockerfile."""
    targets: dict[str, dict[str, str]] = {}
    for line in (FOLDER / "Dockerfile").read_text().replace("\\\n", " ").splitlines():
        name, _, rest = line.partition(" ")
        if name == "FROM":
            targets[rest.split()[-1]] = instructions = {}
        elif name.isupper():
            instructions[name] = rest
    return targets


def test_every_file_is_shown_in_the_documentation() -> None:
    """Nobody keeps a file that is only here."""
    files = [path.relative_to(ROOT) for path in FOLDER.rglob("*") if path.is_file()]
    hidden = [path for path in files if f"literalinclude:: ../{path}" not in PAGE]
    assert [path.name for path in hidden] == ["requirements.txt"]


def test_compose_starts_targets_that_exist_and_services_that_it_has() -> None:
    """The names that one service has for another are right."""
    (compose,) = documents("compose.yaml")
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", [])) <= services.keys()
        if "build" in service:
            assert service["build"]["target"] in docker_targets()
            assert service["environment"]["REDIS_URL"] == "redis://redis:6379"
    (mount,) = services["nginx"]["volumes"]
    assert (FOLDER / mount.split(":")[0]).is_file()
    assert "server web:8000;" in (FOLDER / "nginx.conf").read_text()


def test_the_worker_is_stopped_by_sigint_wherever_that_can_be_said() -> None:
    """SIGTERM would end it in the midst of a handler."""
    assert docker_targets()["worker"]["STOPSIGNAL"] == "SIGINT"
    (worker,) = [path for path in UNITS if "worker" in path.name]
    assert unit(worker)["KillSignal"] == "SIGINT"


def test_kubernetes_ends_a_process_after_it_has_had_its_time() -> None:
    """preStop and the server's own grace period fit into that of the pod; selectors fit."""
    found = {(one["kind"], one["metadata"]["name"]): one for one in documents("kubernetes.yaml")}
    for kind, name in found:
        if kind != "Deployment":
            continue
        spec = found[kind, name]["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels
        (container,) = spec["template"]["spec"]["containers"]
        assert ("Secret", container["envFrom"][0]["secretRef"]["name"]) in found
        sleep_s = int(
            container.get("lifecycle", {})
            .get("preStop", {})
            .get("exec", {})
            .get("command", ["sleep", "0"])[1]
        )
        assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= sleep_s + 20
    service = found["Service", "site-web"]["spec"]
    web = found["Deployment", "site-web"]["spec"]["template"]
    assert service["selector"].items() <= web["metadata"]["labels"].items()
    (container,) = web["spec"]["containers"]
    assert service["ports"][0]["targetPort"] == container["ports"][0]["containerPort"] == 8000


def test_all_start_the_same_programs() -> None:
    """Docker, systemd and Heroku."""
    procfile = dict(line.split(": ", 1) for line in (FOLDER / "Procfile").read_text().splitlines())
    assert shlex.split(procfile["worker"])[1:] == WORKER
    targets = docker_targets()
    assert re.findall(r'"([^"]+)"', targets["worker"]["CMD"]) == WORKER
    starts = [
        re.findall(r'"([^"]+)"', targets["site"]["CMD"]),
        shlex.split(procfile["web"]),
        *(shlex.split(unit(path)["ExecStart"]) for path in UNITS if "web" in path.name),
    ]
    for words in starts:
        assert words[0].endswith("uvicorn")
        assert words[1] == "mysite.asgi:application"
        assert words[-2:] == ["--timeout-graceful-shutdown", "20"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_units(path: Path, tmp_path: Path) -> None:
    """But for the programs, which are not on this machine."""
    text = re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", path.read_text())
    copy = tmp_path / path.name.replace("@", "@1")
    copy.write_text(text.replace("User=site\n", ""))
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        check=False,
        capture_output=True,
        text=True,
    )
    own = [line for line in said.stderr.splitlines() if copy.name in line]
    assert own == []
