"""Names of keys, channels and Pub/Sub topics.  Does no I/O; the only module that adds the prefix.

The layout is that of channels_redis 4.3.0, so that old and new processes can share a server:

=====================  ======================================  ===========================
what                   name on the server                      type
=====================  ======================================  ===========================
queue                  ``<prefix><non-local name>``            sorted set: message -> time
group (core)           ``<prefix>:group:<group>``              sorted set: channel -> time
group (pubsub)         ``<prefix>__group__<group>``            Pub/Sub topic
leases                 ``<prefix>:live:<number>``              sorted set: process -> time (new)
presence               ``<prefix>:presence:{<group's name>}``  hash, see ``presence_join.lua`` (new)
groups of a process    ``<prefix>:held:<process>``             set of groups with presence (new)
who cleans up          ``<prefix>:cleaner:<process>``          process that removes a dead one (new)
channel (pubsub)       its own name, which has the prefix      Pub/Sub topic
proof of hearing       ``<prefix>__loopback__<random>``        Pub/Sub topic (new in 5.0)
the doctor's probe     ``<prefix>__doctor__<random>``          sorted set and topic, for seconds
log of a group         ``<prefix>:log:{<name of the group>}``  stream (new in 5.1)
position of a group    ``<prefix>:pos:{<name of the group>}``  string (new in 5.1)
=====================  ======================================  ===========================

The name of a group in braces is its key (core) or its topic (pubsub): so all three are in one slot
of a cluster, unless the prefix has braces itself.
"""

from __future__ import annotations

import re
import uuid
import zlib
from collections.abc import Iterator

from .encryption import Place

#: The key of a message with its recipients: one full channel name for a direct message, a list of
#: them for a group message.
ADDRESS_KEY = "__asgi_channel__"

#: The key that makes equal messages different members of a queue, if the serializer adds no random
#: prefix.
NONCE_KEY = "__asgi_nonce__"

#: The key of a published group message with the excluded channels.
EXCLUDE_KEY = "__asgi_exclude__"

#: The key of a received message of a group with history: its position.
POSITION_KEY = "__position__"
#: The key with the group of such a message, in the queue of a process (core).
GROUP_KEY = "__group__"

_CHANNEL_NAME = r"[a-zA-Z\d\-_.]+(\![\d\w\-_.]*)?"
_GROUP_NAME = r"[a-zA-Z\d\-_.]+"

#: The part between the prefix and the random digits of a new channel of the pubsub layer.  The
#: layer's own topics begin with two underscores.
_NEW_NAME = r"(?!__(?:group|loopback|doctor)__)[a-zA-Z\d\-_.]{0,67}"
#: The default of this part, in all releases.
_USUAL_NAME = "specific."

NO_BEGINNING = (
    "new_channel(): a prefix must consist of ASCII letters, digits, hyphens, underscores or "
    "periods, must be short enough for a name below 100 characters, and must not look like a "
    "topic of the layer."
)
_RING_POSITIONS = 4096
_RANDOM_LENGTH, _CHECK_LENGTH = 24, 8
_RANDOM = rf"[0-9a-f]{{{_RANDOM_LENGTH}}}"


def non_local_name(channel: str) -> str:
    """Return the name of a channel's queue: the channel name up to and including a ``!``."""
    head, mark, _ = channel.partition("!")
    return head + mark


def consistent_hash(name: str | bytes, ring_size: int) -> int:
    """Return the shard, counted from 0, that serves ``name`` on a ring of ``ring_size``."""
    if isinstance(name, str):
        name = name.encode("utf-8")
    position = zlib.crc32(name) % _RING_POSITIONS
    return int(position / (_RING_POSITIONS / ring_size))


def random_hex() -> str:
    """Return 32 hex digits from the operating system, never from the global generator."""
    return uuid.uuid4().hex


def _check_digits(start: str) -> str:
    return f"{zlib.crc32(start.encode('utf-8', 'surrogatepass')):08x}"


def glob_escape(text: str) -> str:
    """Escape ``text`` for a Redis glob pattern (SCAN MATCH, KEYS)."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)


def without(members: list[str], excluded: frozenset[str]) -> list[str]:
    """Return the members that are not excluded."""
    return [name for name in members if name not in excluded] if excluded else members


def in_parts(names: list[str], length: int) -> Iterator[list[str]]:
    """Yield the names in lists of at most ``length``."""
    for start in range(0, len(names), length):
        yield names[start : start + length]


class Keyspace:
    """The names of one layer: everything that depends on its ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        literal = re.escape(prefix)
        self._own_topic = re.compile(
            rf"{literal}({_NEW_NAME}){_RANDOM}([0-9a-f]{{{_CHECK_LENGTH}}})\Z", re.ASCII
        )
        self._own_key = re.compile(
            rf"{literal}(?:{_CHANNEL_NAME}(?:\$inflight)?|:group:{_GROUP_NAME})\Z", re.ASCII
        )
        name = rf"{literal}(?::group:|__group__){_GROUP_NAME}"
        self._history_key = re.compile(rf"{literal}:(?:log|pos):\{{{name}\}}\Z", re.ASCII)
        self._lease_key = re.compile(rf"{literal}:live:\d+\Z", re.ASCII)
        self._presence_key = re.compile(rf"{literal}:presence:\{{{name}\}}\Z", re.ASCII)

    def queue(self, name: str) -> str:
        """Return the key of the queue with this non-local name."""
        return self.prefix + name

    def group(self, group: str) -> bytes:
        """Return the key of the sorted set that holds a group's members (core)."""
        return f"{self.prefix}:group:{group}".encode()

    def leases(self, number: int) -> str:
        """Return the key of a sorted set that holds the leases of processes (core).

        One that no group or queue can have, so that no ``flush()`` takes it for one.
        """
        return f"{self.prefix}:live:{number}"

    def owns_leases(self, key: str) -> bool:
        """Return whether a key has leases of processes of this layer."""
        return self._lease_key.match(key) is not None

    def presence_of(self, group: str) -> bytes:
        """Return the key of a group's presence, which is in the slot of :meth:`group`."""
        return f"{self.prefix}:presence:{{{self.group(group).decode()}}}".encode()

    def held(self, process: str) -> str:
        """Return the key of the set of groups in which a process has presence."""
        return f"{self.prefix}:held:{process}"

    def cleaner(self, process: str) -> str:
        """Return the key that names the process which removes a dead one."""
        return f"{self.prefix}:cleaner:{process}"

    def presence_place(self, group: str) -> Place:
        """Return the place of the info about the members of a group."""
        return Place("presence", self.prefix, group)

    def owns_presence(self, key: str) -> bool:
        """Return whether a key has the presence of a group of this layer."""
        return self._presence_key.match(key) is not None

    def group_topic(self, group: str) -> str:
        """Return the Pub/Sub topic of a group (pubsub)."""
        return f"{self.prefix}__group__{group}"

    def log(self, name: str) -> str:
        """Return the key of the log of a group with this key or topic."""
        return f"{self.prefix}:log:{{{name}}}"

    def position(self, name: str) -> str:
        """Return the key of the newest position of a group with this key or topic."""
        return f"{self.prefix}:pos:{{{name}}}"

    def group_of_topic(self, topic: str) -> str:
        """Return the name of the group with a topic."""
        return topic.removeprefix(self.group_topic(""))

    def queue_place(self, name: str) -> Place:
        """Return the place of messages for a queue."""
        return Place("queue", self.prefix, name)

    def topic_place(self, topic: str) -> Place:
        """Return the place of messages for a topic."""
        return Place("topic", self.prefix, topic)

    def log_place(self, name: str) -> Place:
        """Return the place of messages in the log of a group (core)."""
        return Place("log", self.prefix, name)

    def new_own_topic(self) -> str:
        """Return a new Pub/Sub topic with which a subscriber checks its connection."""
        return f"{self.prefix}__loopback__{random_hex()}"

    def new_probe(self) -> str:
        """Return a new name of a key or a topic for the doctor's checks."""
        return f"{self.prefix}__doctor__{random_hex()}"

    def new_core_channel(self, prefix: str, client_prefix: str) -> str:
        """Return a new process-specific name of the core layer; ``ValueError`` as below."""
        if not isinstance(prefix, str):
            raise ValueError(NO_BEGINNING)
        return f"{prefix}.{client_prefix}!{random_hex()}"

    def new_topic_channel(self, prefix: str) -> str:
        """Return a new process-specific name of the pubsub layer, which is its own topic.

        The last of its 32 hex digits depend on all before them, so that a general channel whose
        name happens to begin and to end in the same way is not taken for one.  Raises
        ``ValueError`` for a ``prefix`` with which no name of a channel can begin.
        """
        if not isinstance(prefix, str) or not re.fullmatch(_NEW_NAME, prefix, re.ASCII):
            raise ValueError(NO_BEGINNING)
        start = f"{self.prefix}{prefix}{random_hex()[:_RANDOM_LENGTH]}"
        return start + _check_digits(start)

    def is_topic_channel(self, channel: str) -> bool:
        """Return whether a name is one that :meth:`new_topic_channel` of some process made.

        Earlier releases made all digits at random: of their names only the usual ones are known.
        """
        found = self._own_topic.match(channel)
        if found is None:
            return False
        return found[1] == _USUAL_NAME or found[2] == _check_digits(channel[:-_CHECK_LENGTH])

    def name_of(self, key: str) -> tuple[str, str] | None:
        """Return ``("queue", name)`` or ``("group", name)`` for a sorted set of this layer."""
        if not self.owns(key):
            return None
        name = key.removeprefix(self.prefix)
        if name.startswith(":group:"):
            return "group", name.removeprefix(":group:")
        return "queue", name

    def owns_history(self, key: str) -> bool:
        """Return whether a key is the log or the position of a group, on either layer."""
        return self._history_key.match(key) is not None

    def owned_keys_pattern(self) -> str:
        """Return a glob for SCAN that finds all keys of the layer, and possibly others."""
        return glob_escape(self.prefix) + "*"

    def owns(self, key: str) -> bool:
        """Return whether a sorted set of this name is this layer's: a queue, an old
        ``$inflight`` copy of one, or a group.  A longer prefix that looks like the start of a
        channel name can't be told apart, which the documentation says.
        """
        return self._own_key.match(key) is not None


class TopicKeyspace(Keyspace):
    """The names of the pubsub layer, where a group has no key: its name is that of its topic."""

    def group(self, group: str) -> bytes:
        """Return the name of a group, which has the slot of its presence."""
        return self.group_topic(group).encode()
