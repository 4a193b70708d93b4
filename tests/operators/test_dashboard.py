"""The dashboard and the alerts ask for metrics that exist, and every process of a host is found."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.layers import channel_layers
from django.conf import settings
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from channels_redis.testing.servers import wait_until
from tests.helpers import script_environment

if not settings.configured:
    settings.configure()

FOLDER = Path(__file__).parents[2] / "examples" / "metrics"
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text())
ALERTS = (FOLDER / "alerts.yaml").read_text()
#: Labels that Prometheus adds.
ADDED = {"job", "instance"}


def expressions() -> Iterator[str]:
    """Yield what is asked of Prometheus."""
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from re.findall(r"^ +expr: (.+)$", ALERTS, re.M)


@pytest.fixture
def exported(
    make_layer_blocking: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> dict[str, set[str]]:
    """The names of all metrics of the example, with their labels."""
    layer = make_layer_blocking("core")
    layer._report.dropped["memory"] += 1
    monkeypatch.setitem(channel_layers.backends, "default", layer)
    registry = CollectorRegistry()
    runpy.run_path(str(FOLDER / "prometheus.py"))["register"](registry)
    text = generate_latest(registry).decode()
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_metric_of_the_dashboard_and_the_alerts_is_exported(
    exported: dict[str, set[str]],
) -> None:
    """With the labels by which they are selected, added up and named."""
    asked = set()
    for expression in expressions():
        names = set(re.findall(r"\bchannels_redis_\w+", expression))
        assert names and names <= exported.keys(), expression
        known = set.intersection(*(exported[name] for name in names)) | ADDED
        grouped = re.findall(r"by \(([^)]*)\)", expression)
        labels = {label for group in grouped for label in re.split(r", *", group)}
        labels |= set(re.findall(r"[{,] *(\w+)(?:=~|!~|=)\"", expression))
        assert labels <= known, expression
        asked |= names
    assert asked == exported.keys()


def test_legends_and_texts_use_labels_that_are_there() -> None:
    """Else Grafana shows an empty name."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            if grouped:
                assert shown <= set(re.split(r", *", grouped[0])), target
    for rule in ALERTS.split("- alert: ")[1:]:
        grouped = re.findall(r"by \(([^)]*)\)", rule)
        if grouped:
            shown = set(re.findall(r"\$labels\.(\w+)", rule))
            assert shown <= set(re.split(r", *", grouped[0])), rule


def test_panels_have_ids_and_places_of_their_own() -> None:
    """Grafana drops one of two panels with the same id."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


PROCESS = """
import runpy, sys
from prometheus_client import Gauge

Gauge("test_number", "Which process this is").set(int(sys.argv[3]))
runpy.run_path(sys.argv[1])["serve"](sys.argv[2], site="test")
sys.stdin.read()
"""


def test_every_process_of_a_host_is_found_and_scraped(tmp_path: Path) -> None:
    """Each by its own address, until it ends; those that were killed are forgotten by the next."""

    def start(number: int) -> subprocess.Popen[bytes]:
        words = (sys.executable, "-c", PROCESS, str(FOLDER / "serve.py"), str(tmp_path))
        return subprocess.Popen(
            [*words, str(number)], stdin=subprocess.PIPE, env=script_environment()
        )

    def found() -> dict[int, Any]:
        files = {int(path.stem): path for path in tmp_path.glob("*.json")}
        return {pid: json.loads(path.read_text())[0] for pid, path in files.items()}

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    killed = start(0)
    with killed:
        wait_until(lambda: killed.pid in found(), "the first process to serve its metrics")
        killed.kill()
    processes = [start(number) for number in (1, 2)]
    try:
        pids = {process.pid for process in processes}
        wait_until(lambda: found().keys() == pids, "both processes to serve their metrics")
        for number, process in enumerate(processes, 1):
            entry = found()[process.pid]
            assert entry["labels"] == {"process": str(process.pid), "site": "test"}
            with opener.open(f"http://{entry['targets'][0]}/metrics", timeout=20) as page:
                assert f"test_number {number}.0" in page.read().decode()
    finally:
        for process in processes:
            process.communicate(timeout=30)
    assert [process.returncode for process in processes] == [0, 0]
    assert found() == {}
