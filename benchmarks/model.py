"""How a site grows: a model of what servers and processes have to do, for any number of consumers.

:mod:`benchmarks.scaling` prints what it says; :mod:`benchmarks.points` measures what it predicts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

#: What is used at most of a limit: the rest is for bursts, releases and outages.
USABLE = 0.7
MAX_SERVERS = 512


@dataclass(frozen=True)
class Costs:
    """What things cost; measured on the machine of the documentation (see ``--check``).

    Times are CPU of the server but for ``delivery_us``, which is of a receiving process.
    """

    round_trip_ms: float = 0.3
    #: Core: one message into a queue and out again, with its reader's next pop.
    queued_us: float = 20.3
    #: Core: reading one member of a group, and sending and taking its name.
    member_us: float = 0.29
    #: Pubsub: one publication, for itself and for each connection that gets it.
    publish_us: float = 4.0
    push_us: float = 4.5
    #: A server that has nothing to do is woken by each write. Under load many come at once, so
    #: that this counts for times, and for no limit.
    wake_up_us: float = 55.0
    #: Classic Pub/Sub in a cluster: one publication at each of the other servers.
    bus_us: float = 5.0
    delivery_us: float = 4.2
    connection_bytes: float = 38_500
    #: On the server: a member of a group (core), a channel of a consumer (pubsub).
    member_bytes: float = 210
    topic_bytes: float = 225
    consumer_bytes: float = 4096
    #: Beside the contents of a message: key, script, framing.
    frame_bytes: float = 40
    #: Core: the name of a member, in lists of members and in frames.
    name_bytes: float = 78


@dataclass(frozen=True)
class Limits:
    """What one server, and one process, can bear."""

    connections: float = 10_000
    network_bytes_per_s: float = 1.25e9
    server_bytes: float = 16e9
    #: ``client-output-buffer-limit pubsub``, and the longest pause of a process's event loop.
    output_buffer_bytes: float = 32e6
    pause_s: float = 2.0
    #: How long all others may wait for one script.
    script_ms: float = 10.0


MEASURED = Costs()
DEFAULTS = Limits()


@dataclass(frozen=True)
class Site:
    """Who is there, and what is sent."""

    layer: str
    consumers: int
    #: Consumers in one process.
    per_process: int = 2_000
    #: Members of one group; each consumer is in one.
    group_size: int = 50
    #: Messages to one consumer, and to one group, per second.
    direct_per_s: float = 0.02
    group_per_s: float = 0.1
    message_bytes: int = 250
    servers: int = 1
    #: A cluster instead of a ring, and whether its Pub/Sub is classic.
    cluster: bool = False
    classic: bool = False

    @property
    def processes(self) -> int:
        return math.ceil(self.consumers / self.per_process)

    @property
    def groups(self) -> float:
        return max(1.0, self.consumers / self.group_size)

    @property
    def members(self) -> float:
        """Members of a group."""
        return min(self.group_size, self.consumers)

    @property
    def spread(self) -> float:
        """How many processes have a member of a group, if they come by chance."""
        return self.processes * (1 - math.pow(1 - 1 / self.processes, self.members))


@dataclass(frozen=True)
class Work:
    """What one message makes the servers do, all together."""

    commands: float
    server_us: float
    sent_bytes: float
    #: How long one script keeps all others waiting.
    script_us: float = 0.0


def direct_message(site: Site, costs: Costs = MEASURED) -> Work:
    """The work of a message to one consumer."""
    size = site.message_bytes + costs.frame_bytes
    if site.layer == "core":
        return Work(2, costs.queued_us, size + costs.name_bytes)
    return _published(site, 1, costs)


def group_message(site: Site, costs: Costs = MEASURED) -> Work:
    """The work of a message to one group."""
    if site.layer == "pubsub":
        return _published(site, site.spread, costs)
    # The members, asked for with two commands, go to the sender, and in frames to the processes.
    names = 2 * site.members * costs.name_bytes
    reading_us = site.members * costs.member_us
    return Work(
        commands=2 + 2 * site.spread,
        server_us=reading_us + site.spread * costs.queued_us,
        sent_bytes=names + site.spread * (site.message_bytes + costs.frame_bytes),
        script_us=reading_us,
    )


def _published(site: Site, hearers: float, costs: Costs) -> Work:
    size = site.message_bytes + costs.frame_bytes
    others = site.servers - 1 if site.cluster and site.classic else 0
    return Work(
        commands=1,
        server_us=costs.publish_us + hearers * costs.push_us + others * costs.bus_us,
        sent_bytes=(hearers + others) * size,
    )


@dataclass(frozen=True)
class Load:
    """What it comes to: of one server, unless it says otherwise."""

    connections: float
    commands_per_s: float
    server_cpu: float
    script_ms: float
    network_bytes_per_s: float
    server_bytes: float
    #: Of one process, for each server.
    buffered_bytes: float
    process_cpu: float
    process_bytes: float
    latency_ms: float

    def shares(self, limits: Limits) -> dict[str, float]:
        """How much of each limit is used; the names are those of the documentation."""
        return {
            "connections": self.connections / limits.connections,
            "server CPU": self.server_cpu,
            "longest script": self.script_ms / limits.script_ms,
            "network": self.network_bytes_per_s / limits.network_bytes_per_s,
            "server memory": self.server_bytes / limits.server_bytes,
            "output buffer": self.buffered_bytes / limits.output_buffer_bytes,
            "process CPU": self.process_cpu,
        }

    def first_limit(self, limits: Limits) -> tuple[str, float]:
        """The limit that comes first, and how much of it is used."""
        shares = self.shares(limits)
        name = max(shares, key=shares.__getitem__)
        return name, shares[name]


def connections(site: Site) -> float:
    """Of one server: commands of each process; and what it hears by, everywhere or at one."""
    everywhere = site.layer == "pubsub" and not site.classic
    return site.processes * (1 + (1 if everywhere else 1 / site.servers))


def predict(site: Site, costs: Costs = MEASURED, limits: Limits = DEFAULTS) -> Load:
    """Return the load of a site."""
    direct, group = direct_message(site, costs), group_message(site, costs)
    direct_per_s = site.consumers * site.direct_per_s
    group_per_s = site.groups * site.group_per_s

    def each_s(figure: str) -> float:
        both = direct_per_s * getattr(direct, figure) + group_per_s * getattr(group, figure)
        return float(both) / site.servers

    server_cpu = each_s("server_us") / 1e6
    process_cpu = costs.delivery_us * deliveries_per_s(site) / site.processes / 1e6
    heard = each_s("sent_bytes") / site.processes if site.layer == "pubsub" else 0.0
    return Load(
        connections=connections(site),
        commands_per_s=each_s("commands"),
        server_cpu=server_cpu,
        script_ms=group.script_us / 1e3,
        network_bytes_per_s=each_s("sent_bytes"),
        server_bytes=server_bytes(site, costs),
        buffered_bytes=heard * limits.pause_s,
        process_cpu=process_cpu,
        process_bytes=min(site.consumers, site.per_process) * costs.consumer_bytes,
        latency_ms=latency_ms(site, server_cpu, costs),
    )


def deliveries_per_s(site: Site) -> float:
    """Messages that consumers receive."""
    to_groups = site.groups * site.group_per_s * site.members
    return site.consumers * site.direct_per_s + to_groups


def server_bytes(site: Site, costs: Costs = MEASURED) -> float:
    """The memory of one server; in ordinary operation nothing waits."""
    return connections(site) * costs.connection_bytes + kept_bytes(site, costs) / site.servers


def kept_bytes(site: Site, costs: Costs = MEASURED) -> float:
    """Memory of all servers for members and topics."""
    if site.layer == "core":
        return site.consumers * costs.member_bytes
    # The channel of each consumer, and each group once for every process in it.
    return (site.consumers + site.groups * site.spread) * costs.topic_bytes


def latency_ms(site: Site, server_cpu: float, costs: Costs = MEASURED) -> float:
    """From ``group_send()`` until the last member has it: the queue at the server, its work, and
    the turns of the members in one process.
    """
    work_ms = group_message(site, costs).server_us / 1e3
    waiting_ms = work_ms * server_cpu / (2 * (1 - server_cpu)) if server_cpu < 1 else math.inf
    return waiting_ms + deliver_ms(site, site.members / max(1.0, site.spread), costs)


def deliver_ms(site: Site, members: float, costs: Costs = MEASURED) -> float:
    """The same without others in the way, with so many of the members in one event loop."""
    work_ms = group_message(site, costs).server_us / 1e3
    return round_trips(site) * costs.round_trip_ms + work_ms + members * costs.delivery_us / 1e3


def round_trips(site: Site) -> int:
    """Of a message to a group: core asks for the members first."""
    return 2 if site.layer == "core" else 1


def servers_needed(site: Site, costs: Costs = MEASURED, limits: Limits = DEFAULTS) -> Site | None:
    """The site on as few servers as keep all limits; None if more servers do not help."""
    for servers in range(site.servers, MAX_SERVERS + 1):
        larger = replace(site, servers=servers)
        if predict(larger, costs, limits).first_limit(limits)[1] <= USABLE:
            return larger
    return None
