"""NAMES: the names of other packages that are used though they are not public, and what is done without them.

A name that a release removes costs speed or comfort, and one log line, but no crash. tests/test_private.py names those
that the installed releases no longer have.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple


class Name(NamedTuple):
    """One private name.

    Args:
        where: ``module:object.attribute``.
        use: what needs it; see :func:`lost`.
        purpose: what for.
        without: what is done without it.
        holds: checks what is not an attribute.
    """

    where: str
    use: str
    purpose: str
    without: str
    holds: Callable[[], bool] | None = None

    @property
    def there(self) -> bool:
        """Whether the installed release has it: an attribute, or what the methods of the class use as one."""
        if self.holds is not None:
            return self.holds()
        owner, _, name = self.where.rpartition("." if "." in self.where.partition(":")[2] else ":")
        found = find(owner)
        methods = vars(found).values() if inspect.isclass(found) else ()
        functions = [inspect.unwrap(method) for method in methods if inspect.isfunction(method)]
        return hasattr(found, name) or any(name in function.__code__.co_names for function in functions)


def _metrics_are_named() -> bool:
    import keras

    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", "mse", metrics=["mae"])
    return [metric.name for metric in model.metrics] == ["loss", "compile_metrics"]


def _collectives_are_aborted() -> bool:
    import mmap
    from pathlib import Path

    import tensorflow as tf

    (library,) = Path(tf.sysconfig.get_lib()).glob("libtensorflow_framework.so.?")
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(COLLECTIVES_ABORTED.encode()) >= 0


COLLECTIVES_ABORTED = "Collective ops is aborted"
BARRIER = "tensorflow.compiler.tf2xla.ops.gen_xla_ops:xla_optimization_barrier"
FLATBUFFER = "tensorflow.lite.tools:flatbuffer_utils"
SCHEMA = "tensorflow.lite.python:schema_py_generated"
RETRIES = "tensorflow_datasets.core.download.downloader:MAX_RETRIES"
_ALONE = "all trials are trained KerasTuner's way, one after the other"
_PLAIN = "uvicorn's own protocol: its errors are not JSON, and the heads of requests have its limits"
_TUNER, _HTTP = "keras_tuner:Tuner.", "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol."

NAMES = (
    Name(BARRIER, "epoch", "XLA leaves the weight gradient transposed", "the product takes twice as long"),
    Name(
        "keras:Model.metrics", "epoch", "the metrics 'loss' and 'compile_metrics' are updated in the compiled epoch",
        "fit goes Keras's own way", _metrics_are_named,
    ),
    Name(
        "keras:callbacks.TensorBoard._stop_batch", "epoch", "whether TensorBoard profiles a batch",
        "with TensorBoard every batch is run by itself",
    ),
    Name(
        "keras:Model._maybe_symbolic_build", "strategy", "switched off: it adds up shares of a batch",
        "fit under a strategy goes Keras's own way",
    ),
    Name(
        "tensorflow:" + COLLECTIVES_ABORTED, "workers", "an error that says so means that another worker is gone",
        "a worker whose error says no more than this ends with it", _collectives_are_aborted,
    ),
    Name(_TUNER + "_try_run_and_update_trial", "lanes", "runs a trial alone and reports its result", _ALONE),
    Name(_TUNER + "_build_hypermodel", "lanes", "later rounds of Hyperband go on from trained weights", _ALONE),
    Name(_TUNER + "_get_checkpoint_fname", "lanes", "where the weights of a trial belong", _ALONE),
    Name(_TUNER + "_get_build_config_fname", "lanes", "where the shapes of a trial's model belong", _ALONE),
    Name(_TUNER + "_populate_initial_space", "lanes", "a search that was killed is replayed", _ALONE),
    Name(_TUNER + "_build_and_fit_model", "hooks", "whether a subclass overrides it", "a subclass cannot either"),
    Name(_TUNER + "_try_build", "hooks", "whether a subclass overrides it", "a subclass cannot either"),
    Name(
        "keras_tuner:Oracle._retry_queue", "chief", "trials of a lost worker go to others",
        "the chief waits for lost workers forever, as KerasTuner's does",
    ),
    *(
        Name(_HTTP + name, "server", "errors in JSON, limits on the head of a request, answers that arrive", _PLAIN)
        for name in ("_unset_keepalive_if_required", "cycle", "flow", "headers", "parser", "pipeline", "transport")
    ),
    *(
        Name(name, "litert", "the LiteRT file of a table says how a row is encoded", "the README alone says it")
        for name in (FLATBUFFER, SCHEMA)
    ),
    Name(RETRIES, "tfds", "no waiting for minutes where there is no network", "TFDS waits for minutes"),
)  # fmt: skip


def find(where: str) -> Any:
    """What ``module:object.attribute`` names; None if the installed release has no such thing."""
    try:
        return pkgutil.resolve_name(where)
    except (ImportError, AttributeError):
        return None


def lost(use: str) -> str:
    """What the installed releases lack of the names that ``use`` needs, for a message; empty if nothing."""
    for name in NAMES:
        if name.use == use and not name.there:
            module, _, attribute = name.where.partition(":")
            package = module.partition(".")[0]
            return f"{package} {getattr(find(package), '__version__', '')} has no {attribute}"
    return ""
