"""What a Django project may expect of any channel layer, as a class of tests to inherit.

::

    class TestMyLayer(ChannelLayerConformance):
        def new_layer(self, **options):
            return MyLayer(prefix=self.unique, **options)

The tests are plain methods, each on an event loop of its own, for pytest or any other runner.
Needs nothing but Channels, and may be read from its folder where this package is not installed.
Most tests stand for a sentence of the Channels specification; those of the last part stand for
what consumers and workers rely on without its saying so.
"""

from __future__ import annotations

from ._channels import Bounds, Channels
from ._groups import Groups
from ._reliance import Reliance
from ._running import Conformance, on_a_loop

__all__ = ["ChannelLayerConformance", "on_a_loop"]


class ChannelLayerConformance(Channels, Bounds, Groups, Reliance, Conformance):
    """Inherit from it, define :meth:`new_layer`, and run it.

    ``deviations`` holds the tests that the layer is known not to pass, with the reason; such a
    test is skipped with it, and fails when it passes.  A test that does not end within
    ``bound_s`` seconds fails.
    """
