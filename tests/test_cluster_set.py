"""The launcher of private clusters keeps its promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from channels_redis.testing import _cluster
from channels_redis.testing._cluster import slot_of
from channels_redis.testing.servers import ClusterSet, ErrorReply, RedisServer, wait_until
from tests.conftest import find_server_or_skip

KEY = "key"


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterSet]:
    find_server_or_skip()
    with ClusterSet(primaries=3, replicas=1) as cluster:
        yield cluster


def test_slots_are_computed_as_servers_do(cluster: ClusterSet) -> None:
    """Hash tags and what only looks like one."""
    for key in ("key", "{tag}key", "a{tag}b{other}", "{}key", "a{b", "a}b{c}", "{{tag}}"):
        assert slot_of(key) == cluster.servers[0].command("CLUSTER", "KEYSLOT", key)


def test_slots_lie_on_all_primaries(cluster: ClusterSet) -> None:
    """Three primaries with a replica each, and every key has an owner that takes it."""
    assert len(cluster.primaries) == 3
    assert all(len(cluster.replicas_of(primary)) == 1 for primary in cluster.primaries)
    for index in range(20):
        assert cluster.owner(f"key{index}").command("SET", f"key{index}", "x") == b"OK"


def test_a_failover_gives_the_slots_to_the_replica(cluster: ClusterSet) -> None:
    """A healthy primary is replaced, and its keys stay."""
    old = cluster.owner(KEY)
    old.command("SET", KEY, "kept")
    (replica,) = cluster.replicas_of(old)
    assert cluster.failover(KEY) is replica
    assert replica.command("GET", KEY) == b"kept"
    cluster.wait_until_ok()


def test_a_failover_that_the_servers_dropped_is_asked_for_again(
    cluster: ClusterSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They give it five seconds, which a busy machine may not have had for them."""
    old = cluster.owner(KEY)
    (replica,) = cluster.replicas_of(old)
    asked, ask = [], replica.command

    def drop_the_first(*words: Any) -> Any:
        if words == ("CLUSTER", "FAILOVER"):
            asked.append(words)
            if len(asked) == 1:
                return b"OK"
        return ask(*words)

    monkeypatch.setattr(replica, "command", drop_the_first)
    monkeypatch.setattr(_cluster, "PLAN_DROPPED_AFTER_S", 4.0)
    assert cluster.failover(KEY) is replica
    assert len(asked) >= 2
    cluster.wait_until_ok()


def test_a_killed_primary_is_replaced_and_comes_back_as_a_replica(cluster: ClusterSet) -> None:
    """The laboratory for real failovers."""
    old = cluster.owner(KEY)
    old.kill()
    new = cluster.wait_for_new_owner(KEY, old)
    assert new is not old
    old.start()
    cluster.wait_until_ok()
    assert old in cluster.replicas_of(new)


def test_a_cluster_is_healthy_only_when_no_server_is_marked_as_failed() -> None:
    """Not even where it answers all the same, and the server has long been back."""
    find_server_or_skip()
    with ClusterSet(config={"cluster-require-full-coverage": "no"}) as cluster:
        away, *others = cluster.servers

        def failed() -> list[bool]:
            return [b"cluster_slots_fail:0\r" not in other.command(*info) for other in others]

        info = "CLUSTER", "INFO"
        away.kill()
        wait_until(lambda: all(failed()), "told that a server failed")
        away.start()
        cluster.wait_until_ok()
        assert not any(failed())


def test_a_slot_moves_with_its_keys_and_back(cluster: ClusterSet) -> None:
    """While it moves, the old server sends those who ask for other keys to the new one."""
    old = cluster.owner(KEY)
    target = next(one for one in cluster.primaries if one is not old)
    slot = slot_of(KEY)
    old.command("SET", KEY, "moved")
    assert cluster.begin_move(slot, target) is old
    with pytest.raises(ErrorReply, match=f"^ASK {slot} {target.host}:{target.port}"):
        old.command("GET", f"{{{KEY}}}other")
    assert cluster.move_keys(slot, old, target) == 1
    cluster.end_move(slot, target)
    assert cluster.owner(KEY) is target
    with pytest.raises(ErrorReply, match=f"^MOVED {slot} {target.host}:{target.port}"):
        old.command("GET", KEY)
    assert cluster.move_slot(slot, old) == 1
    assert old.command("GET", KEY) == b"moved"


def test_a_primary_is_added_and_removed(cluster: ClusterSet) -> None:
    """It serves what is moved to it, and is forgotten once it serves nothing."""
    old = cluster.owner(KEY)
    added: RedisServer = cluster.add_primary()
    cluster.move_slot(slot_of(KEY), added)
    assert cluster.owner(KEY) is added
    cluster.move_slot(slot_of(KEY), old)
    cluster.remove(added)
    assert added not in cluster.servers
    assert not added.running
    cluster.wait_until_ok()


def test_all_who_need_the_password_have_it() -> None:
    """Replicas reach their primaries, and keys move, where a password is asked for."""
    find_server_or_skip()
    config: dict[str, Any] = {"requirepass": "secret"}
    with ClusterSet(primaries=2, replicas=0, config=config) as cluster:
        old = cluster.owner(KEY)
        old.command("SET", KEY, "x")
        (target,) = [one for one in cluster.primaries if one is not old]
        assert cluster.move_slot(slot_of(KEY), target) == 1
