"""The error family: everything this package raises on its own account.

One root, so that ``except ChannelsRedisError`` catches all of it; each class also keeps the
parent that callers of earlier releases, redis-py or the Channels specification expect.
``ChannelFull`` stays Channels' own class, and ``SerializerDoesNotExist`` lives with the
serializer registry.  No message holds a password or the contents of a message.
"""

from __future__ import annotations

import redis.exceptions


class ChannelsRedisError(Exception):
    """Root of the family."""


class ConfigurationError(ChannelsRedisError, ValueError, TypeError):
    """An option or a host entry is wrong, or a server refuses what the options ask for."""


class InvalidMessage(ChannelsRedisError, AssertionError):
    """A message is not a dict, or uses a key that is reserved for the layer."""


class InvalidName(ChannelsRedisError, TypeError):
    """A channel or group name breaks the naming rules of the Channels specification."""


class ForeignChannelError(ChannelsRedisError, AssertionError, RuntimeError):
    """The operation needs a channel of this process, and the channel belongs to another."""


class ConnectionLost(ChannelsRedisError, redis.exceptions.ConnectionError):
    """A server could not be reached in time, or went away before its reply was read.

    ``maybe_executed`` tells whether the command may have run: it had been written, and no
    reply came.  Where it is false, the command certainly did not run.
    """

    def __init__(self, message: str = "", *, maybe_executed: bool = False) -> None:
        super().__init__(message)
        self.maybe_executed = maybe_executed


class LayerClosed(ChannelsRedisError, RuntimeError):
    """``close()`` ended this layer, or its event loop ended, while the call was waiting."""


class LoopRunning(ChannelsRedisError, RuntimeError):
    """A blocking call was made on a thread that runs an event loop."""


class MessageTooLarge(ChannelsRedisError):
    """A serialized message is larger than the option ``max_message_bytes`` allows."""


class TooManyChannels(ChannelsRedisError):
    """This process has made, or reads, more channels at once than the layer allows."""


class Unsupported(ChannelsRedisError, NotImplementedError):
    """The layer can't do what was asked for; the text says what can."""


class SerializationError(ChannelsRedisError, TypeError, ValueError):
    """A message can't be serialized; the text names the path to the offending value."""


class WrongKeyType(ChannelsRedisError, redis.exceptions.ResponseError):
    """The key of a queue or group in Redis holds something else than the layer's sorted set."""


#: What a command may raise: error replies and lost connections, and what is made of them.
COMMAND_ERRORS = (redis.exceptions.RedisError, ChannelsRedisError)
