"""Where a model is trained: ``--strategy`` opens a tf.distribute strategy; how workers agree, and come back."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, TypeGuard, cast

import tfsoftmax._tensorflow  # noqa: F401 - before TensorFlow

# isort: split

import tensorflow as tf

from tfsoftmax._checks import one_of
from tfsoftmax._private import COLLECTIVES_ABORTED
from tfsoftmax.errors import InputError, TrainingError, WorkerLost

# what TensorFlow raises in a collective operation when another worker is gone
_GONE = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)


def _auto() -> tf.distribute.Strategy | None:
    """Whatever is available: several workers, a TPU, several GPUs, else one device."""
    if len(_addresses()) > 1:
        return _multiworker()
    if "TPU_NAME" in os.environ or tf.config.list_physical_devices("TPU"):
        return _tpu()
    return _mirrored() if len(tf.config.list_physical_devices("GPU")) > 1 else None


def _cpu() -> None:
    """One device, the CPU."""
    tf.config.set_visible_devices([], "GPU")


def _gpu() -> None:
    """One device, the first GPU."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise InputError(
            "strategy 'gpu' needs a GPU that TensorFlow can use, and there is none; 'auto' uses whatever is available"
        )
    tf.config.set_visible_devices(gpus[:1], "GPU")


def _mirrored() -> tf.distribute.Strategy:
    """All GPUs of this machine; without any, all logical CPU devices."""
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    return tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices(kind)])


def _multiworker() -> tf.distribute.Strategy:
    """One process per machine with all its GPUs; the processes are those of ``TF_CONFIG`` or of the Slurm step."""
    if not _addresses():
        raise InputError("strategy 'multiworker' needs TF_CONFIG with the addresses of the workers, or a step of Slurm")
    if "TF_CONFIG" not in os.environ:
        # TensorFlow counts the GPUs of a node with nvidia-smi, and fails where there is none or the count is 0
        no_gpu = {"gpus_per_node": 1 << 16, "gpus_per_task": 1, "auto_set_gpu": False}
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(**{} if shutil.which("nvidia-smi") else no_gpu)
        cluster = resolver.cluster_spec().as_dict()
        task = dict(zip(("type", "index"), resolver.get_task_info(), strict=True))
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu() -> tf.distribute.Strategy:
    """All cores of the TPU that this machine, or the variable ``TPU_NAME``, has."""
    name = os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError, RuntimeError) as error:
        raise InputError(f"strategy 'tpu' finds no TPU {name!r}; the variable TPU_NAME names another") from error
    return tf.distribute.TPUStrategy(resolver)


STRATEGIES: dict[str, Callable[[], tf.distribute.Strategy | None]] = {
    "auto": _auto,
    "cpu": _cpu,
    "gpu": _gpu,
    "mirrored": _mirrored,
    "multiworker": _multiworker,
    "tpu": _tpu,
}


_opened: list[tf.distribute.Strategy] = []  # of several workers, by this process


@contextlib.contextmanager
def again(timeout: float = 300, once: str | None = None) -> Iterator[float]:
    """If the block loses another worker, restart this program in the same process and wait for the worker's return.

    TensorFlow cannot leave a broken cluster otherwise. With a :class:`tfsoftmax.Resume` in its ``fit``, a script then
    continues after its last whole epoch. At its end the block waits until all workers are there. Code around the block
    (``finally``, ``atexit``) is not run by a restart. Not for notebooks.

    Args:
        timeout: seconds that all workers have to arrive, counted from the loss of one.
        once: a command-line argument to drop in the restarted program. ``None``: none.

    Yields:
        The remaining seconds, for :func:`opened`.

    Raises:
        WorkerLost: from the block, if no time is left.
    """
    until = float(os.environ.pop("TFSOFTMAX_WAIT_UNTIL", 0)) or time.time() + timeout
    try:
        with workers(are_several=len(_addresses()) > 1, begun=True):
            yield max(1.0, until - time.time())
        for strategy in _opened:  # who ends first ends only when the others have received all that they wait for
            with contextlib.suppress(tf.errors.OpError):
                agree(strategy, 0, "")
    except WorkerLost as error:
        if error.begun:
            until = time.time() + timeout - min(10, timeout / 2)  # TensorFlow may have needed 10 s to notice
        left = until - time.time()
        if left < 0:
            raise
        print(f"{error}\nwaiting for all workers, at most {left:.0f} s more", file=sys.stderr)
        time.sleep(1)
        arguments = [sys.executable, *sys.orig_argv[1:]]
        if error.begun:
            arguments = [argument for argument in arguments if argument != once]
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, arguments, {**os.environ, "TFSOFTMAX_WAIT_UNTIL": str(until)})


def opened(name: str, timeout: float = 300) -> tf.distribute.Strategy | None:
    """Open the strategy ``name``; None is one device. Call this before TensorFlow has run anything.

    Several workers wait for each other. If some do not arrive within ``timeout`` seconds, this process ends with an
    error line and status 1.

    Raises:
        InputError: an unknown name, a wrong ``TF_CONFIG``, or the strategy's hardware is missing.
        TrainingError: this worker cannot start: its port is in use, for example.
            :class:`~tfsoftmax.errors.WorkerLost`, if another one was lost during the start.
    """
    one_of("strategy", name, STRATEGIES)
    addresses = _addresses()
    if len(addresses) < 2:
        return STRATEGIES[name]()
    late = f"error: not all workers ({', '.join(addresses)}) came in time"
    try:
        with _ending(timeout, late), workers(are_several=True):
            strategy = STRATEGIES[name]()
            agree(strategy, 0, "")
            _opened.append(strategy)
            return strategy
    except InputError:
        raise
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        raise TrainingError(f"this one of the workers {', '.join(addresses)} cannot be started: {why}") from error


@contextlib.contextmanager
def _ending(timeout: float, message: str) -> Iterator[None]:
    """End this process with ``message`` and status 1 unless the block ends within ``timeout`` seconds.

    TensorFlow waits for workers with Python's lock held: no Python code of this process runs then. So ``faulthandler``,
    which needs no lock, ends it, and its output makes another process report why.
    """
    say = "import sys\nif sys.stdin.readline(): sys.exit(sys.argv[1])"
    with subprocess.Popen([sys.executable, "-S", "-c", say, message], stdin=subprocess.PIPE) as speaker:
        faulthandler.dump_traceback_later(timeout, exit=True, file=cast(IO[bytes], speaker.stdin))
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def several(strategy: tf.distribute.Strategy | None) -> TypeGuard[tf.distribute.MultiWorkerMirroredStrategy]:
    """Whether the strategy has workers in several processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and len(_addresses()) > 1


def chief(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether this process is the one that writes files."""
    if not several(strategy):
        return True
    resolver = strategy.cluster_resolver
    return resolver.task_type == "chief" or (resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs)


def agree(strategy: tf.distribute.Strategy | None, value: int, text: str) -> None:
    """Wait for all workers and check that all have the same ``value``, at least 0 and below 2**31.

    Raises:
        InputError: they differ; the message is ``text`` and the values of all.
    """
    if several(strategy):
        mine = strategy.experimental_distribute_values_from_function(lambda _: tf.constant([value]))
        values = strategy.gather(mine, axis=0).numpy().tolist()
        if len(set(values)) > 1:
            with contextlib.suppress(tf.errors.OpError):  # who has the values ends only when the others have them, too
                strategy.gather(mine, axis=0)
            raise InputError(f"{text}: {values}")


@contextlib.contextmanager
def together(strategy: tf.distribute.Strategy | None) -> Iterator[None]:
    """All workers leave the block normally, or none: if one fails, the others raise InputError."""
    try:
        yield
    except (InputError, OSError):
        with contextlib.suppress(InputError, tf.errors.OpError):
            agree(strategy, 0, "")
        raise
    agree(strategy, 1, "not all workers can start (0: cannot; its own error says why)")


@contextlib.contextmanager
def workers(are_several: bool, begun: bool = False) -> Iterator[None]:
    """With several workers, raise WorkerLost for what fails in the block because another worker is gone.

    ``begun``: all workers have started before the block.
    """
    try:
        yield
    except tf.errors.OpError as error:
        # errors of an iterator may be of these kinds, too
        gone = isinstance(error, _GONE) and "IteratorGetNext" not in error.message
        if not (are_several and (gone or COLLECTIVES_ABORTED in error.message)):
            raise
        raise WorkerLost.of(error, begun) from error


def _addresses() -> list[str]:
    """The workers in ``TF_CONFIG``, or one name per task of the Slurm step."""
    text = os.environ.get("TF_CONFIG")
    if text is None:
        tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "0")
        return [f"task {i}" for i in range(int(tasks) if tasks.isdigit() else 0)]
    try:
        config = json.loads(text)
        if not (cluster := config.get("cluster")):
            return []
        if wrong := [them for them in cluster.values() if not isinstance(them, list)]:
            raise TypeError(wrong)
        addresses = {(kind, i): str(address) for kind in sorted(cluster) for i, address in enumerate(cluster[kind])}
        task = str(config["task"]["type"]), int(config["task"]["index"])
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise InputError(
            'TF_CONFIG must be {"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}}, '
            f"got {text!r}"
        ) from error
    if others := sorted(set(cluster) - {"chief", "worker"}):
        raise InputError(f"TF_CONFIG has the jobs {others}; training takes 'chief' and 'worker'")
    if task not in addresses:
        raise InputError(f"TF_CONFIG says that this is task {task}, and its cluster has {list(addresses)}")
    if len(set(addresses.values())) < len(addresses):
        raise InputError(f"TF_CONFIG has one address for several workers: {list(addresses.values())}")
    return list(addresses.values())
