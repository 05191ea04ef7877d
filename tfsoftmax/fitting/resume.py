"""Resume: a Keras callback that keeps the state of a fit in one file, and goes on from it with the same bytes.

The file is one line, ``tfsoftmax state 1 SHA-256``, then an ``.npz`` archive (without pickles) that the hash is of. It
is written after each epoch: a compiled epoch is the same from process to process, a part of one would not be.
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
    from tfsoftmax.data import Rows

_log = logging.getLogger(__name__)

_MAGIC = "tfsoftmax state 1"
_ARRAY = "tfsoftmax array"  # the one key of what stands for an array in the JSON part
# Keras callback -> its attributes that change while it runs; a class of one's own names them in `resumed`
_RESUMED = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best",),
}

# optimizer -> learning rate when the first Resume saw it
_RATES: weakref.WeakKeyDictionary[keras.optimizers.Optimizer, Any] = weakref.WeakKeyDictionary()


class Resume(keras.callbacks.Callback):
    """Keeps the state of a ``fit`` in a file; the same program started again goes on after the last whole epoch.

    It ends with the bytes of a run that was never disturbed: weights, optimizer variables (with them the position on
    a learning-rate schedule), the order of the rows, the history, and what the other callbacks know:
    ``EarlyStopping``, ``ReduceLROnPlateau``, ``ModelCheckpoint``, and each callback that names its attributes in a
    class attribute ``resumed`` (numbers, texts, arrays, and lists and dictionaries of them, keys texts). Checkpoints
    that are not written by epochs may fall on other batches. A fit that has come to its end trains nothing more: delete
    the file to train anew. With more ``epochs`` it goes on, unless a callback had stopped it. Another model, loss,
    optimizer, learning rate, callbacks or rows are refused; class weights and other validation data are not looked at.

    It works in the ``fit`` of ``SoftmaxRegression`` and of models given to :func:`tfsoftmax.accelerate`.

    Args:
        path: the file. It is written aside, forced to disk and renamed; the one before stays as ``PATH.before``.
        rows: whose order is part of the state. ``None``: those of ``data.train`` where ``fit`` is given that. For a
            data set made of ``data.train``, give ``data.train.rows``. The order of anything else is not kept (one log
            line says so): the fit is only exact if the rows come in the same order in each epoch and process.

    Raises:
        InputError: in ``fit``: the state is of another fit or has more epochs than are asked, it is damaged and so is
            the one before, or its folder is not there.
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
        """Called by ``fit`` before it begins: open the state; gives the epoch to begin with, counted from 0."""
        self._rows = self.rows or rows
        self._others = list(others)
        strategy = self.model.distribute_strategy
        with together(strategy):
            if is_chief := chief(strategy):
                if not self.path.parent.is_dir():
                    raise InputError(f"cannot write the state {str(self.path)!r}: there is no such folder")
                self._state = recovered(self.path)
        with together(strategy):
            if not is_chief:  # the chief has put things right
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
            _log.warning("the order of the rows is not kept in %s: it must be the same in each epoch", self.path)
        self.epoch = self._state["epoch"]
        return epochs if self._state["stopped"] else self.epoch

    def _check(self, state: dict[str, Any], epochs: int) -> None:
        """Refuse a state of another fit."""
        made, now = _flat(state["made"]), _flat(self._made)
        for name in (*made, *now):
            if made.get(name) != now.get(name):
                raise InputError(
                    f"the state {str(self.path)!r} is of another fit: its {name} is {made.get(name)!r}, "
                    f"not {now.get(name)!r}; delete it to begin anew"
                )
        if state["epoch"] > epochs:
            raise InputError(
                f"the state {str(self.path)!r} is of a fit of {state['epoch']} epochs, and {epochs} are asked; "
                "delete it to begin anew"
            )

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Bring back the variables."""
        if self._others is None:
            raise InputError(
                "Resume works in the fit of a tfsoftmax model; tfsoftmax.accelerate(model) makes another one so"
            )
        if self._state is None:
            return
        variables, kept = self._variables(), self._state["variables"]
        shapes = [tuple(variable.shape) for variable in variables]
        if shapes != [array.shape for array in kept]:
            raise InputError(
                f"the state {str(self.path)!r} is of another model: its variables are "
                f"{[array.shape for array in kept]}, not {shapes}; delete it to begin anew"
            )
        text = f"going on after epoch {self.epoch}, from {self.path}"
        if self.params.get("verbose"):
            print(text)
        else:
            _log.info(text)
        for variable, array in zip(variables, kept, strict=True):
            variable.assign(array)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """After all callbacks have ended the epoch before: keep the state."""
        if not self._bring_back() and epoch > self.epoch:
            self._keep(epoch)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Keep the state of the last epoch, before other callbacks choose weights."""
        if not self._bring_back() and self.model.history.epoch:
            self._keep(self.model.history.epoch[-1] + 1)
        self._others = None

    def _bring_back(self) -> bool:
        """Bring back what callbacks know, once all of them have begun; gives whether there was something."""
        if self._state is None:
            return False
        history = self.model.history
        history.epoch, history.history = self._state["history"]
        for callback, (_, values) in zip(self._stateful(), self._state["known"], strict=True):
            for name, value in values.items():
                setattr(callback, name, value)
        self._state = None
        return True

    def _keep(self, epoch: int) -> None:
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
                "mend that, and the same command goes on where the last state was kept"
            ) from error

    def _signature(self) -> dict[str, Any]:
        """What must be the same for a fit to go on."""
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
    """Write a state: JSON values, and arrays anywhere among them. The file that was there becomes ``PATH.before``."""
    arrays: dict[str, Any] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise InputError(f"a state keeps numbers, texts, arrays, lists and dictionaries; got {value!r}")
        arrays[f"array{len(arrays)}"] = array
        return {_ARRAY: f"array{len(arrays) - 1}"}

    text = json.dumps(state, default=plain)
    content = io.BytesIO()
    np.savez(content, state=np.frombuffer(text.encode(), np.uint8), **arrays)
    head = f"{_MAGIC} {_digest(content.getvalue())}\n"
    write_bytes(path, head.encode() + content.getvalue(), before=before(path))


def read(path: Path) -> dict[str, Any] | None:
    """The newest whole state: of ``path``, else of the file before, with one line that says so; None: there is none.

    Raises:
        InputError: there are files and none is whole.
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
                _log.warning("the state %s is damaged: going on from the one before, %s", damaged[0], file)
            return state
        damaged.append(str(file))
    if damaged:
        raise InputError(f"the state {' and '.join(map(repr, damaged))} is damaged; delete it to begin anew")
    return None


def recovered(path: Path) -> dict[str, Any] | None:
    """As :func:`read`; a damaged newest file is replaced by the one before, so that it never becomes the one before."""
    state = read(path)
    if state is not None and path.exists() and content_of(path.read_bytes()) is None:
        os.replace(before(path), path)
    return state


def content_of(file: bytes) -> dict[str, Any] | None:
    """The state in the bytes of a file; None if they are not as they were written."""
    head, _, content = file.partition(b"\n")
    if head != f"{_MAGIC} {_digest(content)}".encode():
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return json.loads(
            arrays["state"].tobytes(),
            object_hook=lambda value: arrays[value[_ARRAY]] if value.keys() == {_ARRAY} else value,
        )


def before(path: Path) -> Path:
    """Where the state before the one in ``path`` is."""
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
    """The values in JSON values, by where they are: ``optimizer.momentum``."""
    if not isinstance(value, (dict, list)):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {place: found for key, part in items for place, found in _flat(part, f"{name}.{key}".lstrip(".")).items()}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
