"""The benchmarks measure what they say; how fast anything is, no test asks."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.commands import CommandCounter
from benchmarks.measure import Measurement, Task
from benchmarks.probe.bench import Bench
from benchmarks.probe.catalogue import BOUNDS, SCENARIOS, Scenario
from benchmarks.probe.meter import Meter
from benchmarks.records import load, save
from benchmarks.sockets.trial import Setting, Variant
from benchmarks.sockets.trial import measure as measure_site
from benchmarks.summary import summarize
from benchmarks.targets import judge
from channels_redis.testing.servers import ClusterSet, RedisServer
from tests.conftest import class_of, find_server_or_skip

CASES = [
    pytest.param(
        scenario,
        kind,
        id=f"{scenario.name}-{kind}",
        marks=[pytest.mark.slow] if scenario.servers == "own" else [],
    )
    for scenario in SCENARIOS.values()
    for kind in scenario.layers
]
TINY_N = 4
ROOT = Path(__file__).resolve().parent.parent


def run_case(run: Any, bench: Bench) -> dict[str, Any]:
    """Run a scenario as the measuring process does."""

    async def in_a_loop() -> Any:
        try:
            return await run(bench, TINY_N)
        finally:
            await bench.close()

    if inspect.iscoroutinefunction(run):
        figures: dict[str, Any] = asyncio.run(in_a_loop())
        return figures
    try:
        figures = run(bench, TINY_N)
    finally:
        asyncio.run(bench.close())
    return figures


@pytest.fixture(scope="module")
def three_servers() -> Iterator[list[str]]:
    """The URLs of a cluster."""
    find_server_or_skip()
    with ClusterSet(3) as cluster:
        yield [server.url for server in cluster.servers]


@pytest.mark.parametrize(("scenario", "kind"), CASES)
def test_a_scenario_measures_its_headline_and_its_notes(
    scenario: Scenario, kind: str, redis_url: str, prefix: str, request: pytest.FixtureRequest
) -> None:
    """Every scenario ends on both layers of this package, with its figures and nothing lost."""
    class_of(kind)
    on_cluster = scenario.servers == "cluster"
    urls = request.getfixturevalue("three_servers") if on_cluster else [redis_url]
    bench = Bench(urls=urls, kind=kind, prefix=prefix, scale="tiny", cluster=on_cluster)
    figures = run_case(scenario.run, bench)
    assert figures["n"] > 0
    assert figures[scenario.headline] >= 0
    if scenario.servers == "own":
        assert figures.keys() >= set(scenario.notes)
    for name in ("missing", "doubled", "failed", "dead"):
        assert figures.get(name, 0) == 0
    assert figures.get("reached", figures["n"]) == figures["n"]


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_has_the_headline_of_its_scenario(name: str, redis_url: str, prefix: str) -> None:
    """What a bound measures can stand in the column of its scenario's headline."""
    bench = Bench(urls=[redis_url], kind="core", prefix=prefix, scale="tiny")
    assert run_case(BOUNDS[name], bench)[SCENARIOS[name].headline] >= 0


def test_commands_inside_scripts_are_not_counted(private_server: RedisServer) -> None:
    """Between the meter's marks, what clients send counts and what scripts run does not."""
    with CommandCounter(private_server) as counter:
        private_server.command("SET", "before", "1")
        with Meter(private_server.url):
            private_server.command("EVAL", "redis.call('SET', KEYS[1], 1)", "1", 'a "key"\n')
            private_server.command("PUBLISH", "channel", "lua")
        private_server.command("SET", "after", "1")
    assert counter.calls == {"EVAL": 1, "PUBLISH": 1}


def measured(implementation: str, round_number: int, us_per_op: float) -> Measurement:
    """A measurement of send_seq on core."""
    task = Task("send_seq", "core", 10)
    return Measurement(task, implementation, round_number, {"us_per_op": us_per_op})


def test_the_ratio_is_the_median_of_the_ratios_within_rounds() -> None:
    """A round in which the whole machine was slow does not distort the ratio."""
    [row] = summarize(
        measured(implementation, round_number, us_per_op)
        for round_number, old, new in ((1, 400, 100), (2, 4000, 1000), (3, 500, 100))
        for implementation, us_per_op in (("old", old), ("new", new))
    )
    assert row.ratios == [4, 4, 5]
    assert row.ratio == 4
    assert (row.figure("old", "headline"), row.figure("new", "headline")) == (500, 100)


def test_a_cluster_is_held_against_one_server() -> None:
    """4.3.0 can use no cluster: its column is empty, and this release on one server is the base."""
    [row] = summarize(
        Measurement(Task("cluster_send", "core", 10), implementation, 1, {"us_per_op": us})
        for implementation, us in (("single", 30), ("new", 40))
    )
    assert row.ratio == 0.75
    tables = pytest.importorskip("benchmarks.tables", reason="the bench extra is not installed")
    assert tables.cells(row)[4:8] == ["", "", "30", "40"]


@pytest.mark.parametrize(("new", "word"), [(100, "ok"), (300, "short"), (None, "not measured")])
def test_a_target_is_kept_short_or_not_measured(new: float | None, word: str) -> None:
    """A promise is judged by what was measured, and by nothing where nothing was."""
    measurements = [measured("old", 1, 400)]
    if new is not None:
        measurements.append(measured("new", 1, new))
    verdicts = {verdict.promise: verdict for verdict in judge(summarize(measurements))}
    assert verdicts["3.3 x faster than 4.3.0"].word == word


def test_a_saved_run_gives_the_same_rows_again(tmp_path: Any) -> None:
    """Charts and tables can be made later from the file of a run."""
    measurements = [measured("old", 1, 400), measured("new", 1, 100)]
    facts = {"server": "valkey", "machine": "a", "versions": {}}
    rows = summarize(measurements)
    save(tmp_path / "folder" / "run.json", facts, measurements, rows)
    loaded_facts, loaded = load(tmp_path / "folder" / "run.json")
    assert loaded_facts == facts
    assert summarize(loaded) == rows


def test_one_command_measures_and_keeps_what_it_measured(tmp_path: Path) -> None:
    """``python -m benchmarks`` ends well, prints its table and writes its file."""
    pytest.importorskip("rich", reason="the bench extra is not installed")
    completed = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "new", "--scenario", "send_seq",
         "--rounds", "1", "--n", "10", "--targets", "--json", str(tmp_path / "run.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    assert "send_seq" in completed.stdout
    _, measurements = load(tmp_path / "run.json")
    found = {(m.task.kind, m.implementation, m.round) for m in measurements}
    # Round 0 is the one that counts commands.
    assert found == {
        (kind, *rest)
        for kind in ("core", "pubsub")
        for rest in (("new", 0), ("new", 1), ("bound", 1))
    }
    assert not any(m.error for m in measurements)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the clocks of other processes")
@pytest.mark.parametrize("program", ["websockets", "daphne"])
@pytest.mark.parametrize("kind", ["bare", "plain", "broadcast", "sync-broadcast"])
def test_sites_are_measured_at_the_socket(
    redis_url: str, kind: str, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every frame is read, and each figure is there."""
    # uvicorn warns of the release of websockets that it uses.
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    setting = Setting(sockets=5, messages=2, server=program, loop="asyncio", deflate=False)
    figures = measure_site(Variant(kind, kind), setting, Path(sys.executable), redis_url)
    assert figures.site_us > 0
    assert 0 < figures.first_ms <= figures.median_ms <= figures.last_ms
