"""WebSocket consumers whose handlers run once for all sockets of a process (:doc:`broadcast`), and
whose clients get what they missed (:doc:`history`).

Importing this module does not need Django's settings.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any, ClassVar, Generic, TypeVar, overload

from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer, SyncConsumer, get_handler_name
from channels.db import database_sync_to_async
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.layers import get_channel_layer

from ._broadcast.attending import Attending
from ._broadcast.frames import Frame, Maker, shared
from ._receiving.messages import Item
from ._resume import joining, naming, steps
from ._resume.joining import Joined
from ._resume.naming import Named
from ._resume.steps import Steps

__all__ = ["BroadcastMixin", "ResumeMixin", "broadcast"]

C = TypeVar("C")

#: The classes that define ``send()``; a class that overrides it would be before these.
_PLAIN_SENDS = (
    [AsyncWebsocketConsumer, AsyncConsumer],
    [WebsocketConsumer, SyncConsumer, AsyncConsumer],
)


class broadcast(Generic[C]):
    """A decorator for a handler of a class with :class:`BroadcastMixin`, which is then called once
    per process and message, whatever the number of members.

    The function takes the class and the message, and returns the content that is sent for every
    member: ``str`` as a text frame, ``bytes`` as a binary frame, None for nothing.  Any other
    value is encoded with the class's ``encode_json()``.  The function runs on the event loop, so it
    must not block.  Its exceptions are logged, and end no consumer.  If it is called on the class,
    it returns its content.
    """

    def __init__(self, handler: Callable[[Any, dict[str, Any]], C]) -> None:
        function: Any = handler.__func__ if isinstance(handler, classmethod) else handler
        name = getattr(function, "__qualname__", repr(function))
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"@broadcast: {name}() is an async def. It is called once for all members and must "
                "return at once: do slow work before group_send(), or use an ordinary "
                "handler."
            )
        if not inspect.isfunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(
                f"@broadcast: {name} is not a plain function (cls, message) that returns the "
                "content to send."
            )
        self.handler = function
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__wrapped__ = function

    def __set_name__(self, owner: type[Any], name: str) -> None:
        if issubclass(owner, AsyncConsumer) and not issubclass(owner, BroadcastMixin):
            raise TypeError(
                f"@broadcast: {owner.__name__}.{name}() needs BroadcastMixin as the first base of "
                "its class."
            )

    @overload
    def __get__(self, consumer: None, kind: type[Any]) -> Callable[[dict[str, Any]], C]: ...

    @overload
    # In a class body, super() looks like an instance to type checkers.
    def __get__(self, consumer: object, kind: type[Any]) -> Callable[[dict[str, Any]], Any]: ...

    def __get__(self, consumer: Any, kind: type[Any]) -> Callable[[dict[str, Any]], Any]:
        if consumer is None:
            return partial(self.handler, kind)
        return partial(consumer._send_broadcast, self.__name__)


class BroadcastMixin:
    """A mixin for WebSocket consumers of Channels, sync or async; the first base of a class.

    Handlers with the decorator :class:`broadcast` are called once for all members.  Other handlers
    are called as usual, but at less cost: without a task for each message, and with Django's
    database connections checked for all consumers together: every ``db_check_interval_s``
    seconds, before a message if a connection is broken or too old, and after a handler has failed.
    If a class overrides ``dispatch()`` or ``__call__()``, these are called as in Channels.

    Works with any channel layer; with those of other packages a broadcast is called for each
    consumer.
    """

    #: Seconds between two checks of database connections, if no problem is known.
    db_check_interval_s: ClassVar[float] = 1

    _ways: ClassVar[Ways]
    #: The message that is being dispatched, and its frame.
    _shown: tuple[Any, Frame] | None = None

    # Channels' attributes of a consumer.
    _sync: ClassVar[bool]
    channel_layer_alias: ClassVar[str]
    channel_layer: Any
    channel_receive: Any

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not issubclass(cls, AsyncConsumer):
            return  # A mixin.
        if cls.__mro__.index(BroadcastMixin) > cls.__mro__.index(AsyncConsumer):
            raise TypeError(
                f"{cls.__name__}: BroadcastMixin must come before the consumer: "
                f"class {cls.__name__}(BroadcastMixin, ...)."
            )
        cls._ways = Ways(cls)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Dispatch messages until the consumer ends, like Channels' ``AsyncConsumer``."""
        self.scope = scope
        self.channel_layer = get_channel_layer(self.channel_layer_alias)
        if self.channel_layer is not None:
            self.channel_name = await self.channel_layer.new_channel()
            self.channel_receive = partial(self.channel_layer.receive, self.channel_name)
        self.base_send = async_to_sync(send) if self._sync else send
        self._asgi_send = send
        with contextlib.suppress(StopConsumer):
            await Attending(self, self._ways, receive).run()

    def _send_broadcast(self, name: str, message: dict[str, Any]) -> Any:
        """Send a broadcast like an ordinary handler, for classes that override dispatch()."""
        if not self._sync:
            return self._send_shown(self._ways.makers[name], message)
        frame = async_to_sync(self._frame_of)(self._ways.makers[name], message)
        if frame.field is not None:
            consumer: Any = self
            consumer.send(**frame.arguments())
        return None

    async def _send_shown(self, maker: Maker, message: dict[str, Any]) -> None:
        await self._ways.send(self, await self._frame_of(maker, message))

    async def _frame_of(self, maker: Maker, message: dict[str, Any]) -> Frame:
        shown = self._shown
        if shown is not None and shown[0] is message:
            return shown[1]
        return await maker.made(message)


class ResumeMixin:
    """A mixin for WebSocket consumers of Channels, sync or async, whose clients name what they have
    seen when they come back, and then get what they missed.

    It needs a layer with the option ``history`` for the groups.  With :class:`BroadcastMixin`, in
    any order, but before the consumer.  ``groups`` are joined from the client's position, and all
    others with :meth:`join`.
    """

    # Channels' attributes of a consumer.
    _sync: ClassVar[bool]
    scope: Any
    channel_layer: Any
    channel_name: str

    #: What the client named, and the groups that were joined, by name.
    _named: Named = naming.NOTHING
    _joined: dict[str, Joined]
    #: What it was not told yet, as it is not accepted.
    _untold: list[Joined]
    _is_accepted = False

    def may_resume(self, group: str) -> Any:
        """Return whether the client may join a group that it names and the consumer has not joined
        by itself.  No by default.  May be a coroutine function in async consumers.
        """
        return False

    def resume_failed(self, group: str) -> Any:
        """Called when messages that the client missed can't be delivered: load the group's state
        and send it.  Live messages follow.  May be a coroutine function in async consumers.
        """

    def join(self, group: str, *, since: str | None = None, **options: Any) -> Any:
        """Join a group, instead of ``channel_layer.group_add()``; to be awaited in async consumers.

        If the client has named a position in the group, what it missed since then is received
        first.  A client that has named none, or whose position is too old, gets what is kept after
        ``since``, such as ``"start"``; by default nothing.  ``options`` are further arguments of
        ``group_add()``, such as ``presence``.
        """
        return self._run(self._join(group, since, options))

    def resume_missed(self, message: dict[str, Any]) -> Any:
        """Tell the client of the groups in a message of the option ``on_reconnect`` of which it
        missed messages, and call :meth:`resume_failed` for each; to be awaited in async consumers.

        If the option is not set, it is called by itself: as the handler of ``resume.missed``.
        """
        return self._run(self._tell_missed(message))

    @staticmethod
    def positioned(content: Any, message: dict[str, Any]) -> Any:
        """Return the content of a frame, a dict, with the position of its message.

        Needed in ordinary handlers: ``send_json(self.positioned(content, message))``, for the last
        frame that is sent for a message.  The content of a broadcast has it already.
        """
        return naming.positioned(content, message)

    # Channels' methods of a consumer.

    def accept(self, *arguments: Any, **options: Any) -> Any:
        """Accept the client, and tell it of its groups."""
        return self._run(self._accept(partial(self._parent.accept, *arguments, **options)))

    def websocket_connect(self, message: Any) -> Any:
        """Join ``groups`` from the client's positions, and connect."""
        return self._run(self._connect(partial(self._parent.websocket_connect, message)))

    def websocket_receive(self, message: Any) -> Any:
        """Join the groups that the client names in a frame; pass on all other frames."""
        named = naming.named_in_frame(message.get("text"))
        if named is None:
            return self._parent.websocket_receive(message)
        return self._run(self._take_frame(named))

    def websocket_disconnect(self, message: Any) -> Any:
        """Leave all groups, and disconnect."""
        return self._run(self._disconnect(partial(self._parent.websocket_disconnect, message)))

    @property
    def _parent(self) -> Any:
        return super()

    def _run(self, work: Steps) -> Any:
        return steps.run_in_thread(work) if self._sync else steps.run(work)

    def _connect(self, connect: Callable[[], Any]) -> Steps:
        self._named = naming.named_in_query(self.scope.get("query_string", b""))
        self._joined, self._untold = {}, []
        # Channels would join its groups without a position.
        consumer: Any = self
        groups, consumer.groups = consumer.groups, []
        try:
            for group in groups:
                yield from self._join(group)
            yield connect
        finally:
            consumer.groups = groups
        if self._is_accepted:
            yield from self._join_allowed(self._named.positions)
            if self._named.is_cut:
                yield partial(self._send_text, naming.refusal(None))

    def _disconnect(self, disconnect: Callable[[], Any]) -> Steps:
        consumer: Any = self
        for group in self._joined:
            if group not in consumer.groups:
                yield partial(self.channel_layer.group_discard, group, self.channel_name)
        yield disconnect

    def _accept(self, accept: Callable[[], Any]) -> Steps:
        yield accept
        self._is_accepted = True
        yield from self._tell()

    def _take_frame(self, frame: Named) -> Steps:
        """Join the groups that a frame is the first to name.

        A group that was joined already can't be resumed: its later messages may be sent already.
        """
        before, self._named = self._named, self._named.followed_by(frame)
        positions = self._named.positions
        is_cut = self._named.is_cut and not before.is_cut
        new = [group for group in positions if group not in before.positions]
        missed = [group for group in new if group in self._joined and positions[group]]
        if is_cut:
            missed += [group for group in self._joined if group not in positions]
        yield from self._tell_failed(missed)
        yield from self._join_allowed(new)
        if is_cut:
            yield partial(self._send_text, naming.refusal(None))

    def _join_allowed(self, groups: Iterable[str]) -> Steps:
        """Join those groups of a client that the application allows."""
        for group in groups:
            if group in self._joined:
                continue
            if (yield partial(self.may_resume, group)):
                yield from self._join(group)
            else:
                yield partial(self._send_text, naming.refusal(group))

    def _join(
        self, group: str, since: str | None = None, options: dict[str, Any] | None = None
    ) -> Steps:
        if group in self._joined:
            return
        joined = yield partial(
            joining.join,
            self.channel_layer,
            self.channel_name,
            group,
            named=self._named.position(group),
            since=since,
            formerly=self._named.formerly,
            options=options,
        )
        self._joined[group] = joined
        self._untold.append(joined)
        if self._is_accepted:
            yield from self._tell()

    def _tell(self) -> Steps:
        """Tell the client how its groups were joined; before any message of these."""
        while self._untold:
            joined = self._untold.pop(0)
            yield partial(self._send_text, naming.notice(joined, self.channel_name))
            if joined.failed:
                yield partial(self.resume_failed, joined.group)
            for message in joined.kept:
                yield partial(getattr(self, get_handler_name(message)), message)

    def _tell_missed(self, message: dict[str, Any]) -> Steps:
        missed = message.get("missed", ())
        yield from self._tell_failed([group for group in missed if group in self._joined])

    def _tell_failed(self, groups: list[str]) -> Steps:
        """Tell the client of groups of which it has missed messages."""
        self._untold += [Joined(group, failed=True, position=None) for group in groups]
        if self._is_accepted:
            yield from self._tell()

    def _send_text(self, text: str) -> Any:
        consumer: Any = self
        return consumer.send(text_data=text)


def _positioned(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return a broadcast handler whose content has the position of its message."""

    @wraps(handler)
    def with_position(kind: type[Any], message: dict[str, Any]) -> Any:
        return naming.positioned(handler(kind, message), message)

    return with_position


class Ways:
    """How messages are dispatched to the consumers of one class."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind
        self.is_async = not kind._sync
        dispatches, calls = _definers(kind, "dispatch"), _definers(kind, "__call__")
        self.is_quick = (
            dispatches[0] in (AsyncConsumer, SyncConsumer) and calls[0] is BroadcastMixin
        )
        resumes = issubclass(kind, ResumeMixin)
        self.makers = {
            name: Maker(kind, _positioned(found.handler) if resumes else found.handler)
            for name, found in _broadcasts_of(kind).items()
        }
        if self.makers:
            self._check()
        self._is_plain_send = _definers(kind, "send") in _PLAIN_SENDS

    def _check(self) -> None:
        """Refuse a class with broadcasts that it can't send."""
        name, names = self.kind.__name__, ", ".join(self.makers)
        if not issubclass(self.kind, (AsyncWebsocketConsumer, WebsocketConsumer)):
            raise TypeError(
                f"{name}: @broadcast ({names}) needs a WebSocket consumer: AsyncWebsocketConsumer "
                "or WebsocketConsumer of Channels, or a subclass."
            )
        encode_json = inspect.getattr_static(self.kind, "encode_json", None)
        if inspect.isfunction(encode_json):
            raise TypeError(
                f"{name}: @broadcast ({names}) encodes once for all members, and encode_json() "
                "needs an instance. Make it a classmethod or a staticmethod, as in Channels."
            )

    def prepare(self, item: Item) -> Frame | None:
        """Return the frame of a message for idle consumers; None if they have to be woken."""
        # Called once for each consumer and message.
        found = item.shared or shared(item)
        return found.frames.get(self.kind) or found.ready(self.kind, self.makers)

    async def send(self, consumer: Any, frame: Frame) -> None:
        """Send a frame with the method of the class, or nothing."""
        if frame.field is None:
            return
        if self._is_plain_send:
            send = consumer.base_send if self.is_async else consumer._asgi_send
            await send({"type": "websocket.send", frame.field: frame.data})
        elif self.is_async:
            await consumer.send(**frame.arguments())
        else:
            await database_sync_to_async(consumer.send)(**frame.arguments())


def _definers(kind: type[Any], name: str) -> list[type[Any]]:
    """Return the classes that define an attribute, in the order of the MRO."""
    return [base for base in kind.__mro__ if name in vars(base)]


def _broadcasts_of(kind: type[Any]) -> dict[str, broadcast[Any]]:
    """Return the broadcasts of a class by the names of their handlers."""
    found: dict[str, broadcast[Any]] = {}
    for base in reversed(kind.__mro__):
        for name, attribute in vars(base).items():
            if isinstance(attribute, broadcast):
                found[name] = attribute
            else:
                found.pop(name, None)
    return found
