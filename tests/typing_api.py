"""What type checkers make of the public interface.  Never run: mypy and pyright read it.

Each function is what a project might write; ``assert_type`` fails where a checker sees another
type than we promise.  tests/test_package.py holds that nothing public is missing.
"""

from __future__ import annotations

import asyncio
import os
import unittest
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from typing_extensions import assert_never, assert_type

from channels_redis import events, exceptions, tracing
from channels_redis.core import RedisChannelLayer
from channels_redis.events import Event, Operation
from channels_redis.history import History, Resumed
from channels_redis.layers import HistoryOptions, LayerOptions, PresenceRule, get_layer
from channels_redis.opentelemetry import instrument
from channels_redis.presence import Member, Presence
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.serializers import (
    BaseMessageSerializer,
    InvalidSerializer,
    JSONSerializer,
    MsgPackSerializer,
    SerializerDoesNotExist,
    SerializersRegistry,
    encode_default,
    registry,
)
from channels_redis.stats import LayerStats, NodeStats
from channels_redis.sync import SyncFace
from channels_redis.testing.conformance import ChannelLayerConformance
from channels_redis.testing.plugin import (
    channels_redis_server,
    channels_redis_url,
    recorded_channel_layer,
    redis_channel_layers,
)
from channels_redis.testing.recording import RecordingChannelLayer, Sent, recording
from channels_redis.testing.resilience import UnreliableChannelLayer
from channels_redis.testing.servers import (
    BINARY_VARIABLE,
    Certificate,
    ClusterSet,
    ErrorReply,
    RedisServer,
    SentinelSet,
    ServerNotFound,
    command,
    find_server,
    reserved_port,
    server_version,
    supports_tls,
    wait_until,
)
from channels_redis.testing.testcases import RedisChannelLayersMixin

Layer = RedisChannelLayer | RedisPubSubChannelLayer


def options() -> tuple[RedisChannelLayer, RedisPubSubChannelLayer]:
    core = RedisChannelLayer(
        hosts=["redis://localhost:6379", ("localhost", 6380), {"address": "valkey://other"}],
        prefix="chat",
        expiry=0.5,
        group_expiry=3600,
        capacity=10,
        channel_capacity={"http.request": 200},
        symmetric_encryption_keys=["secret"],
        random_prefix_length=12,
        serializer_format="json",
        on_disconnect="redis.away",
        on_reconnect="redis.back",
        max_message_bytes=1024,
        max_buffered_bytes=1024,
        max_queued_bytes=1024,
        connect_wait_s=1.5,
        command_timeout_s=2.5,
        serializer_default=encode_default,
        encryption_binding="write",
        history={"room.*": {"size": 100, "ttl": 300}, "lobby": {}},
        presence={"room.*": {"key": "user", "max_bytes": 100}, "lobby": {}},
        max_catch_up=100,
    )
    return core, RedisPubSubChannelLayer()


def settings(hosts: list[str]) -> LayerOptions:
    """Literals and variables of every kind that the reference shows."""
    few: LayerOptions = {"hosts": hosts}
    few["hosts"] = ["redis://localhost:6379", ("localhost", 6380), {"address": "valkey://other"}]
    few["hosts"] = [{"sentinels": [("sentinel-1", 26379)], "master_name": "main"}]
    few["serializer_default"] = True
    return {
        "hosts": ["redis://localhost:6379"],
        "prefix": "chat",
        "expiry": 60,
        "group_expiry": 3600,
        "capacity": 10,
        "channel_capacity": {"http.request": 200},
        "symmetric_encryption_keys": ["secret"],
        "random_prefix_length": 12,
        "serializer_format": "json",
        "on_disconnect": "redis.away",
        "on_reconnect": "redis.back",
        "max_message_bytes": 1024,
        "max_buffered_bytes": 1024,
        "max_queued_bytes": 1024,
        "connect_wait_s": 1.5,
        "command_timeout_s": 2.5,
        "serializer_default": encode_default,
        "encryption_binding": "write",
        "history": {"room.*": HistoryOptions(size=100, ttl=0.5), "lobby": {}},
        "presence": {"room.*": PresenceRule(key="user", max_bytes=100), "lobby": {}},
        "max_catch_up": 100,
    }


def wrong_settings() -> list[LayerOptions]:
    """Each line is an error; a checker that no longer finds it complains of the comment."""
    return [
        {"capcity": 10},  # type: ignore[typeddict-unknown-key]  # an option that does not exist
        {"capacity": "10"},  # type: ignore[typeddict-item]  # a value of another type
        {"hosts": "redis://localhost"},  # type: ignore[typeddict-item]  # no list
        {"encryption_binding": "on"},  # type: ignore[typeddict-item]  # not one of the words
    ]


async def layers_of_the_settings() -> None:
    """What README does, which is an error with ``get_channel_layer()`` of types-channels."""
    layer = get_layer()
    assert_type(layer, RedisChannelLayer | RedisPubSubChannelLayer)
    await layer.group_send("lobby", {"type": "chat.message"}, exclude=["someone"])
    get_layer("other").sync.group_send("lobby", {"type": "chat.message"})


def attributes(layer: Layer) -> None:
    assert_type(layer.prefix, str)
    assert_type(layer.expiry, float)
    assert_type(layer.group_expiry, float)
    assert_type(layer.capacity, int)
    assert_type(layer.on_disconnect, str | None)
    assert_type(layer.on_reconnect, str | None)
    assert_type(layer.max_message_bytes, int)
    assert_type(layer.max_buffered_bytes, int)
    assert_type(layer.max_queued_bytes, int)
    assert_type(layer.connect_wait_s, float)
    assert_type(layer.command_timeout_s, float)
    assert_type(layer.random_prefix_length, int)
    assert_type(layer.ring_size, int)
    assert_type(layer.client_prefix, str)
    assert_type(layer.extensions, list[str])
    assert_type(layer.has_own_connections, bool)
    assert_type(layer.ChannelFull, type[Exception])
    assert_type(layer.MessageTooLarge, type[exceptions.MessageTooLarge])


async def messages(layer: Layer) -> None:
    channel = await layer.new_channel()
    assert_type(channel, str)
    assert_type(await layer.new_channel("specific"), str)
    await layer.send(channel, {"type": "greeting"})
    assert_type(await layer.receive(channel), Any)
    await layer.group_add("room", channel)
    await history(layer, channel)
    await presence(layer, channel)
    await layer.group_send("room", {"type": "greeting"})
    await layer.group_send("room", {"type": "greeting"}, exclude=[channel])
    await layer.group_discard("room", channel)
    assert_type(await layer.group_channels("room"), list[str])
    assert_type(await layer.group_size("room"), int)
    await layer.flush()
    await layer.close()


async def presence(layer: Layer, channel: str) -> None:
    await layer.group_add("room", channel, presence={"user": 7})
    there = await layer.group_presence("room")
    assert_type(there, Presence)
    assert_type(there.by_key, dict[Any, tuple[Member, ...]])
    assert_type(there.by_channel, dict[str, Member])
    for member in there:
        assert_type(member.info, dict[str, Any])
        assert_type(member.joined_s, float)
        assert_type((member.channel, member.key), tuple[str, Any])
    assert_type(there.members, tuple[Member, ...])
    assert_type(layer.sync.group_presence("room"), Presence)
    assert_type(bool(layer.presence), bool)


async def history(layer: Layer, channel: str) -> None:
    kept = await layer.group_history("room", since="start", limit=10)
    assert_type(kept, History)
    assert_type(kept.messages, list[dict[str, Any]])
    assert_type(kept.position, str)
    assert_type(kept.complete, bool)
    resumed = await layer.group_add("room", channel, since=kept.position, formerly=["old"])
    assert_type(resumed, Resumed | None)
    if resumed is not None:
        assert_type((resumed.complete, resumed.position, resumed.count), tuple[bool, str, int])
    assert_type(layer.sync.group_history("room"), History)
    assert_type(layer.sync.group_add("room", channel, since="start"), Resumed | None)
    assert_type(layer.max_catch_up, int)
    assert_type(bool(layer.history), bool)


def blocking_messages(layer: Layer) -> None:
    face = layer.sync
    assert_type(face, SyncFace)
    face.send("worker", {"type": "job"}, timeout_s=0.5)
    face.group_add("room", "worker")
    face.group_send("room", {"type": "greeting"}, exclude={"worker"}, timeout_s=None)
    face.group_send_on_commit("room", {"type": "greeting"}, using="default", robust=False)
    face.group_discard("room", "worker")
    assert_type(face.group_channels("room"), list[str])
    assert_type(face.group_size("room"), int)
    face.flush()
    face.close()


def seams(layer: Layer) -> None:
    assert_type(layer.create_pool(0), ConnectionPool)
    assert_type(layer.connection(0), Redis | RedisCluster)
    assert_type(layer.consistent_hash("room"), int)
    assert_type(layer.serialize({"type": "greeting"}), bytes)
    assert_type(layer.deserialize(b""), Any)


async def names_of_earlier_releases(
    core: RedisChannelLayer, pubsub: RedisPubSubChannelLayer
) -> None:
    await core.close_pools()
    await core.wait_received()
    assert_type(core.receive_count, int)
    assert_type(core.brpop_timeout, float)
    assert_type(core.receive_buffer["specific!"].qsize(), int)
    assert_type(list(pubsub.channels), list[str])
    assert_type(pubsub.groups, dict[str, set[str]])


def statistics(layer: Layer) -> None:
    stats = layer.stats()
    assert_type(stats, LayerStats)
    assert_type(stats.sent + stats.refused + stats.received + stats.delivered, int)
    assert_type(stats.in_flight + stats.reconnects + stats.decode_failures, int)
    assert_type(stats.mailboxes + stats.waiting + stats.buffered + stats.buffered_bytes, int)
    assert_type(stats.unreadable_queues, int)
    assert_type(stats.dead_processes, int)
    assert_type(stats.announced_leaves, int)
    assert_type(stats.dropped, dict[str, int])
    assert_type(stats.outage_s + stats.outage_total_s, float)
    for node in stats.nodes:
        assert_type(node, NodeStats)
        assert_type(node.node, str)
        assert_type(node.sent + node.refused + node.received, int)
        assert_type(node.in_flight + node.reconnects, int)
        assert_type(node.outage_s + node.outage_total_s, float)


def take_event(event: Event) -> None:
    match event:
        case events.NodeLost(node, reason):
            assert_type((node, reason), tuple[str, str])
        case events.NodeBack(node, outage_s):
            assert_type((node, outage_s), tuple[str, float])
        case events.MessagesDropped(channel, reason, count):
            assert_type((channel, reason, count), tuple[str, str, int])
        case events.GroupOverCapacity(group, full, members):
            assert_type((group, full, members), tuple[str, int, int])
        case events.QueueUnreadable(queue):
            assert_type(queue, str)
        case events.SenderClockUsed(node):
            assert_type(node, str)
        case _:
            assert_never(event)


def take_operation(operation: Operation) -> None:
    assert_type(operation.name, str)
    assert_type(operation.duration_s, float)
    assert_type(operation.error, str | None)


def subscriptions(layer: Layer) -> None:
    unsubscribe = layer.on_event(take_event)
    assert_type(unsubscribe(), None)
    layer.on_operation(take_operation)()
    instrument({"default": layer}, durations=False)()


def traces(layer: Layer, message: dict[str, Any]) -> None:
    assert_type(tracing.trace({"default": layer}), Callable[[], None])
    with tracing.process_span(message) as span:
        span.set_attribute("site", "test")

    @contextmanager
    def around(operation: str, arguments: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        yield arguments

    assert_type(layer.trace_sending(around), Callable[[], None])


class Traced(tracing.TracingMixin):
    async def handle(self, message: dict[str, Any]) -> None:
        assert_type(await self.dispatch(message), None)


def errors(error: exceptions.ChannelsRedisError) -> None:
    if isinstance(error, exceptions.ConnectionLost):
        assert_type(error.maybe_executed, bool)
    family: list[type[exceptions.ChannelsRedisError]] = [
        exceptions.ConfigurationError,
        exceptions.ForeignChannelError,
        exceptions.HistoryDisabled,
        exceptions.InvalidPresence,
        exceptions.PresenceDisabled,
        exceptions.WrongKeyType,
        exceptions.TooManyChannels,
        exceptions.InvalidMessage,
        exceptions.InvalidName,
        exceptions.InvalidPosition,
        exceptions.LayerClosed,
        exceptions.LoopRunning,
        exceptions.MessageTooLarge,
        exceptions.SerializationError,
        exceptions.Unsupported,
        InvalidSerializer,
        SerializerDoesNotExist,
    ]
    assert_type(family[0]("what is wrong").args, tuple[Any, ...])


class Reversed(BaseMessageSerializer):
    def as_bytes(self, message: Any) -> bytes:
        return JSONSerializer().as_bytes(message)[::-1]

    def from_bytes(self, message: bytes) -> Any:
        return MsgPackSerializer().from_bytes(message[::-1])


def formats() -> None:
    assert_type(registry, SerializersRegistry)
    registry.register_serializer("reversed", Reversed)
    registry.get_serializer("reversed", random_prefix_length=12)
    one = Reversed(["secret"], random_prefix_length=4, expiry=60, default=encode_default)
    assert_type(one.deserialize(one.serialize({})), Any)
    assert_type(encode_default(Path()), Any)


def servers() -> None:
    binary = find_server(tls=supports_tls(find_server()))
    assert_type(binary, str)
    assert_type(server_version(binary), tuple[str, tuple[int, ...]])
    assert_type(os.environ[BINARY_VARIABLE], str)
    with reserved_port(companion=1) as port:
        assert_type(port, int)
    with RedisServer(binary=binary, config={"save": ""}, unix_socket=True, tls=True) as server:
        assert_type(server, RedisServer)
        assert_type(server.address, tuple[str, int])
        assert_type(server.bus_port, int)
        assert_type(server.url + server.tls_url + server.unix_url + server.unix_path, str)
        assert_type(server.directory, Path)
        assert_type(server.certificate, Certificate | None)
        assert_type(server.log, str)
        assert_type(server.pid, int)
        server.freeze()
        server.thaw()
        server.stop()
        assert_type(server.start(), RedisServer)
        server.kill()
        server.restart()
        wait_until(lambda: server.running, "the server runs", timeout_s=5)
        assert_type(server.command("GET", "key"), Any)
        assert_type(server.info("server"), dict[str, str])
        assert_type(command(server.address, "PING", timeout_s=0.5), Any)
        server.close()
    wrong: tuple[type[Exception], ...] = (ErrorReply, ServerNotFound)
    assert_type(wrong[0]("no").args, tuple[Any, ...])


def sentinels() -> None:
    with SentinelSet() as sentinel_set:
        assert_type(sentinel_set, SentinelSet)
        assert_type(sentinel_set.host_entry(), dict[str, Any])
        assert_type(sentinel_set.sentinels, list[tuple[str, int]])
        assert_type(sentinel_set.primary, RedisServer)
        assert_type(sentinel_set.replicas, list[RedisServer])
        sentinel_set.settle(timeout_s=5)
        assert_type(sentinel_set.failover(), RedisServer)
        assert_type(sentinel_set.wait_for_new_primary(sentinel_set.primary), RedisServer)


def clusters() -> None:
    with ClusterSet() as cluster_set:
        assert_type(cluster_set, ClusterSet)
        assert_type(cluster_set.host_entry(), dict[str, Any])
        assert_type(cluster_set.primaries, list[RedisServer])
        assert_type(cluster_set.owner("key"), RedisServer)
        assert_type(cluster_set.replicas_of(cluster_set.primaries[0]), list[RedisServer])
        assert_type(cluster_set.failover("key"), RedisServer)


def recorded() -> None:
    with recording("default") as layer:
        assert_type(layer, RecordingChannelLayer)
        assert_type(layer.sent, list[Sent])
        first = layer.sent[0]
        assert_type((first.to, first.is_group), tuple[str, bool])
        assert_type((first.message, first.exclude), tuple[Any, frozenset[str]])
        assert_type(layer.assert_sent("worker", {"type": "job"}), list[Any])
        assert_type(layer.assert_group_sent("room", text="Hello"), list[Any])
        layer.sync.group_send("room", {"type": "greeting"})
        layer.sync.send("worker", {"type": "job"})
        layer.clear()
        layer.assert_nothing_sent()


async def wrapped(layer: Layer) -> None:
    recorder = RecordingChannelLayer(layer)
    await recorder.send("worker", {"type": "job"})
    await recorder.group_send("room", {"type": "greeting"}, exclude=["worker"])
    unreliable = UnreliableChannelLayer(layer, drop=0.1, delay=0.2, delay_s=0.5, seed=None)
    await asyncio.wait_for(unreliable.receive("worker"), timeout=5)
    assert_type((unreliable.dropped, unreliable.delayed), tuple[int, int])


FIXTURES = (
    channels_redis_server,
    channels_redis_url,
    recorded_channel_layer,
    redis_channel_layers,
)


class TestSite(RedisChannelLayersMixin, unittest.TestCase):
    def test_settings(self) -> None:
        get_layer()


class TestMine(ChannelLayerConformance):
    bound_s = 30
    deviations: ClassVar[Mapping[str, str]] = {"test_something": "It can't."}

    def new_layer(self, **options: Any) -> Any:
        return RedisChannelLayer(prefix=self.unique, **options)
