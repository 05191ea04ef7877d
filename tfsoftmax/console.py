"""How a command runs: every failure is one line and an exit status."""

from __future__ import annotations

import contextlib
import gc
import io
import sys
from collections.abc import Iterator

import typer

from tfsoftmax._quiet import quiet
from tfsoftmax.errors import TfsoftmaxError


@contextlib.contextmanager
def tensorflow() -> Iterator[None]:
    """Import TensorFlow without its start-up lines and warnings; imports of modules that need it go inside.

    All that was imported is then out of the garbage collector's sight, since it stays, and KerasTuner and the LiteRT
    converter collect at each step.
    """
    first = "tensorflow" not in sys.modules
    if first:
        gc.disable()
    try:
        import tfsoftmax._tensorflow  # noqa: F401 - before TensorFlow

        with quiet():
            import absl.logging
            import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
            absl.logging.set_verbosity(absl.logging.ERROR)
            yield
    finally:
        if first:
            gc.freeze()
            gc.enable()


def run(app: typer.Typer) -> None:
    """Run one command of ``sys.argv``. Exit status: 0 done, 1 failed, 2 wrong usage or bad input; one line says why."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a sign that the terminal's encoding lacks does not fail what is done
            stream.reconfigure(errors="backslashreplace")
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"] or ["--help"]
    debug = "--debug" in sys.argv
    try:
        status = typer.main.get_command(app).main(arguments, prog_name="tfsoftmax", standalone_mode=False) or 0
        if status == 130:  # Typer's answer to Ctrl-C
            raise KeyboardInterrupt
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        status, text = _explained(error)
        print(f"error: {text}", file=sys.stderr)
    sys.exit(status)


def _explained(error: BaseException) -> tuple[int, str]:
    """The exit status of a failure, and its line."""
    usage_error = typer.BadParameter.__mro__[2]  # click's ClickException, which Typer exports under no name of its own
    if isinstance(error, TfsoftmaxError):
        return error.exit_status, str(error)
    if isinstance(error, usage_error):
        return 2, error.format_message()  # type: ignore[attr-defined]
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return 130, "interrupted"
    if isinstance(error, ModuleNotFoundError):
        return (
            1,
            f"this needs {error.name}, which is not installed; `pip install tfsoftmax` brings what it requires",
        )
    if isinstance(error, MemoryError):
        return 1, f"there is not enough memory: {error or 'an array could not be made'}; use fewer or smaller rows"
    if isinstance(error, OSError):
        return 1, f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return 1, f"{type(error).__name__}: {error} (--debug shows where)"
