"""The fixtures of the tests of broadcasts, and a PostgreSQL."""

from tests.broadcast.conftest import join, layer

__all__ = ["join", "layer"]
