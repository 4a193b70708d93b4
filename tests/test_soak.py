"""The accounts of the soak: what is lost is found, whatever explanation lies near."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.soak.accounts import Forgetting, Site, Witness, settle
from tests.soak.journal import (
    NOT_SENT,
    SENT,
    UNKNOWN,
    Journal,
    Receipt,
    Sending,
    receipts,
    sendings,
)

FAST, OTHER, SLOW, BUSY, WORK, GROUP = range(6)
SITE = Site(
    home={FAST: 0, OTHER: 0, SLOW: 0, BUSY: 0},
    slow={SLOW},
    busy={BUSY},
    general={WORK},
    groups={GROUP: [FAST, OTHER]},
)


def sent(number: int, target: int = FAST, outcome: int = SENT, at: float | None = None) -> Sending:
    began = float(number) if at is None else at
    return Sending(number, target, outcome, began, began + 0.1)


def received(number: int, channel: int = FAST) -> Receipt:
    return Receipt(number, channel, number + 0.2)


#: One second after the other a message, and an outage from 3.5 to 5.5.
QUIET = Witness(
    sendings=[sent(number) for number in range(10)],
    receipts=[received(number) for number in range(10)],
    losses=[3.5],
    returns=[5.5],
    dropped=Counter(),
)


def without(*numbers: int) -> list[Receipt]:
    return [one for one in QUIET.receipts if one.number not in numbers]


def test_all_is_well_when_all_has_come() -> None:
    """Ten sent, ten received."""
    account = settle(SITE, [QUIET])
    assert (account.returned, account.deliveries, account.received) == (10, 10, 10)
    assert account.missing == account.unexplained == account.doubled == account.ghosts == 0


@pytest.mark.parametrize("number", [4, 5])
def test_what_an_outage_can_have_swallowed_is_explained(number: int) -> None:
    """Sent after the last that came before the loss, and before the end of the outage."""
    account = settle(SITE, [replace(QUIET, receipts=without(number))])
    assert (account.missing, account.explained, account.unexplained) == (1, 1, 0)
    assert account.worst_cut == 1


@pytest.mark.parametrize("number", [0, 2, 6, 9])
def test_what_no_outage_can_have_swallowed_is_unexplained(number: int) -> None:
    """A later one came before the loss, or it was sent after the end."""
    account = settle(SITE, [replace(QUIET, receipts=without(number))])
    assert (account.missing, account.explained, account.unexplained) == (1, 0, 1)


def test_without_an_outage_nothing_is_explained() -> None:
    """The last message is no exception."""
    account = settle(SITE, [replace(QUIET, losses=[], returns=[], receipts=without(9))])
    assert account.unexplained == 1


def test_an_outage_of_another_process_explains_nothing() -> None:
    """Unless the message was for any worker."""
    calm = replace(QUIET, losses=[], returns=[], receipts=without(4))
    shaken = replace(QUIET, sendings=[], receipts=[])
    assert settle(SITE, [calm, shaken]).unexplained == 1
    work = replace(calm, sendings=[sent(4, WORK)], receipts=[])
    assert settle(SITE, [work, shaken]).explained == 1


def test_an_outage_that_did_not_end_explains_what_came_after_it() -> None:
    """Who is told of no end can't be blamed for what was sent later."""
    account = settle(SITE, [replace(QUIET, returns=[], receipts=without(9))])
    assert account.explained == 1
    assert math.isfinite(account.worst_cut)


def test_doubles_and_ghosts_are_counted() -> None:
    """Twice on one channel is a double; what was said not to be sent must not come."""
    sendings = [*QUIET.sendings, sent(10, outcome=NOT_SENT), sent(11, outcome=UNKNOWN)]
    came = [*QUIET.receipts, received(3), received(10), received(11)]
    account = settle(SITE, [replace(QUIET, sendings=sendings, receipts=came)])
    assert (account.doubled, account.ghosts, account.unexplained) == (1, 1, 0)
    assert (account.refused, account.unknown) == (1, 1)


def test_a_group_message_is_due_to_each_member() -> None:
    """One send, two deliveries, of which one is missing."""
    one = replace(QUIET, sendings=[sent(7, GROUP)], receipts=[received(7, OTHER)])
    account = settle(SITE, [one])
    assert (account.returned, account.deliveries, account.unexplained) == (1, 2, 1)


@pytest.mark.parametrize(
    ("target", "reason"), [(SLOW, "capacity"), (WORK, "put_back"), (BUSY, "expired")]
)
def test_a_report_explains_as_many_as_it_names(target: int, reason: str) -> None:
    """Three are missing and two are reported."""
    lost = [sent(number, target, at=20.0 + number) for number in range(3)]
    one = replace(QUIET, sendings=lost, receipts=[], dropped=Counter({reason: 2}))
    account = settle(SITE, [one])
    assert (account.missing, account.reported, account.unexplained) == (3, 2, 1)


def test_a_report_is_not_spent_on_what_an_outage_explains() -> None:
    """A slow consumer has lost one to the outage, and one later for lack of room."""
    lost = [sent(4, SLOW), sent(9, SLOW)]
    one = replace(QUIET, sendings=lost, receipts=[received(3)], dropped=Counter(capacity=1))
    account = settle(SITE, [one])
    assert (account.explained, account.reported, account.unexplained) == (1, 1, 0)


def test_a_fast_consumer_is_not_excused_by_reports_of_others() -> None:
    """Drops for lack of room are those of the slow ones."""
    one = replace(QUIET, receipts=without(9), dropped=Counter({"capacity": 5, "put_back": 5}))
    assert settle(SITE, [one]).unexplained == 1


def test_what_lay_in_a_queue_that_was_forgotten_is_explained() -> None:
    """That message on that channel, and nothing that was sent at the same time."""
    calm = replace(QUIET, losses=[], returns=[])
    emptied = Forgetting(began=7.5, queued={(7, FAST), (6, OTHER)}, again={})
    account = settle(SITE, [replace(calm, receipts=without(6, 7))], [emptied])
    assert (account.missing, account.forgotten, account.unexplained) == (2, 1, 1)


@pytest.mark.parametrize(("target", "explained"), [(FAST, False), (GROUP, True)])
@pytest.mark.parametrize(("at", "meanwhile"), [(6.8, False), (6.95, True), (8.9, True), (9, False)])
def test_a_group_message_may_miss_whom_the_server_does_not_know_again(
    target: int, explained: bool, at: float, meanwhile: bool
) -> None:
    """From the loss of the data until the channel is a member again; direct messages arrive."""
    calm = replace(QUIET, sendings=[sent(7, target, at=at)], losses=[], returns=[])
    emptied = Forgetting(began=7.0, queued=set(), again={FAST: 9.0})
    receipts = [received(7, OTHER)] if target == GROUP else []
    account = settle(SITE, [replace(calm, receipts=receipts)], [emptied])
    assert account.missing == 1
    assert account.strangers == (explained and meanwhile)
    assert account.strangers + account.unexplained == 1


def test_what_is_written_down_is_read_again(tmp_path: Path) -> None:
    """Every number, in the order of writing."""
    journal = Journal(tmp_path)
    for sending, receipt in zip(QUIET.sendings, QUIET.receipts, strict=True):
        journal.sent(*sending)
        journal.received(*receipt)
    journal.flush()
    assert list(sendings(tmp_path)) == QUIET.sendings
    assert list(receipts(tmp_path)) == QUIET.receipts
