"""``layer.sync.group_send_on_commit()``: a message that is true only once the database says so."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.apps import apps
from django.conf import settings
from django.db import connections, transaction
from django.db.utils import ConnectionHandler

from channels_redis.exceptions import (
    ConnectionLost,
    InvalidName,
    LoopRunning,
    SerializationError,
)
from channels_redis.testing.recording import RecordingChannelLayer
from tests.helpers import numbered, receive

if not settings.configured:
    settings.configure()

ALIAS = "commits"
DATABASES = {
    alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    for alias in ("default", ALIAS)
}


@contextlib.contextmanager
def database_for_transactions(alias: str) -> Iterator[None]:
    """Give this thread a database, which the settings of this process do not have."""
    # Django warns of queries before its applications are loaded, and here there are none to load.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apps, "ready", True)
        connections[alias] = ConnectionHandler(DATABASES)[alias]
        yield
        # Django's close() leaves a database in memory open.
        if connections[alias].connection is not None:
            connections[alias].connection.close()
        del connections[alias]


@pytest.fixture(autouse=True)
def database() -> Iterator[None]:
    with database_for_transactions(ALIAS):
        yield


def member_of_room(layer: Any) -> Callable[[], Any]:
    """Join a group; return a function that waits for the next message."""
    channel = async_to_sync(layer.new_channel)()
    layer.sync.group_add("room", channel)
    return partial(async_to_sync(receive), layer, channel)


def test_a_message_is_sent_at_the_commit_and_not_before(layer: Any) -> None:
    """What was sent meanwhile comes first."""
    next_message = member_of_room(layer)
    with transaction.atomic(ALIAS):
        layer.sync.group_send_on_commit("room", numbered(2), using=ALIAS)
        layer.sync.group_send("room", numbered(1))
    assert [next_message(), next_message()] == [numbered(1), numbered(2)]


def test_a_transaction_that_is_rolled_back_sends_nothing(layer: Any) -> None:
    """The whole of it, or the inner block that the message was sent in."""
    next_message = member_of_room(layer)
    with pytest.raises(ZeroDivisionError), transaction.atomic(ALIAS):
        layer.sync.group_send_on_commit("room", numbered(1), using=ALIAS)
        raise ZeroDivisionError
    with transaction.atomic(ALIAS):
        with pytest.raises(ZeroDivisionError), transaction.atomic(ALIAS):
            layer.sync.group_send_on_commit("room", numbered(2), using=ALIAS)
            raise ZeroDivisionError
        layer.sync.group_send_on_commit("room", numbered(3), using=ALIAS)
    assert next_message() == numbered(3)


def test_without_a_transaction_it_is_sent_at_once(layer: Any) -> None:
    """Code need not know whether it runs in one."""
    next_message = member_of_room(layer)
    layer.sync.group_send_on_commit("room", numbered(1), using=ALIAS)
    assert next_message() == numbered(1)


def test_message_and_exclude_are_those_of_the_call(layer: Any) -> None:
    """What happens to them before the commit changes nothing."""
    next_message = member_of_room(layer)
    left_out = async_to_sync(layer.new_channel)()
    layer.sync.group_add("room", left_out)
    message = {"type": "note", "tags": ["a"]}
    with transaction.atomic(ALIAS):
        layer.sync.group_send_on_commit(
            "room", message, exclude=(name for name in [left_out]), using=ALIAS
        )
        message["tags"] = ["b"]
    layer.sync.group_send("room", numbered(2))
    assert next_message() == {"type": "note", "tags": ["a"]}
    assert async_to_sync(receive)(layer, left_out) == numbered(2)


def test_wrong_arguments_are_refused_at_the_call(layer: Any) -> None:
    """At the commit nobody would know where they come from."""
    with transaction.atomic(ALIAS):
        with pytest.raises(SerializationError):
            layer.sync.group_send_on_commit("room", {"type": "x", "value": object()}, using=ALIAS)
        with pytest.raises(InvalidName):
            layer.sync.group_send_on_commit("no group", numbered(1), using=ALIAS)


async def test_on_a_thread_with_an_event_loop_it_is_refused_at_the_call(layer: Any) -> None:
    """Django's transactions are for code without a loop, and so is this."""
    with pytest.raises(LoopRunning):
        layer.sync.group_send_on_commit("room", numbered(1), using=ALIAS)


def test_a_lost_server_does_not_undo_what_was_committed(
    build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Django logs the error, and calls what else waits for the commit; unless asked to raise."""
    layer = build(hosts=["redis://localhost:1"], connect_wait_s=0.1)
    called = []
    with caplog.at_level(logging.ERROR, "django.db.backends.base"), transaction.atomic(ALIAS):
        layer.sync.group_send_on_commit("room", numbered(1), using=ALIAS)
        transaction.on_commit(lambda: called.append(1), using=ALIAS)
    assert called == [1]
    assert "ConnectionLost" in caplog.text
    with pytest.raises(ConnectionLost), transaction.atomic(ALIAS):
        layer.sync.group_send_on_commit("room", numbered(1), using=ALIAS, robust=False)


def test_a_recording_layer_remembers_it_at_the_commit(layer: Any) -> None:
    """A test sees what was sent, and when."""
    recorder = RecordingChannelLayer(layer)
    with transaction.atomic(ALIAS):
        recorder.sync.group_send_on_commit("room", numbered(1), exclude=["other"], using=ALIAS)
        recorder.assert_nothing_sent()
    assert recorder.assert_group_sent("room") == [numbered(1)]
    assert recorder.sent[0].exclude == {"other"}
