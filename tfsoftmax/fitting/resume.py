"""Resume: a Keras callback that saves the state of a fit in one file and continues from it, byte for byte.

The file is one line, ``tfsoftmax state 1 SHA-256``, followed by an ``.npz`` archive (without pickles) with that hash.
It is written after each epoch: a whole compiled epoch is the same in every process, a part of one would not be.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfsoftmax._files import write_bytes
from tfsoftmax.errors import InputError, TrainingError
from tfsoftmax.strategy import agree, chief, together

if TYPE_CHECKING:
    from tfsoftmax.rows import Rows

_log = logging.getLogger(__name__)

_MAGIC = "tfsoftmax state 1"
_ARRAY = "tfsoftmax array"  # the one key of the object that stands for an array in the JSON part
# Keras callback -> its attributes that change while it runs; other classes name theirs in `resumed`
_RESUMED = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best",),
}

# optimizer -> learning rate when the first Resume saw it
_RATES: weakref.WeakKeyDictionary[keras.optimizers.Optimizer, Any] = weakref.WeakKeyDictionary()


class Resume(keras.callbacks.Callback):
    """Saves the state of a ``fit`` in a file; the same program, run again, continues after the last whole epoch.

    The result has the bytes of an uninterrupted run: weights, optimizer variables (including the position on a
    learning-rate schedule), the order of the rows, the history, and the state of the other callbacks:
    ``EarlyStopping``, ``ReduceLROnPlateau``, ``ModelCheckpoint``, and each callback that names its attributes in a
    class attribute ``resumed`` (numbers, strings, arrays, and lists and dictionaries of them with string keys).
    Checkpoints that are not saved per epoch may fall on other batches. A fit that has finished trains no further:
    delete the file to start over. With more ``epochs`` it continues, unless a callback stopped it. Another model, loss,
    optimizer, learning rate, callbacks or rows are rejected; class weights and validation data are not compared.

    It works in the ``fit`` of ``SoftmaxRegression`` and of models given to :func:`tfsoftmax.accelerate`.

    Args:
        path: the file. It is written aside, forced to disk and renamed; the previous one is kept as ``PATH.before``.
        rows: the rows whose order is part of the state. ``None``: those of ``data.train`` if that is passed to ``fit``.
            For a data set derived from ``data.train``, pass ``data.train.rows``. The order of anything else is not
            saved (one log line says so): the fit is only exact if the rows come in the same order in each epoch and
            process.

    Raises:
        InputError: in ``fit``: the state belongs to another fit or has more epochs than requested, it and the previous
            one are damaged, or its folder does not exist.
        TrainingError: in ``fit``: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], rows: Rows | None = None):
        super().__init__()
        self.path, self.rows = Path(path), rows
        self._rows: Rows | None = None
        self.epoch = 0
        self._made: dict[str, Any] = {}
        self._state: dict[str, Any] | None = None
        self._others: list[keras.callbacks.Callback] | None = None

    def begin(self, others: Sequence[keras.callbacks.Callback], rows: Rows | None, first: int, epochs: int) -> int:
        """Called by ``fit`` before it starts: open the state; returns the epoch to start with, counted from 0."""
        self._rows = self.rows or rows
        self._others = list(others)
        strategy = self.model.distribute_strategy
        with together(strategy):
            if is_chief := chief(strategy):
                if not self.path.parent.is_dir():
                    raise InputError(f"cannot write the state {str(self.path)!r}: its folder does not exist")
                self._state = recovered(self.path)
        with together(strategy):
            if not is_chief:  # after the chief has repaired it
                self._state = read(self.path)
            self._made = self._signature()
            if self._state is not None:
                self._check(self._state, epochs)
        agree(
            strategy,
            0 if self._state is None else self._state["epoch"],
            f"all workers must share the file system of the state {str(self.path)!r}; they see it after these epochs",
        )
        self.epoch = first
        if self._state is None:
            return first
        if self._rows is None:
            _log.warning("the order of the rows is not saved in %s: it must be the same in each epoch", self.path)
        self.epoch = self._state["epoch"]
        return epochs if self._state["stopped"] else self.epoch

    def _check(self, state: dict[str, Any], epochs: int) -> None:
        """Reject the state of another fit."""
        made, now = _flat(state["made"]), _flat(self._made)
        for name in (*made, *now):
            if made.get(name) != now.get(name):
                raise InputError(
                    f"the state {str(self.path)!r} belongs to another fit: its {name} is {made.get(name)!r}, "
                    f"not {now.get(name)!r}; delete it to start over"
                )
        if state["epoch"] > epochs:
            raise InputError(
                f"the state {str(self.path)!r} has {state['epoch']} epochs already, and {epochs} are requested; "
                "delete it to start over"
            )

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Restore the variables."""
        if self._others is None:
            raise InputError(
                "Resume works in the fit of a tfsoftmax model; call tfsoftmax.accelerate(model) on any other"
            )
        if self._state is None:
            return
        variables, kept = self._variables(), self._state["variables"]
        shapes = [tuple(variable.shape) for variable in variables]
        if shapes != [array.shape for array in kept]:
            raise InputError(
                f"the state {str(self.path)!r} belongs to another model: its variables are "
                f"{[array.shape for array in kept]}, not {shapes}; delete it to start over"
            )
        text = f"continuing after epoch {self.epoch}, from {self.path}"
        if self.params.get("verbose"):
            print(text)
        else:
            _log.info(text)
        for variable, array in zip(variables, kept, strict=True):
            variable.assign(array)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Save the state, once all callbacks have ended the epoch before."""
        if not self._restore() and epoch > self.epoch:
            self._save(epoch)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Save the state of the last epoch, before other callbacks choose weights."""
        if not self._restore() and self.model.history.epoch:
            self._save(self.model.history.epoch[-1] + 1)
        self._others = None

    def _restore(self) -> bool:
        """Restore the state of the callbacks, once all of them have started; return whether there was one."""
        if self._state is None:
            return False
        history = self.model.history
        history.epoch, history.history = self._state["history"]
        for callback, (_, values) in zip(self._stateful(), self._state["known"], strict=True):
            for name, value in values.items():
                setattr(callback, name, value)
        self._state = None
        return True

    def _save(self, epoch: int) -> None:
        self.epoch = epoch
        if not chief(self.model.distribute_strategy):
            return
        history = self.model.history
        state = {
            "made": self._made,
            "epoch": epoch,
            "stopped": bool(self.model.stop_training),
            "variables": [np.asarray(variable) for variable in self._variables()],
            "history": [history.epoch, history.history],
            "known": [[type(c).__name__, {name: getattr(c, name) for name in _resumed(c)}] for c in self._stateful()],
        }
        try:
            write(self.path, state)
        except OSError as error:
            raise TrainingError(
                f"cannot write the state {str(self.path)!r} after epoch {epoch}: {error.strerror}; "
                "fix that, and the same command continues from the last saved state"
            ) from error

    def _signature(self) -> dict[str, Any]:
        """What must be the same for a fit to continue."""
        model, rows = self.model, self._rows
        optimizer = _described(model.optimizer)
        # a callback may have changed it since, in a fit that was interrupted in this process
        optimizer["learning_rate"] = _RATES.setdefault(model.optimizer, optimizer.get("learning_rate"))
        return {
            "layers": [_described(layer) for layer in model.layers],
            "loss": _described(model.loss),
            "optimizer": optimizer,
            "callbacks": [type(callback).__name__ for callback in self._stateful()],
            "data": rows
            and {
                "rows": len(rows),
                "batch_size": rows.batch_size,
                "seed": rows.seed,
                "checksum": rows.checksum,
                "spec": _digest(rows.spec.to_json().encode()),
            },
        }

    def _stateful(self) -> list[keras.callbacks.Callback]:
        return [callback for callback in self._others or [] if _resumed(callback)]

    def _variables(self) -> list[keras.Variable]:
        return self.model.variables + self.model.optimizer.variables


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a state: JSON values, with arrays anywhere among them. The previous file becomes ``PATH.before``."""
    arrays: dict[str, Any] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise InputError(f"a state holds numbers, strings, arrays, lists and dictionaries; got {value!r}")
        arrays[f"array{len(arrays)}"] = array
        return {_ARRAY: f"array{len(arrays) - 1}"}

    text = json.dumps(state, default=plain)
    content = io.BytesIO()
    np.savez(content, state=np.frombuffer(text.encode(), np.uint8), **arrays)
    head = f"{_MAGIC} {_digest(content.getvalue())}\n"
    write_bytes(path, head.encode() + content.getvalue(), before=before(path))


def read(path: Path) -> dict[str, Any] | None:
    """Return the newest intact state, of ``path`` or else of the previous file, which is logged; None without files.

    Raises:
        InputError: there are files, and none is intact.
    """
    damaged: list[str] = []
    for file in (path, before(path)):
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"cannot read the state {str(file)!r}: {error.strerror}") from error
        if (state := content_of(content)) is not None:
            if damaged:
                _log.warning("the state %s is damaged: continuing from the previous one, %s", damaged[0], file)
            return state
        damaged.append(str(file))
    if damaged:
        raise InputError(f"the state {' and '.join(map(repr, damaged))} is damaged; delete it to start over")
    return None


def recovered(path: Path) -> dict[str, Any] | None:
    """As :func:`read`; a damaged newest file is replaced by the previous one, so that it never takes its place."""
    state = read(path)
    if state is not None and path.exists() and content_of(path.read_bytes()) is None:
        os.replace(before(path), path)
    return state


def content_of(file: bytes) -> dict[str, Any] | None:
    """The state in the bytes of a file; None if they are damaged."""
    head, _, content = file.partition(b"\n")
    if head != f"{_MAGIC} {_digest(content)}".encode():
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return json.loads(
            arrays["state"].tobytes(),
            object_hook=lambda value: arrays[value[_ARRAY]] if value.keys() == {_ARRAY} else value,
        )


def before(path: Path) -> Path:
    """The file with the state before the one in ``path``."""
    return path.with_name(f"{path.name}.before")


def _resumed(callback: keras.callbacks.Callback) -> tuple[str, ...]:
    for kind, names in _RESUMED.items():
        if isinstance(callback, kind):
            return (*names, *getattr(callback, "resumed", ()))
    return getattr(callback, "resumed", ())


def _described(made: Any) -> dict[str, Any]:
    """Class and settings of something of Keras, or the name of a function, as JSON has them in any process."""
    if isinstance(made, str) or not hasattr(made, "get_config"):
        return {"name": getattr(made, "__name__", str(made))}
    try:
        settings = made.get_config()
    except NotImplementedError:
        settings = {}

    def plain(value: dict[str, Any]) -> Any:
        if value.get("class_name") == "__lambda__":  # with the places of its lines
            return "lambda"
        if isinstance(name := value.get("name"), str):  # Keras counts what a process makes
            value["name"] = re.sub(r"_\d+$", "", name)
        return value

    return {
        "class": type(made).__name__,
        **json.loads(json.dumps(settings, default=lambda value: type(value).__name__), object_hook=plain),
    }


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a JSON value by their paths: ``optimizer.momentum``."""
    if not isinstance(value, (dict, list)):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {place: found for key, part in items for place, found in _flat(part, f"{name}.{key}".lstrip(".")).items()}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
