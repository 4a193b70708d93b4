"""What can be said about every single message, from the journals of all processes.

Messages of one connection arrive in the order in which the server took them. So whatever a process
received last before it lost a connection was taken before all that the loss can have swallowed, and
whatever was sent after the process was told of the end of the outage was taken after it. A message
whose ``send()`` returned and that is missing is *explained* if, for some outage of a process that
was to get it, it can have been taken between the two; else it is not.

A server that loses its data is looked into just before.  So it is known exactly which messages it
takes with it, and until when it does not know which channels are in a group: a group message that
was sent meanwhile may miss these.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.soak.journal import NOT_SENT, SENT, Receipt, Sending


@dataclass
class Witness:
    """What one process wrote down."""

    sendings: list[Sending]
    receipts: list[Receipt]
    losses: list[float]
    returns: list[float]
    dropped: Counter[str]
    raised: list[str] = field(default_factory=list)


@dataclass
class Site:
    """Who reads what: indices of channels, as the journals use them."""

    #: The process that reads a process-specific channel.
    home: dict[int, int]
    #: These read too slowly for what they get, and those now and then nothing for a while.
    slow: set[int]
    busy: set[int]
    general: set[int]
    #: The channels behind an index that stands for a group.
    groups: dict[int, list[int]]

    @property
    def late(self) -> set[int]:
        """Those whose receipts say little about when a message came to the process."""
        return self.slow | self.busy

    def reason(self, channel: int) -> str | None:
        """Return why a message may be dropped on a channel, and be reported."""
        if channel in self.general:
            return "put_back"
        if channel in self.slow:
            return "capacity"
        return "expired" if channel in self.busy else None

    def targets(self, sending: Sending) -> list[int]:
        """Return the channels that a message has to reach."""
        return self.groups.get(sending.target, [sending.target])


@dataclass
class Forgetting:
    """A server has lost its data, at some time after ``began``."""

    began: float
    #: What lay in queues then: numbers of messages, each with a channel that it was for.
    queued: set[tuple[int, int]]
    #: When each channel of a group was known to be in it again.
    again: dict[int, float]

    def has_cost(self, sending: Sending, channel: int, *, to_group: bool) -> str | None:
        """Return which figure of an `Account` a missing message belongs to, if to any."""
        if (sending.number, channel) in self.queued:
            return "forgotten"
        again = self.again.get(channel, 0.0)
        if to_group and self.began < sending.ended and sending.began < again:
            return "strangers"
        return None


@dataclass
class Account:
    """The figures of one layer; ``missing`` and the like count deliveries."""

    returned: int = 0
    refused: int = 0
    unknown: int = 0
    deliveries: int = 0
    received: int = 0
    doubled: int = 0
    ghosts: int = 0
    missing: int = 0
    reported: int = 0
    #: Lost with the queue that the server forgot, and sent before it knew the group again.
    forgotten: int = 0
    strangers: int = 0
    explained: int = 0
    unexplained: int = 0
    #: The same one by one, each with the channel that it did not reach.
    riddles: list[tuple[Sending, int]] = field(default_factory=list)
    #: The most messages that one outage of one connection has swallowed; a group message is one.
    worst_cut: int = 0
    outages: int = 0
    raised: list[str] = field(default_factory=list)


def settle(site: Site, processes: list[Witness], forgettings: Sequence[Forgetting] = ()) -> Account:
    """Return the account of one layer."""
    account = Account(raised=[error for one in processes for error in one.raised])
    account.outages = sum(len(one.losses) for one in processes)
    arrived: set[tuple[int, int]] = set()
    for receipt in (one for process in processes for one in process.receipts):
        account.received += 1
        account.doubled += (receipt.number, receipt.channel) in arrived
        arrived.add((receipt.number, receipt.channel))
    missing: list[tuple[Sending, int]] = []
    for sending in (one for process in processes for one in process.sendings):
        targets = site.targets(sending)
        absent = [channel for channel in targets if (sending.number, channel) not in arrived]
        if sending.outcome == SENT:
            account.returned += 1
            account.deliveries += len(targets)
            missing += [(sending, channel) for channel in absent]
        elif sending.outcome == NOT_SENT:
            account.refused += 1
            account.ghosts += len(targets) - len(absent)
        else:
            account.unknown += 1
    account.missing = len(missing)
    for one in forgettings:
        missing = [pair for pair in missing if not _blame(account, site, one, *pair)]
    _explain(account, site, processes, missing)
    return account


def _blame(
    account: Account, site: Site, forgetting: Forgetting, sending: Sending, channel: int
) -> bool:
    """Count a missing message as lost with the data of a server, if it can be."""
    to_group = sending.target in site.groups
    figure = forgetting.has_cost(sending, channel, to_group=to_group)
    if figure is not None:
        setattr(account, figure, getattr(account, figure) + 1)
    return figure is not None


def _explain(
    account: Account,
    site: Site,
    processes: list[Witness],
    missing: list[tuple[Sending, int]],
) -> None:
    """Say of each missing message what has become of it, as far as that is known."""
    dropped: Counter[str] = sum((one.dropped for one in processes), Counter())
    windows = Windows(site, processes)
    cuts: defaultdict[tuple[int, int, int], set[int]] = defaultdict(set)
    cut_off: list[tuple[Sending, int, tuple[int, int, int]]] = []
    for sending, channel in missing:
        cut = windows.swallowing(sending, channel)
        reason = site.reason(channel)
        if cut is not None:
            cut_off.append((sending, channel, cut))
        elif reason is not None and dropped[reason]:
            dropped[reason] -= 1
            account.reported += 1
        else:
            account.riddles.append((sending, channel))
    # Reports say how many, and not which: so they go first to those that no outage explains.
    for sending, channel, cut in cut_off:
        reason = site.reason(channel)
        if channel in site.late and reason is not None and dropped[reason]:
            dropped[reason] -= 1
            account.reported += 1
        else:
            account.explained += 1
            cuts[cut].add(sending.number)
    account.unexplained = len(account.riddles)
    account.worst_cut = max(map(len, cuts.values()), default=0)


class Windows:
    """The outages of all processes as spans of time in which a message can have been swallowed."""

    def __init__(self, site: Site, processes: list[Witness]) -> None:
        self._site = site
        self._spans = {
            index: list(self._spans_of(process)) for index, process in enumerate(processes)
        }
        began = {one.number: one.began for process in processes for one in process.sendings}
        self._began: dict[tuple[int, int, int], float] = {}
        for index, process in enumerate(processes):
            self._look_for_last(index, process, began)

    def _spans_of(self, process: Witness) -> Iterator[tuple[float, float]]:
        returns = [*process.returns, float("inf")]
        return zip(process.losses, returns, strict=False)

    def _source(self, channel: int) -> int:
        """Return what shares a connection: a general channel, or all others of a process (-1)."""
        return channel if channel in self._site.general else -1

    def _look_for_last(self, index: int, process: Witness, began: dict[int, float]) -> None:
        """Find when each outage's span begins: with the last that was received before it."""
        by_source: dict[int, list[Receipt]] = defaultdict(list)
        for receipt in process.receipts:
            by_source[self._source(receipt.channel)].append(receipt)
        late = self._site.late
        for source in (-1, *self._site.general):
            last, position = 0.0, 0
            receipts = [one for one in by_source[source] if one.channel not in late]
            receipts.sort(key=lambda one: one.at)
            for number, (lost, _) in enumerate(self._spans[index]):
                while position < len(receipts) and receipts[position].at < lost:
                    last = max(last, began.get(receipts[position].number, 0.0))
                    position += 1
                self._began[index, number, source] = last

    def swallowing(self, sending: Sending, channel: int) -> tuple[int, int, int] | None:
        """Return process, number and connection of an outage that can have taken a message."""
        source = self._source(channel)
        for index in self._spans if source >= 0 else [self._site.home[channel]]:
            for number, (_, back) in enumerate(self._spans[index]):
                start = self._began[index, number, source]
                if sending.began < back and sending.ended > start:
                    return index, number, source
        return None
