"""Checks the settings without opening a connection.

Invalid options are found by the layer's constructor, whose error names the option and the valid
values.  This module calls it with each option separately, so that one mistake does not hide the
next, and finds settings that work but are likely to cause problems.
"""

from __future__ import annotations

import inspect
import itertools
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._config.hosts import is_plain_address, missing_value, no_value
from .._config.secrets import Secrets
from .._config.tls import VERIFICATION_KEYWORDS
from .._format.encryption import REQUIRE
from .._format.keyspace import Keyspace
from .._layer.base import BaseRedisLayer
from ..exceptions import ConfigurationError
from ..pubsub import RedisPubSubChannelLayer
from .endpoints import Endpoint, endpoints_of
from .findings import Finding, Level

#: Values outside of these bounds are probably mistakes.
EXPIRY_S = 5, 3600
CAPACITY_MAX = 100_000
KEY_LENGTH_MIN, KEY_SIGNS_MIN = 16, 8

#: Options that require other options.
_NEEDS = {"encryption_binding": ("symmetric_encryption_keys",)}

_ERROR_IDS = {"hosts": "E003", "symmetric_encryption_keys": "E004"}


@dataclass(frozen=True)
class Setup:
    """One layer of the settings; ``layer`` is None if it can't be constructed."""

    alias: str
    #: Not shown, because it contains passwords and keys.
    config: Mapping[str, Any] = field(repr=False)
    layer: BaseRedisLayer | None
    refusals: tuple[Finding, ...] = ()

    @property
    def secrets(self) -> Secrets:
        """The secrets that no text about the layer may contain."""
        return Secrets(self.config)

    @property
    def is_pubsub(self) -> bool:
        """Whether messages to consumers are sent with Pub/Sub."""
        return isinstance(self.layer, RedisPubSubChannelLayer)


#: Advice for a BACKEND that can't be imported.
_BACKENDS = (
    "The layers of this package are channels_redis.core.RedisChannelLayer and "
    "channels_redis.pubsub.RedisPubSubChannelLayer."
)


def read_settings(settings: Mapping[str, Mapping[str, Any]]) -> list[Setup]:
    """Return the layers of ``CHANNEL_LAYERS`` that belong to this package."""
    found = (_read(alias, entry) for alias, entry in settings.items())
    return [setup for setup in found if setup is not None]


def _read(alias: str, entry: Mapping[str, Any]) -> Setup | None:
    config = entry.get("CONFIG") or {}
    try:
        layer_class = pkgutil.resolve_name(entry["BACKEND"])
    except Exception as error:  # noqa: BLE001 (whatever importing a user's module raises)
        text = f"BACKEND can't be imported: {type(error).__name__}: {error}"
        return Setup(alias, config, None, (Finding(Level.ERROR, "E005", alias, text, _BACKENDS),))
    if not (isinstance(layer_class, type) and issubclass(layer_class, BaseRedisLayer)):
        return None
    try:
        layer = layer_class(**config)
        refusals = tuple(_missing(alias, layer))
        return Setup(alias, config, None if refusals else layer, refusals)
    except Exception as error:  # noqa: BLE001 (whatever a subclass raises)
        return Setup(alias, config, None, tuple(_refusals(alias, layer_class, config, error)))


def _missing(alias: str, layer: BaseRedisLayer) -> Iterator[Finding]:
    """Find entries of ``hosts`` without a value, which the constructor accepts."""
    if type(layer).create_pool is not BaseRedisLayer.create_pool:
        return  # It may determine the servers itself.
    for index, host in enumerate(layer.hosts):
        missing = missing_value(host)
        if missing is not None:
            text = str(no_value(f"hosts[{index}]", missing))
            yield Finding(Level.ERROR, _ERROR_IDS["hosts"], alias, text)


def _refusals(
    alias: str, layer_class: Any, config: Mapping[str, Any], whole: Exception
) -> Iterator[Finding]:
    known = inspect.signature(BaseRedisLayer).parameters
    found = False
    for name, value in config.items():
        needed = {other: config[other] for other in _NEEDS.get(name, ()) if other in config}
        try:
            layer_class(**{name: value, **needed})
        except ConfigurationError as error:
            found = True
            id = _ERROR_IDS.get(name, "E002") if name in known else "E001"
            yield Finding(Level.ERROR, id, alias, str(error))
        except Exception:  # noqa: BLE001 (a subclass may need the others; ``whole`` is reported)
            continue
    if not found:
        text = f"{layer_class.__name__} can't be constructed: {type(whole).__name__}: {whole}"
        yield Finding(Level.ERROR, "E005", alias, text)


# Settings that work but are likely to cause problems


def examine(setups: list[Setup]) -> list[Finding]:
    """Return the errors and probable mistakes in the settings of these layers."""
    findings = [one.without(setup.secrets) for setup in setups for one in setup.refusals]
    sound = [setup for setup in setups if setup.layer is not None]
    for setup in sound:
        findings += [*_odd_numbers(setup), *_repeated_hosts(setup), *_idle_keywords(setup)]
    for one, other in itertools.combinations(sound, 2):
        findings += _clash(one, other)
    return findings


def examine_for_deployment(setups: list[Setup]) -> list[Finding]:
    """Return settings that are insecure in production: for Django's ``check --deploy``."""
    findings: list[Finding] = []
    for setup in setups:
        if setup.layer is not None:
            findings += [*_open_secrets(setup), *_weak_keys(setup), *_unbound(setup)]
    return findings


def _odd_numbers(setup: Setup) -> Iterator[Finding]:
    def warning(id: str, text: str, advice: str) -> Finding:
        return Finding(Level.WARNING, id, setup.alias, text, advice)

    layer = setup.layer
    assert layer is not None
    if layer.group_expiry < layer.expiry:
        yield warning(
            "W001",
            f"group_expiry ({layer.group_expiry:g} s) is below expiry ({layer.expiry:g} s): "
            "members are removed from groups while messages still wait for them.",
            "Set group_expiry to at least the longest connection of a client (default: a day).",
        )
    if not EXPIRY_S[0] <= layer.expiry <= EXPIRY_S[1]:
        hint = " It is in seconds, not in milliseconds." if layer.expiry > EXPIRY_S[1] else ""
        yield warning(
            "W002",
            f"expiry is {layer.expiry:g} s: messages expire in short pauses of a reader, or stay "
            "in Redis long after their reader has ended.",
            f"Choose {EXPIRY_S[0]} to {EXPIRY_S[1]} s; the default is 60.{hint}",
        )
    for name, capacity in _capacities(layer):
        if capacity > CAPACITY_MAX:
            yield warning(
                "W003",
                f"{name} is {capacity}: a channel that is not read may use up the memory of the "
                "server and of the process before it is full.",
                "Choose a number that a reader can catch up with, such as 100 to 10,000.",
            )


def _capacities(layer: BaseRedisLayer) -> Iterator[tuple[str, int]]:
    yield "capacity", layer.capacity
    for pattern, capacity in layer.channel_capacity:
        yield f"channel_capacity[{pattern.pattern!r}]", capacity


def _endpoints(setup: Setup) -> list[list[Endpoint]]:
    """Return the endpoints of each entry of ``hosts``."""
    layer = setup.layer
    assert layer is not None
    found = []
    for index in range(layer.ring_size):
        try:
            found.append(endpoints_of(layer.create_pool(index)))
        except Exception:  # noqa: BLE001 (a subclass's create_pool() may raise anything)
            found.append([])
    return found


def _repeated_hosts(setup: Setup) -> Iterator[Finding]:
    seen: dict[tuple[Any, ...], int] = {}
    for index, endpoints in enumerate(_endpoints(setup)):
        place = tuple((one.host, one.port, one.database) for one in endpoints)
        first = seen.setdefault(place, index)
        if place and first != index:
            yield Finding(
                Level.WARNING,
                "W004",
                setup.alias,
                f"hosts[{index}] is the same server as hosts[{first}].",
                "List each server once: a second entry costs connections and has no benefit.",
            )


def _idle_keywords(setup: Setup) -> Iterator[Finding]:
    assert setup.layer is not None
    for index, host in enumerate(setup.layer.hosts):
        idle = sorted(VERIFICATION_KEYWORDS & host.keys())
        if idle and is_plain_address(host):
            yield Finding(
                Level.WARNING,
                "W006",
                setup.alias,
                f"hosts[{index}]: {idle[0]} has no effect, because the address does not use TLS.",
                "Use rediss:// if the server should be reached over TLS.",
            )


def _clash(one: Setup, other: Setup) -> Iterator[Finding]:
    """Find prefixes with which two layers use each other's keys or topics."""
    assert one.layer is not None
    assert other.layer is not None
    topics = one.is_pubsub and other.is_pubsub
    if not _places(one, topics) & _places(other, topics):
        return
    short, long = sorted((one.layer.prefix, other.layer.prefix), key=len)
    if Keyspace(short).owns(Keyspace(long).queue("x")):
        yield Finding(
            Level.WARNING,
            "W005",
            f"{one.alias}, {other.alias}",
            f"These layers share a server, and the prefixes {short!r} and {long!r} are ambiguous: "
            "one layer may read and delete messages of the other.",
            f"End each prefix with a colon, such as {short.rstrip(':') + ':'!r}, and make them "
            "different.",
        )


def _places(setup: Setup, topics: bool) -> set[tuple[Any, ...]]:
    # Pub/Sub ignores the database.  A primary is identified by its Sentinels.
    return {
        (one.host, one.port, 0 if topics else endpoints[0].database)
        for endpoints in _endpoints(setup)
        for one in endpoints[1:] or endpoints
    }


def _open_secrets(setup: Setup) -> Iterator[Finding]:
    def warning(id: str, where: Endpoint, text: str, advice: str) -> Finding:
        return Finding(Level.WARNING, id, setup.alias, f"{where}: {text}", advice)

    encrypted = bool(setup.config.get("symmetric_encryption_keys"))
    for one in itertools.chain.from_iterable(_endpoints(setup)):
        if one.local:
            continue
        use_tls = "Use TLS: a URL with rediss://, or the keyword ssl."
        if one.tls and not one.verified:
            yield warning(
                "W104",
                one,
                "the certificate or its host name is not verified: an attacker in the network can "
                "read everything.",
                "Set ssl_ca_certs to the file of the authority, and remove ssl_cert_reqs and "
                "ssl_check_hostname.",
            )
        if not one.tls and one.has_password:
            text = "the password is sent over the network without encryption."
            yield warning("W101", one, text, use_tls)
        if not one.tls and not one.is_sentinel and not encrypted:
            yield warning(
                "W103",
                one,
                "messages are sent over the network without encryption.",
                f"{use_tls} Or encrypt messages with symmetric_encryption_keys.",
            )


def _unbound(setup: Setup) -> Iterator[Finding]:
    if setup.config.get("symmetric_encryption_keys") and setup.layer is not None:
        step = setup.layer.encryption_binding
        if step != REQUIRE:
            yield Finding(
                Level.WARNING,
                "W105",
                setup.alias,
                f"encryption_binding is {step!r}: anyone who can write to Redis can move an "
                "encrypted message from one group or channel to another.",
                "Set it to 'write' in all processes, then to 'require'.",
            )


def _weak_keys(setup: Setup) -> Iterator[Finding]:
    for position, key in enumerate(setup.config.get("symmetric_encryption_keys") or ()):
        text = key if isinstance(key, str) else key.decode("latin-1")
        if text.startswith("django-insecure-") or (
            len(text) < KEY_LENGTH_MIN or len(set(text)) < KEY_SIGNS_MIN
        ):
            yield Finding(
                Level.WARNING,
                "W102",
                setup.alias,
                f"symmetric_encryption_keys[{position}] can be guessed.",
                "Use 32 random bytes, such as from secrets.token_urlsafe(32).",
            )
