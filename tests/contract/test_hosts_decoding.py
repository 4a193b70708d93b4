"""``decode_hosts`` and the ring: what host entries and names come to, as 4.3.0 recorded it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from channels_redis.utils import _consistent_hash, decode_hosts

RECORDED = json.loads((Path(__file__).parent / "wire" / "upstream-4.3.0.json").read_text())


def with_tuples(value: Any) -> Any:
    """JSON has no tuples: give addresses back the form in which people write them."""
    if isinstance(value, dict):
        return {key: with_tuples(entry) for key, entry in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int):
        return tuple(value)
    return [with_tuples(entry) for entry in value]


def normalised(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("case", RECORDED["hosts"], ids=lambda case: str(case["in"]))
def test_hosts_decode_as_recorded(case: dict[str, Any]) -> None:
    """Each recorded entry decodes to the dictionary that 4.3.0 made of it."""
    assert normalised(decode_hosts(with_tuples(case["in"]))) == case["out"]


def test_no_hosts_mean_the_local_default() -> None:
    """``None`` and an empty list are the server on this machine."""
    assert normalised(decode_hosts([])) == normalised(decode_hosts(None))
    assert normalised(decode_hosts(None)) == [{"address": "redis://localhost:6379"}]


def test_a_tuple_of_hosts_is_as_good_as_a_list() -> None:
    """Settings often hold tuples."""
    assert normalised(decode_hosts(("redis://h:1",))) == [{"address": "redis://h:1"}]


@pytest.mark.parametrize("hosts", ["redis://localhost:6379", "localhost", b"redis://h"])
def test_a_bare_string_is_refused(hosts: Any) -> None:
    """A string would be iterated letter by letter: it is an error that shows the list form."""
    with pytest.raises(ValueError, match="list"):
        decode_hosts(hosts)


def test_decoding_leaves_the_users_entries_as_they_are() -> None:
    """Settings are shared: decoding copies, also what is nested."""
    hosts = [
        {"address": "redis://h:1", "db": 2},
        {"sentinels": [("h", 26379)], "master_name": "m", "sentinel_kwargs": {"password": "p"}},
        ("h", 2),
    ]
    before = copy.deepcopy(hosts)
    decoded = decode_hosts(hosts)
    for entry in decoded:
        entry.clear()
    assert hosts == before


@pytest.mark.parametrize("case", RECORDED["ring"], ids=lambda c: f"{c['name']}-{c['ring_size']}")
def test_a_name_sits_where_it_sat_on_the_ring(case: dict[str, Any]) -> None:
    """Old and new processes look for a name on the same shard."""
    assert _consistent_hash(case["name"], case["ring_size"]) == case["index"]
