"""Arrays given to ``fit`` become rows in memory, so that they take the compiled epoch as ``data.train`` does."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfsoftmax.fitting.compilable import distributed, unsupported
from tfsoftmax.fitting.resume import Resume
from tfsoftmax.rows import Rows
from tfsoftmax.spec import ModelSpec

_BATCH = 32  # Keras's own
_TEST = {"validation_data", "validation_split", "validation_batch_size"}
_KNOWN = {"x", "y", "batch_size", "shuffle", "sample_weight"} | _TEST


def into_rows(arguments: dict[str, Any], model: keras.Sequential) -> None:
    """Replace the arrays among the arguments of ``fit`` by data sets of rows, where all of them can be.

    The meaning stays Keras's: ``validation_split`` takes the last rows, ``shuffle`` orders anew each epoch, by a seed
    that ``keras.utils.set_random_seed`` determines.
    """
    if unsupported(model) or distributed(model) or model.layers[1].units < 2:
        return
    if arguments.get("steps_per_epoch") or arguments.get("validation_steps"):
        return
    if any(isinstance(callback, Resume) for callback in keras.tree.flatten(arguments.get("callbacks") or [])):
        return  # which keeps no order of arrays
    size, shuffle = arguments.get("batch_size"), arguments.get("shuffle", True)
    train = _arrays(arguments.get("x"), arguments.get("y"), arguments.get("sample_weight"))
    if train is None or not isinstance(shuffle, bool) or not (size is None or (isinstance(size, int) and size > 0)):
        return
    size = size or _BATCH
    test, held_out = None, arguments.get("validation_data")
    if held_out is not None:
        if not isinstance(held_out, (tuple, list)) or (test := _arrays(*held_out)) is None:
            return
    elif share := arguments.get("validation_split"):
        at = int(np.floor(len(train[0]) * (1 - share)))
        if not 0 < at < len(train[0]):
            return  # for Keras to refuse
        train, test = _cut(train, slice(at)), _cut(train, slice(at, None))
    if test is not None and test[0].shape[1:] != train[0].shape[1:]:
        return
    for name in _KNOWN:
        arguments.pop(name, None)
    seed = int(np.random.randint(2**31 - 1)) if shuffle else None  # noqa: NPY002 - what keras.utils.set_random_seed sets
    arguments["x"] = _rows(train, model.layers[1].units, size, seed).dataset()
    if test is not None:
        arguments["validation_data"] = _rows(test, model.layers[1].units, size, None).dataset()


_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _arrays(x: Any, y: Any = None, weight: Any = None) -> _Arrays | None:
    """The arrays as rows hold them; None if they are anything else."""
    found = [_array(x), _array(y), None if weight is None else _array(weight)]
    inputs, labels, weights = found
    if inputs is None or labels is None or (weights is None) != (weight is None):
        return None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if inputs.ndim < 2 or labels.shape != inputs.shape[:1] or not len(inputs) or 0 in inputs.shape:
        return None
    if weights is not None and weights.shape != labels.shape:
        return None
    if labels.dtype.kind == "f" and (labels != np.floor(labels)).any():
        return None
    if (labels < 0).any() or (labels > 2**31 - 1).any():
        return None
    inputs = inputs if inputs.dtype == np.uint8 else np.asarray(inputs, np.float32)
    return inputs, labels.astype(np.int32), None if weights is None else weights.astype(np.float32)


def _array(given: Any) -> np.ndarray | None:
    """What NumPy makes of an array or a data frame of numbers; None for anything else."""
    if not hasattr(given, "__array__") or not hasattr(given, "shape"):
        return None
    array = np.asarray(given)
    return array if array.dtype.kind in "iuf" else None


def _cut(arrays: _Arrays, part: slice) -> _Arrays:
    x, y, weight = arrays
    return x[part], y[part], None if weight is None else weight[part]


def _rows(arrays: _Arrays, classes: int, size: int, seed: int | None) -> Rows:
    x, y, weight = arrays
    names = tuple(map(str, range(classes)))
    spec = ModelSpec("arrays", x.shape[1:], str(x.dtype), names, "unit", 0.0, 1.0)
    return Rows(x, y, spec, size, seed, weight=weight)
