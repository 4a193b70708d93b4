"""Runs the conformance tests for one layer and prints what came of each, as JSON.

    python probe.py FOLDER_OF_CONFORMANCE DOTTED_PATH_OF_LAYER URL

Runs unchanged in the environment of an old release, whose package has the same name, so it reads
the tests from their folder.
"""

import contextlib
import importlib
import json
import logging
import sys
import warnings
from pathlib import Path

from django.conf import settings
from django.utils.module_loading import import_string

BOUND_S = 6.0


def tests_for(layer, url, conformance):
    layer_class = import_string(layer)

    class Tests(conformance.ChannelLayerConformance):
        bound_s = BOUND_S

        def new_layer(self, **options):
            if layer.startswith("channels_redis."):
                options.update(hosts=[url], prefix=self.unique)
            return layer_class(**options)

    return Tests


def outcome(test):
    """Return nothing for a test that passes, else why it does not."""
    try:
        with contextlib.redirect_stderr(None):
            test()
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return ""


def main(path, layer, url):
    settings.configure()
    logging.disable()
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(Path(path).parent))
    tests = tests_for(layer, url, importlib.import_module(Path(path).stem))
    names = [name for name in dir(tests) if name.startswith("test_")]
    print(json.dumps({name: outcome(getattr(tests(), name)) for name in names}))


if __name__ == "__main__":
    main(*sys.argv[1:])
