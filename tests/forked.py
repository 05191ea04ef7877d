"""Programs of our own without the three seconds that each spends on importing TensorFlow: forked where it is imported.

For tests of what processes do together or leave behind; what tests the start itself starts `python`.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
# imported, not used: TensorFlow starts its threads when it first runs something, and threads do not survive a fork
_context.set_forkserver_preload(["tfsoftmax.verbs.train", "tfsoftmax.runs.training", "tfsoftmax.export", "tuning"])


class Program(_context.Process):
    """`python ARGUMENTS…` (a script, or `-c` and its text) in a process of its own.

    Args:
        arguments: what would follow `python`.
        log: the file that its output is appended to; ``None``: nowhere.
        environment: variables beside those of this process.
    """

    def __init__(self, *arguments, log=None, **environment):
        super().__init__(daemon=True)
        self.arguments, self.log = [str(argument) for argument in arguments], log
        self.environment = {**os.environ, **environment}
        if log is not None:
            Path(log).touch()  # there for readers before the child is
        self.start()

    def wait(self, timeout=None):
        """Wait for its end; returns its exit status, ``None`` if it goes on."""
        self.join(timeout)
        return self.exitcode

    def run(self):
        """In the child."""
        output = os.open(self.log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.clear()
        os.environ.update(self.environment)
        sys.orig_argv = [sys.executable, *self.arguments]
        try:
            if self.arguments[0] == "-c":
                sys.argv = ["-c", *self.arguments[2:]]
                exec(self.arguments[1], {"__name__": "__main__"})
            else:
                sys.argv = self.arguments
                sys.path.insert(0, str(Path(self.arguments[0]).parent))
                runpy.run_path(self.arguments[0], run_name="__main__")
        finally:
            atexit._run_exitfuncs()
