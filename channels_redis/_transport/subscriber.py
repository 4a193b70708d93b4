"""The Pub/Sub connection of one node: subscribe, confirm, read, resubscribe.

Each topic has at most one command on its way, so every confirmation is unambiguous; what is
wanted may change meanwhile, and is compared again when the confirmation is read.  Topics asked for
in one tick go out in one command.  Whoever joins is notified where the confirmation is read,
before any message that follows it.

On sharded Pub/Sub a command carries topics of one slot, and the server may end subscriptions
unasked, as their slot goes to another server.  They are asked for again at once: the refusal says
where they are now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.exceptions import ConnectionError

from .._runtime.scope import Stage
from .._runtime.tasks import ignore, turn
from ..exceptions import ConfigurationError, ConnectionLost
from .link import Link
from .loopback import DEAF, Loopback
from .node import Node
from .packing import pack
from .subscriptions import AUTH, CLASSIC, SHARDED, Join, Publish, Sent, State, Topic, Topics, Verbs

#: How long a subscription waits that was refused, as the cluster is just being rearranged.
POSTPONED_S = 0.05


class Subscriber(Link):
    """Keeps the wanted topics of one event loop subscribed at one node.

    ``on_message(topic, payload)`` takes what is published; ``in_use(topic)`` says whether
    anybody still listens to a topic.  Both are called on the loop and must be quick.  On
    a topic of its own, new for each connection, it listens to itself (see :mod:`.loopback`).
    ``on_drop()`` is called where the server ends a subscription that is wanted, and
    ``on_join(topic)`` at each confirmation of one, before any message that follows.
    """

    def __init__(
        self,
        node: Node,
        on_message: Callable[[bytes, bytes], None],
        in_use: Callable[[bytes], bool],
        new_own_topic: Callable[[], bytes],
        publish: Publish,
        verbs: Verbs = CLASSIC,
        on_drop: Callable[[], None] = lambda: None,
        on_join: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        super().__init__(node, f"subscriber {node.health.name}", Stage.RECEIVING)
        self._on_message = on_message
        self._in_use = in_use
        self._on_drop = on_drop
        self._on_join = on_join
        self._verbs = verbs
        self._new_own_topic = new_own_topic
        self._publish = publish
        self._own_topic = b""
        self._loopback = Loopback(
            self._scope,
            node.command_timeout_s / 2,
            subscribe=self._question,
            publish=lambda: self._publish(self._own_topic, b""),
            failed=self._is_deaf,
        )
        #: What is wanted here, and how far each is.
        self.topics = Topics()
        self._changed: dict[bytes, None] = {}
        self._sent = Sent()
        self._postponed: set[bytes] = set()
        self._unconfirmed = 0
        self._recovering = False
        self._writing_due = False

    async def subscribe(
        self, name: bytes, arrived: Callable[[], None], limit_s: float | None
    ) -> None:
        """Return when the server has confirmed the subscription.

        ``arrived`` is called then, before any message that follows.  A cancelled call is undone,
        and does not call it any more; where it was called in that very turn of the event loop, the
        caller has to undo what it did there.

        Raises :class:`ConnectionLost` after ``limit_s`` seconds, :class:`ConfigurationError` where
        the server refuses.
        """
        if self._closed:
            raise self._given_up("the layer was closed")
        topic = self.topics.want(name, self._verbs)
        if topic.state is State.JOINED:
            arrived()
            return
        join = Join(arrived, self._loop.create_future())
        topic.joins.append(join)
        self._request(name)
        limit = self._loop.call_later(limit_s, self._give_up, join) if limit_s else None
        try:
            await join.future
        except BaseException:
            # Removed first, as a topic for which somebody waits is not released.
            if join in topic.joins:
                topic.joins.remove(join)
            self.release(name)
            raise
        finally:
            if limit is not None:
                limit.cancel()

    def release(self, name: bytes) -> None:
        """Unsubscribe from a topic, unless somebody listens or waits to."""
        topic = self.topics.get(name)
        if topic is None or topic.joins or self._in_use(name):
            return
        topic.wanted = False
        self._request(name)

    def move_out(self, name: bytes) -> Topic:
        """Pass a topic and its waiting calls to another server's subscriber; unsubscribe here."""
        topic = self.topics.move_out(name)
        self._request(name)
        return topic

    def move_in(self, name: bytes, topic: Topic) -> None:
        """Take over a topic that another subscriber gave away."""
        self.topics.move_in(name, topic)
        self._request(name)

    def _fail_all(self) -> None:
        """Raise an error in all calls that wait for topics."""
        self.topics.fail(list(self.topics), self._given_up("the layer was closed"))

    def _give_up(self, join: Join) -> None:
        join.fail(self._given_up(self._trouble))

    def _given_up(self, reason: str) -> ConnectionLost:
        return ConnectionLost(self._node.health.located(reason, "not subscribed"))

    def _request(self, name: bytes) -> None:
        """Compare what is wanted of a topic with its state, later in this tick."""
        if self._closed:
            self.topics.fail([name], self._given_up("the layer was closed"))
            return
        self._changed[name] = None
        if not self._writing_due:
            self._writing_due = True
            self._loop.call_soon(self.write_changes)
        self._task.start()

    def write_changes(self) -> None:
        """Write what changes: decided here, synchronously, for all topics of the tick."""
        self._writing_due = False
        changed, self._changed = self._changed, {}
        joining, leaving = self.topics.change(changed, connected=self._wire is not None)
        self._unconfirmed += len(joining)
        self._write(self._verbs.subscribe, joining)
        self._write(self._verbs.unsubscribe, leaving)

    def _write(self, command: bytes, names: list[bytes]) -> None:
        for batch in self._verbs.batches(names):
            assert self._wire is not None  # else no topic is JOINED or JOINING
            self._sent.add(command, batch)
            self._wire.write(pack(command, *batch))

    async def _run(self) -> None:
        await turn()
        while self.topics and not self._closed:
            try:
                await self._serve()
            except Exception as error:  # noqa: BLE001 (whatever it is, receiving has to go on)
                await self._lose(error)
        # A topic that is wanted while the connection is being closed starts the task again.
        await self._disconnect()
        if self._failures and not self._closed:
            # Nobody waits for the end of the outage any more, and it still has to be reported.
            self._publish(self._new_own_topic(), b"").add_done_callback(ignore)
        self._node.health.gone(self)

    def _is_wanted(self) -> bool:
        """Return whether anything is subscribed, or to be unsubscribed."""
        return bool(self.topics)

    async def _serve(self) -> None:
        if self._wire is None:
            await self._pause()
            await self._dial()
            self._recovering = True
            self._changed.update(dict.fromkeys(self.topics))
            self.write_changes()
            self._watch_anew()
        while self.topics:
            assert self._wire is not None  # only this task lets it go
            await self._wire.hand_over(self._take)

    def _authenticate(self, command: bytes) -> None:
        """Present new credentials; in RESP2 the server refuses, which comes to a new connection."""
        if self._wire is not None:
            self._sent.add(AUTH)
            self._wire.write(command)

    def _take(self, reply: Any) -> bool:
        if isinstance(reply, list) and reply[0] == self._verbs.message:
            self._loopback.heard()
            if reply[1] != self._own_topic:
                self._node.tally.received += 1
                self._on_message(reply[1], reply[2])
        else:
            self._take_answer(reply)
        return bool(self.topics)

    def _take_answer(self, reply: Any) -> None:
        self._loopback.replied()
        if isinstance(reply, list) and reply[0] == self._verbs.subscribed:
            self._confirm(self._verbs.subscribe, reply[1])
        elif isinstance(reply, list) and reply[0] == self._verbs.unsubscribed:
            self._confirm(self._verbs.unsubscribe, reply[1])
        elif isinstance(reply, Exception):
            self._refused(reply)
        else:
            self._sent.consented()

    def _confirm(self, command: bytes, name: bytes) -> None:
        """Take the next confirmation; they come in the order of the commands."""
        if not self._sent.confirmed(command, name):
            if command != SHARDED.unsubscribe:
                raise ConnectionError("an unexpected confirmation")
            self._dropped(name)
            return
        if name == self._own_topic:
            self._node.reply_came(self)
            self._loopback.confirmed()
            return
        topic = self.topics[name]
        if command == self._verbs.subscribe:
            # The state first: what is called here may subscribe to the same topic again, or
            # release it.
            topic.state = State.JOINED
            self._unconfirmed -= 1
            self._on_join(name)
            topic.arrive()
        else:
            topic.state = State.IDLE
        self._settle(name, topic)
        self._check_recovered()

    def _check_recovered(self) -> None:
        if self._recovering and not self._unconfirmed:
            self._recovering = False
            self._works()

    def _dropped(self, name: bytes) -> None:
        """Note that the server ended a subscription because its slot has moved.

        Where an end of our own is on its way too, this may be its late confirmation: what is not
        joined just now is left as it is.
        """
        self._node.note(None)
        if name == self._own_topic:
            self._watch_anew()
            return
        topic = self.topics.get(name)
        if topic is not None and topic.state is State.JOINED:
            topic.state = State.IDLE
            self._settle(name, topic)
            if topic.wanted:
                self._on_drop()

    def _watch_anew(self) -> None:
        assert self._wire is not None  # what has to be watched anew
        self._own_topic = self._new_own_topic()
        self._loopback.start(self._wire.health_check_s)

    def _settle(self, name: bytes, topic: Topic) -> None:
        """Compare what is wanted with the state that was reached."""
        if topic.state is State.IDLE and not topic.wanted:
            del self.topics[name]
        elif topic.wanted != (topic.state is State.JOINED):
            self._request(name)

    def _refused(self, reply: Exception) -> None:
        """Handle an error reply, which is the reply to the oldest command as a whole."""
        command, names = self._sent.refused()
        if command == AUTH:
            raise ConnectionError(str(reply))
        elsewhere = self._node.is_elsewhere(reply)
        if self._own_topic in names:
            if elsewhere:
                self._node.note(reply)
                self._watch_anew()
            else:
                self._loopback.confirmed()
            return
        if elsewhere:
            self._redirected(command, names, reply)
            return
        explained = self._node.explain(reply)
        if isinstance(explained, ConfigurationError):
            raise explained
        if command == self._verbs.unsubscribe or self._recovering:
            raise ConnectionError(str(reply))
        self._unconfirmed -= len(names)
        self.topics.refuse(names, explained)
        for name in names:
            self._settle(name, self.topics[name])

    def _redirected(self, command: bytes, names: list[bytes], reply: Exception) -> None:
        """Subscribe again, later, to topics that another server, or none at present, serves."""
        if command == self._verbs.subscribe:
            self._unconfirmed -= len(names)
        for name in names:
            topic = self.topics[name]
            topic.state = State.IDLE
            if not topic.wanted:
                self._settle(name, topic)
        self._node.note(reply)
        if not self._postponed:
            self._loop.call_later(POSTPONED_S, self._ask_again)
        self._postponed.update(names)
        self._check_recovered()

    def _ask_again(self) -> None:
        names, self._postponed = self._postponed, set()
        for name in names & self.topics.keys():
            self._request(name)

    async def _lose(self, error: Exception) -> None:
        """Drop the connection; everything has to be subscribed again."""
        if isinstance(error, ConfigurationError):
            self.topics.fail(list(self.topics), error)
        # Before the await, during which others may subscribe: no topic is subscribed any more.
        self.topics.lose()
        self._fails(str(error))
        await self._disconnect()

    def _question(self) -> None:
        """Subscribe to the own topic, which the server confirms."""
        self._node.reply_missing(self)
        self._write(self._verbs.subscribe, [self._own_topic])

    def _is_deaf(self, reason: str) -> None:
        """Close a connection on which no replies, or no messages, arrive."""
        if reason == DEAF:
            # It is unknown which end is at the wrong server: this one or the publishing one.
            self._node.renew(reason)
        elif self._wire is not None:
            self._wire.abort(reason)

    async def _disconnect(self) -> None:
        """Close the connection; replies that are still on their way are not waited for."""
        self._loopback.stop()
        self._sent.clear()
        self._unconfirmed = 0
        await super()._disconnect()
