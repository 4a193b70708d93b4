"""What a process has of a group, decided without a server, against a plain list of messages."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from channels_redis._format.positions import (
    LOST_BREAK,
    NOWHERE,
    UNLOGGED_BREAK,
    Entry,
    Past,
    Position,
    PositionTexts,
    read_marked,
)
from channels_redis._receiving.catching_up import Ahead
from channels_redis._receiving.lines import Heard, Line, Verdict, after_offset, judge, unbroken_end
from channels_redis.exceptions import InvalidPosition

SIZE = 8


@dataclass
class Server:
    """A server with the log of one group: what the scripts do, in Python."""

    random: random.Random
    top: Position = field(default_factory=lambda: Position(1000, b"0" * 16))
    entries: list[Entry] = field(default_factory=list)
    last_break: int = 0

    def mark(self) -> bytes:
        return b"%016x" % self.random.getrandbits(64)

    def add(self, payload: bytes) -> Entry:
        entry = Entry(Position(self.top.offset + 1, self.mark()), payload, self.top.mark)
        self.entries = [*self.entries, entry][-SIZE:]
        self.top = entry.position
        return entry

    def add_break(self, kind: bytes, known: Position = NOWHERE) -> Entry:
        last = self.entries[-1] if self.entries else None
        self.top = Position(max(self.top.offset, known.offset), self.top.mark)
        entry = self.add(kind)
        if last is not None and last.is_break and last in self.entries:
            self.entries.remove(last)
        self.last_break = entry.offset
        return entry

    def lacks(self, known: Position) -> bool:
        if known.offset >= self.top.offset:
            return known != NOWHERE and known != self.top
        if known.offset <= self.last_break:
            return False
        at = [one for one in self.entries if one.offset == known.offset]
        return bool(at) and at[0].position != known

    def publish(self, payload: bytes, known: Position) -> list[Entry]:
        """Return what is published: the message, and a break before it where one is needed."""
        broken = [self.add_break(LOST_BREAK, known)] if self.lacks(known) else []
        return [*broken, self.add(payload)]

    def past(self, since: Position, limit: int = 1000) -> Past:
        found = [one for one in self.entries if one.offset >= since.offset]
        return Past(self.top, found[-limit:], len(found) > limit)

    def copy(self) -> Server:
        return Server(self.random, self.top, list(self.entries), self.last_break)


@dataclass
class Receiver:
    """A process: its line, and the messages that it has delivered."""

    line: Line
    has: list[bytes] = field(default_factory=list)
    #: How many messages had been sent when it was last told that it may have missed some.
    told_at: int = 0
    connected: bool = True


class Histories(RuleBasedStateMachine):
    """Two publishers, two receivers, and a server that trims, forgets and is rolled back."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.server = Server(random.Random(seed))
        self.replica, self.replicated = self.server.copy(), 0
        #: Every message that was ever sent, in order.
        self.sent: list[bytes] = []
        self.known = [NOWHERE, NOWHERE]
        self.receivers = [self.joined(), self.joined()]
        self.unseen: set[bytes] = set()

    def joined(self) -> Receiver:
        return Receiver(Line(self.server.top), told_at=len(self.sent))

    @rule(sender=st.integers(0, 1))
    def publish(self, sender: int) -> None:
        payload = b"m%d" % len(self.sent)
        self.sent.append(payload)
        published = self.server.publish(payload, self.known[sender])
        self.known[sender] = published[-1].position
        for entry in published:
            self.reach(entry)

    @rule()
    def publish_without_a_mark(self) -> None:
        """An old process sends: all who are connected have it, and write a break."""
        payload = b"m%d" % len(self.sent)
        self.sent.append(payload)
        hearing = [one for one in self.receivers if one.connected]
        for one in hearing:
            one.has.append(payload)
        for one in self.receivers:
            if not one.connected:
                continue
            self.reach(self.server.add_break(UNLOGGED_BREAK))
        if not hearing:
            # Nobody has heard it, so nobody can know of it.
            self.unseen.add(payload)

    def reach(self, entry: Entry) -> None:
        for one in self.receivers:
            if one.connected:
                self.take(one, entry)

    def take(self, one: Receiver, entry: Entry) -> None:
        heard = one.line.hear(entry)
        if heard is Heard.DELIVER:
            self.deliver(one, entry)
        elif heard is Heard.HOLE:
            self.catch_up(one)

    def deliver(self, one: Receiver, entry: Entry) -> None:
        if not entry.is_break:
            one.has.append(entry.payload)
        elif entry.payload == LOST_BREAK:
            one.told_at = len(self.sent)

    def catch_up(self, one: Receiver) -> None:
        while one.line.catching_up:
            since = one.line.position
            past = self.server.past(since)
            published = []
            if judge(past, since) is Verdict.UNKNOWN:
                broken = self.server.add_break(LOST_BREAK, since)
                past, published = Past(broken.position, []), [broken]
            outcome = one.line.catch_up(past)
            if not outcome.complete:
                one.told_at = len(self.sent)
            for entry in [*outcome.missed, *outcome.held]:
                self.deliver(one, entry)
            for entry in published:
                self.reach(entry)

    @rule(which=st.integers(0, 1))
    def disconnect(self, which: int) -> None:
        self.receivers[which].connected = False

    @rule(which=st.integers(0, 1))
    def reconnect(self, which: int) -> None:
        one = self.receivers[which]
        one.connected = True
        one.line.lose()
        self.catch_up(one)

    @rule()
    def replicate(self) -> None:
        self.replica, self.replicated = self.server.copy(), len(self.sent)

    @rule()
    def fail_over(self) -> None:
        """The replica lags; all connections are lost, and made anew."""
        self.server = self.replica.copy()
        for one in self.receivers:
            one.connected = False
        # What nobody has seen who will come back can't be known of.
        seen = {payload for one in self.receivers for payload in one.has}
        self.unseen |= set(self.sent[self.replicated :]) - seen
        self.replicated = len(self.sent)

    @rule()
    def forget(self) -> None:
        """The server is emptied; its clock is later than all offsets it has given."""
        top = Position(self.server.top.offset + 10**6, b"0" * 16)
        self.server.top, self.server.entries, self.server.last_break = top, [], 0
        self.replicate()

    @rule()
    def lose_the_log(self) -> None:
        """One of the two keys is evicted."""
        self.server.entries = []

    @invariant()
    def nothing_is_doubled(self) -> None:
        for one in getattr(self, "receivers", []):
            assert len(set(one.has)) == len(one.has)

    @invariant()
    def order_is_kept(self) -> None:
        for one in getattr(self, "receivers", []):
            assert one.has == sorted(one.has, key=lambda payload: int(payload[1:]))

    def teardown(self) -> None:
        """Once all are back, each has everything since it was last told: what a server has lost is
        known when somebody who has seen it comes back.
        """
        receivers = getattr(self, "receivers", [])
        for which in range(len(receivers)):
            self.reconnect(which)
        for one in receivers:
            due = [m for m in self.sent[one.told_at :] if m not in self.unseen]
            assert [m for m in one.has if m in due] == due


Histories.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestHistories = Histories.TestCase


# Positions


TEXTS = PositionTexts(b"secret")
POSITION = Position(12345, b"00112233445566aa")


def test_the_text_of_a_position_is_read_again() -> None:
    """By every process with the same secret."""
    text = TEXTS.write(POSITION, "room")
    assert PositionTexts(b"secret").read(text, "room") == POSITION


def test_texts_sort_as_their_positions() -> None:
    """As strings, whatever their marks."""
    positions = [Position(offset, b"%016x" % (2**40 - offset)) for offset in (9, 10, 255, 2**50)]
    texts = [TEXTS.write(one, "room") for one in positions]
    assert sorted(texts) == texts


@pytest.mark.parametrize(
    "text", ["", "start", "1", "x" * 49, 7, None, TEXTS.write(POSITION, "room") + "0"]
)
def test_what_is_no_position_is_refused(text: object) -> None:
    """With an error that says what is expected."""
    with pytest.raises(InvalidPosition, match="__position__"):
        TEXTS.read(text, "room")


@pytest.mark.parametrize("other", [("secret", "hall"), ("another", "room")])
def test_a_position_from_elsewhere_is_refused(other: tuple[str, str]) -> None:
    """Of another group, or made up by somebody who does not know the secret."""
    secret, log = other
    text = PositionTexts(secret.encode()).write(POSITION, log)
    with pytest.raises(InvalidPosition, match="another group"):
        TEXTS.read(text, "room")


def test_a_marked_message_is_told_from_all_others() -> None:
    """By its first byte and the digits that follow."""
    marked = b"\xc1%016x%s" % POSITION + b"payload"
    assert read_marked(marked) == Entry(POSITION, b"payload")
    for data in (b"", b"\xc1", b"\x81", marked[1:], marked[:20], b"\xc1" + b"G" * 40):
        assert read_marked(data) is None


# Details that the model does not reach


def chain(first: int, count: int) -> list[Entry]:
    marks = [b"%016x" % number for number in range(first - 1, first + count)]
    return [
        Entry(Position(first + n, marks[n + 1]), b"m%d" % (first + n), marks[n])
        for n in range(count)
    ]


def test_a_catch_up_that_was_cut_is_not_complete() -> None:
    """However well what is left fits together."""
    entries = chain(5, 3)
    since = Position(4, b"%016x" % 4)
    assert judge(Past(entries[-1].position, entries), since) is Verdict.COMPLETE
    assert judge(Past(entries[-1].position, entries, cut=True), since) is Verdict.INCOMPLETE


def test_a_log_that_ends_before_its_top_is_not_complete() -> None:
    """As one that was restored alone."""
    entries = chain(5, 3)
    assert judge(Past(Position(9, b"9" * 16), entries), entries[0].position) is Verdict.INCOMPLETE


def test_the_end_of_a_log_begins_after_the_last_break_or_hole() -> None:
    """That is what a late joiner gets."""
    whole = chain(5, 4)
    assert unbroken_end(whole) == whole
    assert unbroken_end([whole[0], *whole[2:]]) == whole[2:]
    broken = whole[1]._replace(payload=LOST_BREAK)
    assert unbroken_end([whole[0], broken, *whole[2:]]) == whole[2:]
    assert unbroken_end([]) == []
    assert after_offset(whole, 6) == whole[2:]


def test_a_second_catch_up_is_asked_for_where_a_hole_was_heard_meanwhile() -> None:
    """What was heard is kept for it."""
    entries = chain(5, 6)
    line = Line(Position(4, b"%016x" % 4))
    line.lose()
    line.hear(entries[5])
    outcome = line.catch_up(Past(entries[2].position, entries[:3]))
    assert (outcome.missed, outcome.held, outcome.again) == (entries[:3], [], True)
    outcome = line.catch_up(Past(entries[5].position, entries))
    assert (outcome.missed, outcome.held, outcome.again) == (entries[3:], [], False)
    assert line.position == entries[5].position


def test_a_line_knows_when_nothing_was_missed() -> None:
    """Since it has heard a message, or the log was read while the subscription was heard."""
    entries = chain(5, 3)
    at = [one.position for one in entries]
    line = Line(Position(4, b"%016x" % 4))
    assert not line.is_at(line.position)
    line.confirm(at[0])
    assert not line.is_at(line.position)
    line.confirm(line.position)
    assert line.is_at(line.position)
    line.hear(entries[0])
    assert line.is_at(at[0])
    assert not line.is_at(Position(5, b"%016x" % 0))
    line.lose()
    line.confirm(at[0])
    assert not line.is_at(at[0])
    line.catch_up(Past(at[2], entries))
    assert line.is_at(at[2])
    queued = Line(at[0], queued=True)
    assert not queued.is_at(at[0])


def test_a_queued_line_that_has_lost_its_place_waits_for_the_log() -> None:
    """Even if what comes next has the next offset: it may be of a server that was empty."""
    entries = chain(5, 2)
    line = Line(Position(4, b"%016x" % 4), queued=True)
    line.lose()
    assert line.hear(entries[0]) is Heard.NOTHING
    assert line.fill() == []
    assert line.catching_up
    assert line.catch_up(Past(entries[1].position, entries)).missed == entries


def test_a_line_that_waits_for_the_log_holds_no_more_than_its_limit(monkeypatch: Any) -> None:
    """What it no longer holds is read in the log."""
    monkeypatch.setattr("channels_redis._receiving.lines._MAX_HELD", 3)
    entries = chain(5, 9)
    line = Line(Position(4, b"%016x" % 4), queued=True)
    for entry in entries[1:]:
        assert line.hear(entry) in (Heard.HOLE, Heard.NOTHING)
    outcome = line.catch_up(Past(entries[2].position, entries[:3]))
    assert (outcome.missed, outcome.held, outcome.again) == (entries[:3], [], True)
    outcome = line.catch_up(Past(entries[-1].position, entries[2:]))
    assert (outcome.missed, outcome.held) == (entries[3:], [])


def test_what_a_channel_has_is_told_from_what_gets_the_same_offsets_later() -> None:
    """As after a server has lost it: the channel gets the new messages."""
    old, new = chain(5, 3), chain(5, 3)
    new[1:] = [one._replace(position=Position(one.offset, b"f" * 16)) for one in new[1:]]
    ahead = Ahead(7, {one.offset: one.position.mark for one in old})
    assert [ahead.has(one) for one in old] == [True, True, True]
    assert [ahead.has(one) for one in new] == [True, False, False]
