"""How a command runs: native chatter kept off the screen, every failure one line and an exit status."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator

import typer

from tfsoftmax.errors import TfsoftmaxError, WorkerLost


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what native code prints on standard error off the screen, and show it if the block fails unexpectedly."""
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except Exception as error:
            if not isinstance(error, TfsoftmaxError):
                kept.seek(0)
                os.write(screen, kept.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)


@contextlib.contextmanager
def tensorflow() -> Iterator[None]:
    """Import TensorFlow and start its devices without their chatter; imports of modules that need it go inside."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with quiet():
        import absl.logging
        import tensorflow as tf

        tf.config.list_physical_devices()
        tf.get_logger().setLevel("ERROR")
        absl.logging.set_verbosity(absl.logging.ERROR)
        yield


@contextlib.contextmanager
def again(timeout: float) -> Iterator[float]:
    """Where the block loses another worker, begin this command again in the same process and wait for its return.

    TensorFlow cannot leave a broken cluster otherwise. Gives the seconds that are left for all workers to come: all
    of ``timeout``, unless one was lost and is being waited for.
    """
    until = float(os.environ.pop("TFSOFTMAX_WAIT_UNTIL", 0)) or time.time() + timeout
    try:
        yield max(1.0, until - time.time())
    except WorkerLost as error:
        if error.begun:
            until = time.time() + timeout - min(10, timeout / 2)  # TensorFlow may have needed 10 s to notice
        if time.time() > until:
            raise
        print(f"{error}\nwaiting for all workers, at most {until - time.time():.0f} s", file=sys.stderr, flush=True)
        time.sleep(1)
        arguments = [sys.executable, *sys.orig_argv[1:]]
        if error.begun:  # --overwrite has done its work
            arguments = [argument for argument in arguments if argument != "--overwrite"]
        os.execve(sys.executable, arguments, {**os.environ, "TFSOFTMAX_WAIT_UNTIL": str(until)})


def run(app: typer.Typer) -> None:
    """Run one command of ``sys.argv``. Exit status: 0 done, 1 failed, 2 wrong usage or bad input; one line says why."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"] or ["--help"]
    debug = "--debug" in sys.argv
    usage_error = typer.BadParameter.__mro__[2]  # click's ClickException, which Typer exports under no name of its own
    try:
        sys.exit(typer.main.get_command(app).main(arguments, prog_name="tfsoftmax", standalone_mode=False) or 0)
    except TfsoftmaxError as error:
        failure, status, text = error, error.exit_status, str(error)
    except usage_error as error:
        failure, status, text = error, 2, error.format_message()
    except (KeyboardInterrupt, typer.Abort) as error:
        failure, status, text = error, 130, "interrupted"
    except OSError as error:
        failure, status, text = (
            error,
            1,
            f"{error.strerror or error}: {error.filename}" if error.filename else str(error),
        )
    except Exception as error:
        failure, status, text = error, 1, f"{type(error).__name__}: {error} (--debug shows where)"
    if debug:
        raise failure
    print(f"error: {text}", file=sys.stderr)
    sys.exit(status)
