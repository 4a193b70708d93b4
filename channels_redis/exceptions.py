"""The exceptions of this package.

``except ChannelsRedisError`` catches all of them.  Each class is also a subclass of the exception
that earlier releases, redis-py or the Channels specification raise.  ``ChannelFull`` is Channels'
own class, and ``SerializerDoesNotExist`` is defined with the serializer registry.  The texts
contain no passwords and no contents of messages.
"""

from __future__ import annotations

from typing import Any

import redis.exceptions

#: Explains errors by their texts.
TROUBLESHOOTING = "https://django.github.io/channels_redis/troubleshooting.html"


class ChannelsRedisError(Exception):
    """The base class of all exceptions of this package."""


class ConfigurationError(ChannelsRedisError, ValueError, TypeError):
    """An option or an entry of ``hosts`` is wrong, or a server refuses to work with the options."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # Part of tracebacks and not of the text; new in Python 3.11.
        self.__notes__ = [f"Errors by their texts: {TROUBLESHOOTING}"]


class InvalidMessage(ChannelsRedisError, AssertionError):
    """A message is not a dict, or uses a key that is reserved for the layer."""


class InvalidName(ChannelsRedisError, TypeError):
    """A channel or group name is invalid according to the Channels specification."""


class ForeignChannelError(ChannelsRedisError, AssertionError, RuntimeError):
    """The operation needs a channel of this process, but the channel belongs to another one."""


class HistoryDisabled(ConfigurationError):
    """The history of a group was asked for, and the option ``history`` has no pattern for it."""


class InvalidPosition(ChannelsRedisError, ValueError):
    """A position in the history of a group is malformed, or belongs to another group."""


class ConnectionLost(ChannelsRedisError, redis.exceptions.ConnectionError):
    """A server could not be reached in time, or the connection was lost before its reply was read.

    ``maybe_executed`` is true if the command may have been executed: it was written, but there was
    no reply.  If it is false, the command was certainly not executed.
    """

    def __init__(self, message: str = "", *, maybe_executed: bool = False) -> None:
        super().__init__(message)
        self.maybe_executed = maybe_executed


class LayerClosed(ChannelsRedisError, RuntimeError):
    """The layer was closed, or its event loop ended, while the call was waiting."""


class LoopRunning(ChannelsRedisError, RuntimeError):
    """A blocking method was called in a thread that runs an event loop."""


class MessageTooLarge(ChannelsRedisError):
    """A serialized message is larger than the option ``max_message_bytes`` allows."""


class TooManyChannels(ChannelsRedisError):
    """This process has created, or reads, more channels than the layer allows."""


class Unsupported(ChannelsRedisError, NotImplementedError):
    """The layer does not support the operation; the text names an alternative."""


class PresenceDisabled(Unsupported, ValueError):
    """The option ``presence`` has no pattern for the group."""


class InvalidPresence(ChannelsRedisError, TypeError, ValueError):
    """The info about a member is not a dict, or its key does not identify a user."""


class SerializationError(ChannelsRedisError, TypeError, ValueError):
    """A message can't be serialized; the text names the path to the unsupported value."""


class WrongKeyType(ChannelsRedisError, redis.exceptions.ResponseError):
    """The key of a queue or group in Redis is not a sorted set of the layer."""


#: The exceptions of commands: error replies and lost connections, and those derived from them.
COMMAND_ERRORS = (redis.exceptions.RedisError, ChannelsRedisError)
