"""The model behind ``docs/scaling.rst`` counts what really happens; what it says of times and
sizes, ``python -m benchmarks.scaling --check`` holds against a machine.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.model import (
    DEFAULTS,
    Site,
    connections,
    group_message,
    predict,
    servers_needed,
)
from benchmarks.points import Place, comparison_lines, measure, predicted
from benchmarks.scaling import growth, main
from tests.conftest import find_server_or_skip


@pytest.mark.parametrize(
    ("servers", "cluster"),
    [(1, False), (3, False), pytest.param(3, True, marks=pytest.mark.slow)],
)
def test_connections_and_commands_are_those_that_are_counted(
    kind: str, servers: int, cluster: bool
) -> None:
    """Counted exactly on real servers; only a reader may ask once more, or less, under load."""
    find_server_or_skip()
    # So many that each process has topics on all servers.
    place = Place(kind, members=200, processes=4, servers=servers, cluster=cluster)
    counted, said = measure(place, n=10, idle_s=0.01), predicted(place)
    assert counted.connections == said.connections
    if kind == "pubsub":
        assert counted.commands == said.commands
    else:
        # At least the members, and a message for each process.
        assert 2 + place.processes <= counted.commands <= 2 * said.commands
    assert counted.sent_bytes == pytest.approx(said.sent_bytes, rel=0.5)


def test_a_comparison_shows_what_is_off() -> None:
    """One line for each place, with what was measured, what was said, and the error."""
    find_server_or_skip()
    heading, line = comparison_lines([Place("pubsub", members=10, processes=2)], n=5, rounds=1)
    assert "connections" in heading
    assert line.startswith("pubsub, 10 in 2, one server")
    assert "+0%" in line


def test_only_pubsub_keeps_a_group_message_at_one_command() -> None:
    """Whatever the number of processes; core needs one and its pop for each."""
    small, large = (Site("pubsub", consumers, group_size=10_000) for consumers in (10**4, 10**6))
    assert group_message(small).commands == group_message(large).commands == 1
    site = replace(small, layer="core", per_process=1000)
    assert group_message(site).commands == pytest.approx(2 + 2 * 10)


def test_classic_pubsub_in_a_cluster_does_not_scale() -> None:
    """Each server handles all messages, so that more of them make none of them less busy."""
    site = Site("pubsub", 10**7, cluster=True, classic=True, per_process=20_000)
    few, many = (predict(replace(site, servers=servers)) for servers in (10, 100))
    sharded = predict(replace(site, servers=100, classic=False))
    assert sharded.server_cpu < many.server_cpu < few.server_cpu
    assert many.network_bytes_per_s > 2 * sharded.network_bytes_per_s


def test_more_servers_lift_all_limits_but_connections() -> None:
    """A pubsub process listens at every server; larger processes help there."""
    site = Site("pubsub", 10**7)
    assert connections(site) == connections(replace(site, servers=100))
    assert servers_needed(site) is None
    larger = servers_needed(replace(site, per_process=10_000))
    assert larger is not None
    assert predict(larger).first_limit(DEFAULTS)[1] <= 0.7


def test_load_grows_with_the_site(kind: str) -> None:
    """From 1 to 10,000,000 consumers nothing gets less."""
    loads = [load for _, load, _ in growth(kind)]
    for name in ("connections", "commands_per_s", "server_cpu", "server_bytes"):
        values = [getattr(load, name) for load in loads]
        assert values == sorted(values)


def test_it_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """One for each layer, up to ten million."""
    assert main([]) == 0
    assert capsys.readouterr().out.count("10,000,000") == 2
