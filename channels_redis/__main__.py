"""``python -m channels_redis``: the doctor and the queues, without Django."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from .core import RedisChannelLayer
from .doctor.command import add_commands, run
from .doctor.config import Setup, read_settings
from .doctor.output import JSONOutput, Output
from .pubsub import RedisPubSubChannelLayer

_LAYERS = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        action="append",
        help="a server; repeat it for each shard. The default is $REDIS_URL, which other users "
        "of this machine cannot see, or redis://localhost:6379",
    )
    parser.add_argument(
        "--sentinel", action="append", metavar="HOST:PORT", help="a Sentinel; may be repeated"
    )
    parser.add_argument("--master-name", help="the name of the primary at the Sentinels")
    parser.add_argument(
        "--cluster", action="store_true", help="the servers belong to Redis Clusters"
    )
    parser.add_argument("--layer", choices=_LAYERS, default="core", help="default: core")
    parser.add_argument("--prefix", default="asgi", help="the layer's prefix (default: asgi)")


def _setups(options: argparse.Namespace) -> list[Setup]:
    hosts: list[Any] = options.url or []
    if options.sentinel:
        pairs = [tuple(place.rsplit(":", 1)) for place in options.sentinel]
        hosts = [*hosts, {"sentinels": pairs, "master_name": options.master_name}]
    if not hosts:
        hosts = [os.environ.get("REDIS_URL", "redis://localhost:6379")]
    if options.cluster:
        hosts = [{"cluster": True, "address": url} for url in hosts]
    layer = _LAYERS[options.layer]
    config = {"hosts": hosts, "prefix": options.prefix}
    return read_settings(
        {"default": {"BACKEND": f"{layer.__module__}.{layer.__name__}", "CONFIG": config}}
    )


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m channels_redis")
    add_commands(parser, _add_target)
    options = vars(parser.parse_args(arguments))
    if options["cluster"] and options["sentinel"]:
        parser.error("--cluster and --sentinel exclude each other: a cluster has no Sentinels")
    setups = _setups(argparse.Namespace(**options))
    wanted = {name: options[name] for name in ("fail_level", "limit") if name in options}
    output = JSONOutput(_write) if options["json"] else Output(_write)
    return run(options["action"], setups, output, **wanted)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
