"""TensorFlow, imported without its start-up lines. Modules that need TensorFlow import this one before it.

A ``TF_CPP_MIN_LOG_LEVEL`` that the user has set is respected.
"""

from __future__ import annotations

import gc
import os
import sys

from tfsoftmax._quiet import LEVEL, quiet

os.environ.setdefault(LEVEL, "3")  # errors are raised, too
if "tensorflow" not in sys.modules:
    collects = gc.isenabled()
    gc.disable()  # of the million objects that are made next none is garbage; to look costs a quarter of the time
    try:
        with quiet():  # what TensorFlow logs before it knows its level
            import tensorflow  # noqa: F401

            # isort: split
            import keras  # noqa: F401
    finally:
        if collects:
            gc.enable()
