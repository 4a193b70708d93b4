"""What a reader asks its queue for, and what it makes of the replies: decisions without I/O."""

from __future__ import annotations

import pytest
from redis.exceptions import NoPermissionError, NoScriptError, ReadOnlyError

import channels_redis._transport.pops
from channels_redis._transport.pops import DEPTH, FLOW_S, SINGLES, Pops

NOW_S = 1000.0
SERVER_NOW_S = 1_700_000_000.0
EXPIRY_S = 60
ROOM = 100
EMPTY_BATCH = [b"%f" % SERVER_NOW_S, 0]


def make(*, specific: bool = True) -> Pops:
    return Pops("queue", EXPIRY_S, 5, specific=specific)


def started(*, specific: bool = True) -> Pops:
    """Pops whose first batch came back empty."""
    pops = make(specific=specific)
    pops.ask(ROOM)
    pops.take(EMPTY_BATCH, NOW_S)
    return pops


def arrival(score: float = SERVER_NOW_S) -> list[object]:
    return [b"queue", b"member", b"%f" % score]


def test_a_connection_begins_with_a_batch_by_source_and_one_blocking_pop() -> None:
    """No script is refused while a blocking pop follows it, and what expired goes first."""
    command = make().ask(ROOM)
    assert command.count(b"\r\nEVAL\r\n") == 1
    assert command.count(b"BZPOPMIN") == 1
    assert command.index(b"EVAL") < command.index(b"BZPOPMIN")


def test_nothing_is_asked_while_a_blocking_pop_waits() -> None:
    """Two readers on one connection would invert the order."""
    pops = started()
    assert pops.pending == 1
    assert pops.ask(ROOM) == b""


def test_after_an_empty_batch_single_pops_do_for_a_while() -> None:
    """A queue whose messages come one by one costs one command each."""
    pops = started(specific=False)
    commands = []
    for _ in range(SINGLES + 1):
        pops.take(arrival(), NOW_S)
        commands.append(pops.ask(ROOM))
        if b"EVAL" in commands[-1]:
            break
    assert 1 < len(commands) <= SINGLES + 1
    assert b"EVALSHA" in commands[-1], "what expires is dropped now and then"


def test_several_pops_wait_while_messages_flow_to_one_process() -> None:
    """Most messages then cost no write; a silence ends it."""
    pops = started()
    kinds: list[bool] = [False]
    for step in range(4 * DEPTH):
        reply = EMPTY_BATCH if kinds.pop(0) else arrival()
        pops.take(reply, NOW_S + step * FLOW_S / 2)
        command = pops.ask(ROOM)
        kinds += [True] * command.count(b"EVAL") + [False] * command.count(b"BZPOPMIN")
    assert DEPTH / 2 < pops.pending <= DEPTH + 1
    while kinds:
        pops.take(EMPTY_BATCH if kinds.pop(0) else None, NOW_S)
    assert pops.ask(ROOM).count(b"BZPOPMIN") == 1


def test_one_pop_at_a_time_where_others_read_the_queue_too() -> None:
    """A worker takes no message that another could handle now."""
    pops = started(specific=False)
    for step in range(20):
        pops.take(arrival(), NOW_S + step * FLOW_S / 2)
        assert pops.ask(1).count(b"BZPOPMIN") == 1
        if pops.pending == 2:
            pops.take(EMPTY_BATCH, NOW_S)


def test_no_more_is_taken_than_a_mailbox_holds() -> None:
    """With little room there is one pop, and the batch leaves a place for it."""
    pops = make()
    assert b"\r\n$1\r\n2\r\n" in pops.ask(3)
    pops.take(EMPTY_BATCH, NOW_S)
    for step in range(10):
        pops.take(arrival(), NOW_S + step * FLOW_S / 2)
        pops.ask(3)
        assert pops.pending <= 2
        if pops.pending == 2:
            pops.take(EMPTY_BATCH, NOW_S)


def test_a_batch_brings_its_messages_in_order() -> None:
    """Members with their scores, and how many had expired."""
    pops = make()
    pops.ask(ROOM)
    reply = pops.take([b"1.5", 3, b"a", b"1.1", b"b", b"1.2"], NOW_S)
    assert (reply.messages, reply.expired, reply.error) == (
        [(b"a", b"1.1"), (b"b", b"1.2")],
        3,
        None,
    )


def test_an_expired_message_is_known_by_the_clock_of_the_server() -> None:
    """Judged by its score, however long ago the server last told its time."""
    pops = started()
    later_s = NOW_S + 30
    assert pops.take(arrival(SERVER_NOW_S + 30 - EXPIRY_S), later_s).expired == 1
    pops.ask(ROOM)
    while pops.pending > 1:
        pops.take(EMPTY_BATCH, NOW_S)
    assert pops.take(arrival(SERVER_NOW_S + 31 - EXPIRY_S), NOW_S + 30).messages


def asked_by_hash() -> Pops:
    """Return pops whose next answer is the one to EVALSHA."""
    pops = started()
    pops.take(arrival(), NOW_S)
    while b"EVALSHA" not in pops.ask(ROOM):
        pops.take(None, NOW_S)
    while pops.pending > 2:
        pops.take(None, NOW_S)
    return pops


def test_a_forgotten_script_is_asked_for_by_source_again() -> None:
    """SCRIPT FLUSH is no error, and later batches go by the hash."""
    pops = asked_by_hash()
    assert pops.take(NoScriptError("No matching script"), NOW_S).error is None
    pops.take(None, NOW_S)
    assert b"\r\nEVAL\r\n" in pops.ask(ROOM)


def test_a_forbidden_hash_is_not_tried_twice() -> None:
    """Where EVALSHA is refused, every batch goes by its source."""
    pops = asked_by_hash()
    pops.take(NoPermissionError("no permissions to run the 'evalsha' command"), NOW_S)
    for _ in range(3 * SINGLES):
        while pops.pending:
            pops.take(EMPTY_BATCH if pops.pending == 2 else None, NOW_S)
        assert b"EVALSHA" not in pops.ask(ROOM)


def test_other_errors_are_the_readers_affair() -> None:
    """A demoted server refuses batches and blocking pops alike."""
    pops = make()
    pops.ask(ROOM)
    refusal = ReadOnlyError("You can't write against a read only replica.")
    assert pops.take(refusal, NOW_S).error is refusal
    assert pops.take(refusal, NOW_S).error is refusal
    assert not pops.pending


@pytest.mark.parametrize("score", [b"inf", b"1e300", b"-inf", b"-1e300"])
def test_a_score_that_is_no_time_is_known_by_the_clock_of_the_server(score: bytes) -> None:
    """Such a message has expired, or never would."""
    reply = started().take([b"queue", b"member", score], NOW_S)
    assert (reply.messages, reply.expired) == ([], 1)


def test_nothing_is_dropped_for_its_score_before_the_servers_clock_is_known() -> None:
    """A batch that was refused told nothing of it."""
    pops = make()
    pops.ask(ROOM)
    pops.take(ReadOnlyError("no"), NOW_S)
    assert pops.take(arrival(), NOW_S).messages == [(b"member", b"%f" % SERVER_NOW_S)]


def test_nothing_is_dropped_where_our_clock_has_stood_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine that was suspended for a weekend finds new messages, which are no nonsense."""
    weekend_s = 3 * 86_400
    monkeypatch.setattr(
        channels_redis._transport.pops, "unix_time", lambda: SERVER_NOW_S + weekend_s
    )
    reply = started().take(arrival(SERVER_NOW_S + weekend_s), NOW_S)
    assert len(reply.messages) == 1
