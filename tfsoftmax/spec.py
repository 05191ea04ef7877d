"""What travels with a model: ModelSpec (input, preprocessing, classes) and RunConfig (every setting of a run)."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import re
from pathlib import Path
from typing import Any

from tfsoftmax._checks import INT32, INT64, class_names, fraction, number, one_of, shown, typed_fields
from tfsoftmax._files import read_json
from tfsoftmax.errors import InputError
from tfsoftmax.weights import check_class_weight


class _Json:
    """To and from JSON for the frozen dataclasses below; unknown and missing keys are errors that name them."""

    def to_json(self) -> str:
        """One JSON object, keys in the order of the fields, numbers exact."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Any, what: str) -> Any:
        """Build from a JSON object; absent keys take their defaults. ``what`` names the source in errors."""
        if not isinstance(values, dict):
            raise InputError(f"{what} must be a JSON object, got {shown(values)}")
        known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        if unknown := sorted(set(values) - set(known)):
            raise InputError(f"{what} has the unknown key {shown(unknown[0])}; known are {', '.join(sorted(known))}")
        required = {name for name in known if not hasattr(cls, name)}
        if missing := sorted(required - set(values)):
            raise InputError(f"{what} has no {missing[0]!r}")
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{what}: {error}") from error

    @classmethod
    def load(cls, path: Path, what: str) -> Any:
        """Read what :meth:`to_json` wrote."""
        return cls.from_dict(read_json(path, what), f"{what} {str(path)!r}")


KINDS = {"number": ("float32", "bool"), "category": ("string", "int64")}  # kind of a column -> types that it may have
MISSING = ("refuse", "impute")
CONVERSIONS = ("none", "mode", "size")


@dataclasses.dataclass(frozen=True)
class Column(_Json):
    """One named column of a table.

    A raw row has one float32 per column: a number as it is, a category as its place in ``values``, -1 for a value that
    is not among them, NaN for one that is missing. See ``tfsoftmax.columns`` for the features that it becomes.

    Args:
        name: of the column, one line of text.
        kind: ``"number"`` or ``"category"``.
        dtype: of the values as users have them: ``"float32"`` (any number) or ``"bool"`` of numbers, ``"string"`` or
            ``"int64"`` of categories.
        values: of a category: the values that training saw, as text, in order.
        offset: of a number: ``(x - offset) * scale`` is what the model sees.
        scale: the same.
        fill: of a number: what replaces a missing value; the mean of the training rows.
        gaps: the training rows had missing values, and the column has one more feature, which is 1 where one is.

    Raises:
        InputError: a field of another type or out of range.
    """

    name: str
    kind: str
    dtype: str
    values: tuple[str, ...] = ()
    offset: float = 0.0
    scale: float = 1.0
    fill: float = 0.0
    gaps: bool = False

    def __post_init__(self) -> None:
        typed_fields(self)
        if not self.name:
            raise InputError("a column has no name: its name is empty")
        one_of("kind", self.kind, KINDS)
        one_of("dtype", self.dtype, KINDS[self.kind])
        if not all(map(math.isfinite, (self.offset, self.scale, self.fill))):
            raise InputError(f"offset, scale and fill of column {shown(self.name)} must be finite")
        if len(set(self.values)) != len(self.values):
            raise InputError(f"column {shown(self.name)} has a value twice")

    @property
    def features(self) -> int:
        """How many features it becomes."""
        return (1 if self.kind == "number" else len(self.values)) + self.gaps


@dataclasses.dataclass(frozen=True)
class ModelSpec(_Json):
    """What a model takes and returns: the single source of the preprocessing, from tf.data to the served graph.

    A raw input ``x`` becomes ``(x - offset) * scale`` in float32, element by element. A row of a table becomes features
    first, see ``tfsoftmax.columns``; each column has its own constants.

    Args:
        name: name of the data set, for people.
        shape: shape of one raw input, without the batch: ``(28, 28)`` for Fashion-MNIST.
        dtype: ``"uint8"`` for pictures, ``"float32"`` for tables.
        classes: class names, at least two different ones, each one line of text; the index is the label.
        preprocess: name of the preprocessing that gave ``offset`` and ``scale``, see ``tfsoftmax.preprocessing``.
        offset: a number, or one number for each element of a raw input, flattened in C order; raw units.
        scale: the same, in 1 / raw units.
        columns: of a table, whose raw rows are float32 ``(len(columns),)``; else empty.
        missing: of a table: missing values are refused (``"refuse"``); or they become the ``fill`` of their column or
            no category, with a feature of their own where training had some (``"impute"``).
        conversion: what training did to picture files, and answers do: bring the colours to one mode (``"mode"``),
            crop and resize them too (``"size"``), or nothing (``"none"``: rows were no picture files).
        fingerprint: of the data that a run was trained on, see :attr:`tfsoftmax.Data.fingerprint`; ``None``: unknown.
            No part of what the model takes and gives, so specs that differ in it alone are equal.

    Raises:
        InputError: a field of another type or out of range.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    classes: tuple[str, ...]
    preprocess: str
    offset: float | tuple[float, ...]
    scale: float | tuple[float, ...]
    columns: tuple[Column, ...] = ()
    missing: str = "refuse"
    conversion: str = "none"
    fingerprint: str | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        from tfsoftmax.preprocessing import PREPROCESSORS

        columns = self.columns if isinstance(self.columns, (list, tuple)) else (self.columns,)
        made = [
            column if isinstance(column, Column) else Column.from_dict(column, f"column {place}")
            for place, column in enumerate(columns)
        ]
        object.__setattr__(self, "columns", tuple(made))
        typed_fields(self)
        one_of("missing", self.missing, MISSING)
        one_of("conversion", self.conversion, CONVERSIONS)
        if not self.shape or min(self.shape) < 1:
            raise InputError(f"shape must be whole numbers of at least 1, got {shown(self.shape)}")
        one_of("dtype", self.dtype, ("uint8", "float32"))
        class_names("classes", self.classes)
        one_of("preprocess", self.preprocess, PREPROCESSORS)
        size = math.prod(self.shape)
        for field in ("offset", "scale"):
            value = getattr(self, field)
            if isinstance(value, tuple) and len(value) != size:
                raise InputError(f"{field} must be one number or {size} (one for each input), got {len(value)}")
            if not all(map(math.isfinite, value if isinstance(value, tuple) else (value,))):
                raise InputError(f"{field} must be finite, got {shown(value)}")
        if self.columns:
            self._check_columns()

    def _check_columns(self) -> None:
        if (self.shape, self.dtype, self.offset, self.scale) != ((len(self.columns),), "float32", 0, 1):
            raise InputError(
                f"a table of {len(self.columns)} columns has rows float32 ({len(self.columns)},) and the offset and "
                f"scale of its columns, got {self.dtype} {self.shape}, {shown(self.offset)} and {shown(self.scale)}"
            )
        names = [column.name for column in self.columns]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f"two columns are called {shown(min(twice))}; rename one")
        if taken := sorted(OUTPUTS & {*names}):
            raise InputError(f"a column is called {taken[0]!r}, as an output of every export is; rename or drop it")
        if not self.features[0]:
            raise InputError("no column has a value that training saw: nothing is left to learn from")

    def to_json(self) -> str:
        """As of every setting; what is not of a table says nothing of columns, nor what has none of the last two."""
        values = dataclasses.asdict(self)
        if not self.columns:
            del values["columns"], values["missing"]
        if self.conversion == "none":
            del values["conversion"]
        if self.fingerprint is None:
            del values["fingerprint"]
        return json.dumps(values, indent=1) + "\n"

    @property
    def features(self) -> tuple[int, ...]:
        """Shape of one preprocessed input, as the model takes it: ``shape``; of a table ``(features,)``."""
        return (sum(column.features for column in self.columns),) if self.columns else self.shape

    @property
    def input_name(self) -> str:
        """Name of the graph input: ``image`` for pictures, ``features`` for tables."""
        return "image" if self.dtype == "uint8" else "features"

    @property
    def row_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes that one raw input may come in: ``shape``; for grey pictures also with, or without, a last 1."""
        if len(self.shape) == 2:
            return self.shape, (*self.shape, 1)
        if len(self.shape) == 3 and self.shape[2] == 1:
            return self.shape, self.shape[:2]
        return (self.shape,)


OUTPUTS = frozenset(("logits", "probabilities", "class_id", "label"))  # of every export
OPTIONS = (
    "label",
    "resize",
    "drop",
    "category",
    "number",
    "group",
    "sample_weight",
    "memory",
)  # settings of how a data set is read
SOLVER = "lbfgs"  # the optimizer that goes to the optimum and proves it, by whole passes instead of batches
# settings that say nothing to it, with the value that leaves them out
_OF_EPOCHS = {
    "lr": None,
    "momentum": 0.0,
    "label_smoothing": 0.0,
    "schedule": None,
    "patience": None,
    "tensorboard": False,
    "precision": "float32",
}
_LATER = (
    "passes",
    "tol",
    "fingerprint",
    "missing",
    "test",
    "class_weight",
    *OPTIONS,
)  # settings that the first run folders did not have


@dataclasses.dataclass(frozen=True)
class RunConfig(_Json):
    """Every setting of one training run; ``config.json`` of the run folder holds them, defaults included.

    Args:
        data: name of the data set, as :func:`tfsoftmax.load` takes it; ``None``: rows made in Python, which have none.
            :func:`tfsoftmax.train` and ``tuning.search`` set it from the data that they are given.
        fingerprint: of the data, see :attr:`tfsoftmax.Data.fingerprint`; ``None``: unknown. Set as ``data`` is.
        epochs: passes over the training rows, at least 1.
        batch_size: rows a step, at least 1.
        lr: learning rate, above 0; the first one if ``schedule`` is ``"cosine"``. ``None``: the curvature bound of the
            data; 0.1 for Fashion-MNIST, and for optimizers other than ``sgd``. ``train`` notes what it was.
        seed: of the split and of the order of the rows, at least 0.
        val: see :class:`tfsoftmax.Data`.
        test: the same.
        optimizer: see ``tfsoftmax.model.OPTIMIZERS``; or ``"lbfgs"``, which goes to the optimum by whole passes and
            proves it (:func:`tfsoftmax.solve`): it takes ``l2``, ``tol`` and ``passes``, and nothing of epochs.
        momentum: of ``sgd``, in [0, 1).
        l2: factor of the squared weights (not the bias) in the loss, at least 0.
        label_smoothing: share of the label's probability that the loss in training gives to all classes, in [0, 1).
        schedule: ``"constant"``, or ``"cosine"`` decay to 0 over all steps (Loshchilov and Hutter, 2017). ``None``:
            constant if ``lr`` is given, for Fashion-MNIST, and where an epoch has fewer than 100 batches; else cosine.
            ``train`` notes what it was.
        preprocess: see :class:`tfsoftmax.Data`.
        patience: stop after so many epochs without a lower validation loss and keep the best weights;
            ``None``: train all epochs and keep the last.
        refit: train on training and validation rows together, without validation.
        tensorboard: also write TensorBoard event files into the run folder: scalars by epoch, class templates as images
            (of at most 30 classes), the settings as text.
        passes: of ``lbfgs``: most passes over the training rows, at least 2.
        tol: of ``lbfgs``: the duality gap wanted, in nats, above 0.
        missing: of a table, see :class:`tfsoftmax.Data`.
        class_weight: ``"balanced"``, or the weight of classes by name, in the loss of training; see
            ``tfsoftmax.weights``.
        label: how the data set is read, see :func:`tfsoftmax.load`; so are ``resize``, ``drop``, ``category``,
            ``number``, ``group``, ``sample_weight`` and ``memory``. ``train`` sets them as ``data``.
        precision: ``"float32"``, or ``"bfloat16"`` for the products in training; the model that is saved is float32.
    """

    data: str | None = None
    epochs: int = 10
    batch_size: int = 256
    lr: float | None = None
    seed: int = 0
    val: int | float | str | None = None
    test: int | float | None = None
    optimizer: str = "sgd"
    momentum: float = 0.0
    l2: float = 0.0
    label_smoothing: float = 0.0
    schedule: str | None = None
    preprocess: str | None = None
    patience: int | None = None
    refit: bool = False
    tensorboard: bool = False
    precision: str = "float32"
    passes: int = 1000
    tol: float = 1e-4
    missing: str = "refuse"
    class_weight: str | dict[str, float] | None = None
    label: str | None = None
    resize: str | None = None
    drop: tuple[str, ...] | None = None
    category: tuple[str, ...] | None = None
    number: tuple[str, ...] | None = None
    group: str | None = None
    sample_weight: str | None = None
    memory: int | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        typed_fields(self)
        number("epochs", self.epochs, 1, INT32, whole=True)
        number("batch_size", self.batch_size, 1, INT32, whole=True)
        if self.lr is not None:
            number("lr", self.lr, 0, open_low=True)
        number("seed", self.seed, 0, INT64, whole=True)
        number("l2", self.l2, 0)
        fraction("momentum", self.momentum)
        fraction("label_smoothing", self.label_smoothing)
        number("passes", self.passes, 2, INT32, whole=True)
        number("tol", self.tol, 0, open_low=True)
        if self.optimizer == SOLVER:
            for name, none in _OF_EPOCHS.items():
                if getattr(self, name) not in (none, "constant"):  # as runs noted the schedule at first
                    raise InputError(
                        f"{name} says nothing to the optimizer {SOLVER!r}, got {getattr(self, name)!r}: "
                        "leave it out, or take another optimizer"
                    )
        check_val(self.val)
        check_test(self.test)
        object.__setattr__(self, "class_weight", check_class_weight(self.class_weight))
        if self.resize is not None:
            picture_size(self.resize)
        if self.memory is not None:
            number("memory", self.memory, 1, INT64, whole=True)
        if self.patience is not None:
            number("patience", self.patience, 1, INT32, whole=True)
            if self.refit or self.val == 0:
                raise InputError("patience needs validation rows, and refit or val=0 leaves none: drop one of the two")

    @classmethod
    def of_run(cls, path: Path) -> RunConfig:
        """Read ``config.json`` of a run folder, which has every setting."""
        what = "run configuration"
        values = read_json(path, what)
        config: RunConfig = cls.from_dict(values, f"{what} {str(path)!r}")
        if missing := [field.name for field in dataclasses.fields(cls) if field.name not in {*values, *_LATER}]:
            raise InputError(f"{what} {str(path)!r} has no {missing[0]!r}: it is not of a run")
        return config


def picture_size(resize: str) -> tuple[int, int]:
    """Width and height of ``"32x24"``. Raises InputError."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", resize, re.ASCII)
    if found is None:
        raise InputError(f"resize must be WIDTHxHEIGHT in pixels, such as 32x32, got {shown(resize)}")
    return int(found[1]), int(found[2])


def check_val(val: Any) -> int | float | str | None:
    """Return ``val`` with plain numbers; raise InputError unless it is None, "test", a share or a number of rows."""
    if val is None or (isinstance(val, str) and val == "test"):
        return val
    return _rows("val", val, 0, "a number of rows, a share of them such as 0.2, or 'test'")


def check_test(test: Any) -> int | float | None:
    """Return ``test`` as a plain number; raise InputError unless it is None, a share or a number of at least 1 row."""
    return None if test is None else _rows("test", test, 1, "a number of rows or a share of them such as 0.2")


def _rows(name: str, value: Any, low: int, what: str) -> int | float:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        plain: int = number(name, value, low, INT32, whole=True)
        return plain
    if isinstance(value, numbers.Real) and 0 < float(value) < 1:
        return float(value)
    raise InputError(f"{name} must be {what}, got {shown(value)}; rows of your own go to tfsoftmax.Source or model.fit")
