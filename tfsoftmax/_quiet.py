"""quiet(): what native code prints on standard error is kept off the screen."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from tfsoftmax.errors import TfsoftmaxError

LEVEL = "TF_CPP_MIN_LOG_LEVEL"  # TensorFlow's variable; "0" shows everything, here too


def _memory() -> BinaryIO:
    """A file that needs no writable folder, where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    return tempfile.TemporaryFile()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what native code prints on standard error off the screen; show it if the block fails unexpectedly."""
    if os.environ.get(LEVEL) == "0":
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        screen = os.dup(2)
    except OSError:  # a process without standard error
        yield
        return
    with _memory() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except Exception as error:
            if not isinstance(error, TfsoftmaxError):
                kept.seek(0)
                os.write(screen, kept.read())
            raise
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
