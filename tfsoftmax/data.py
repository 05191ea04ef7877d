"""From a source to tf.data: the split and the preprocessing constants."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfsoftmax import columns, sources, splits, weights
from tfsoftmax._checks import INT32, INT64, number, one_of, shown, typed
from tfsoftmax.errors import InputError
from tfsoftmax.inspection import Inspection, inspect
from tfsoftmax.preprocessing import PREPROCESSORS
from tfsoftmax.rows import Rows
from tfsoftmax.spec import MISSING, check_test, check_val

if TYPE_CHECKING:
    import tensorflow as tf


class SplitRows(NamedTuple):
    """The raw rows of a data set; ``val`` is ``None`` where there is none."""

    train: Rows
    val: Rows | None
    test: Rows


class Data:
    """A labelled data set, split and ready for ``model.fit``.

    Args:
        source: the rows; :func:`load` reads one by name. Or raw inputs, as an array or data frame, of which ``y`` are
            the labels.
        y: labels of any kind that :class:`Source` takes; ``None`` with a source.
        x_test: inputs of a test split; columns of a frame are taken by name.
        y_test: their labels.
        classes: as of :class:`Source`, and so is ``groups``.
        groups: see ``classes``.
        name: of arrays, for people.
        batch_size: rows a batch, at least 1.
        val: validation rows, drawn by ``seed`` from the training split, or a share of it, above 0 and below 1; ``None``
            draws one sixth, unless the source has a validation split; ``"test"`` validates on the test split (the
            book's way: then nothing unseen is left to report). 0: no validation.
        seed: of the split and of the order of the training rows.
        preprocess: a name in ``PREPROCESSORS``; constants come from the training rows alone. ``None``: ``"unit"`` for
            uint8, which is taken for pictures, and ``"standardize"`` for all else.
        refit: train on training and validation rows together; ``val`` is then ``None``.
        missing: of a table: ``"refuse"`` missing values, or ``"impute"`` them: a number is then the mean of the
            training rows and a word a category of its own, and the model sees that it is missing.
        test: of a source without a test split: the rows, or their share, that are drawn for one by ``seed``, of each
            class its share; ``None`` draws a fifth. Rows of one group of the source stay together here and in ``val``.
        class_weight: ``"balanced"``, or a weight for each class by name (1 where there is none): what a training row
            of the class counts in the loss, times the weight that the source has for it.

    Attributes:
        train: ``tf.data.Dataset`` of ``(x, y)``, shuffled anew each epoch by ``seed``.
        val: the same for the validation rows, in order; ``None`` with ``refit`` or 0 of them.
        test: the same for the test split, in order.
        rows: the raw rows that these are made of, ``rows.train``, ``rows.val`` and ``rows.test``, without TensorFlow.
        spec: the :class:`~tfsoftmax.spec.ModelSpec`.
        classes: class names in the order of the labels.
        source: the source given.
        settings: the other arguments, with ``val`` and ``test`` as they turned out.
        class_weights: of each class in training, float64 ``(classes,)``; ``None``: all 1.
        options: what :func:`load` read the source with.
        name: what :func:`load` read it by; ``None`` if the rows were made in Python.

    Raises:
        InputError: a setting out of range, or a split that leaves no training row.
    """

    def __init__(
        self,
        source: Any,
        y: Any = None,
        *,
        x_test: Any = None,
        y_test: Any = None,
        classes: Sequence[str] = (),
        groups: Any = None,
        name: str = "data",
        batch_size: int = 256,
        val: int | float | str | None = None,
        seed: int = 0,
        preprocess: str | None = None,
        refit: bool = False,
        missing: str = "refuse",
        test: int | float | None = None,
        class_weight: str | Mapping[str, float] | None = None,
    ):
        arrays = {"x_test": x_test, "y_test": y_test, "classes": classes, "groups": groups}
        if y is not None and not isinstance(source, sources.Source):
            source = sources.of_arrays(name, source, y, **arrays)
        elif not isinstance(source, sources.Source):
            raise InputError(
                f"source must be a tfsoftmax.Source, or inputs before their labels, got {shown(source)}; "
                "tfsoftmax.load reads a data set by its name, or a data frame"
            )
        elif given := [one for one, value in {"y": y, **arrays}.items() if value is not None and len(value)]:
            raise InputError(f"a tfsoftmax.Source has rows and labels already: leave {given[0]} out")
        batch_size = number("batch_size", batch_size, 1, INT32, whole=True)
        seed = number("seed", seed, 0, INT64, whole=True)
        if preprocess is None:
            preprocess = "unit" if source.x_train.dtype == np.uint8 else "standardize"
        one_of("preprocess", preprocess, PREPROCESSORS)
        typed("refit", refit, bool)
        one_of("missing", missing, MISSING)
        val, test = check_val(val), check_test(test)
        class_weight = weights.check_class_weight(class_weight)
        self.source: sources.Source = source
        self.options = self.source.options
        x, y = source.x_train, source.y_train
        train, held_out, tested = splits.split(source, val, test, seed, refit)
        if val is None and held_out is not None and source.val_rows is None and source.groups is None:
            val = len(held_out)
        if tested is not None and test is None:
            test = splits.TEST
        self.settings = {
            "batch_size": batch_size,
            "val": val,
            "seed": seed,
            "preprocess": preprocess,
            "refit": refit,
            "missing": missing,
            "test": test,
            "class_weight": class_weight,
        }
        x_test = self.source.x_test
        self.spec = columns.spec_of(source, train, preprocess, missing)
        if source.columns:
            x = columns.recode(x, source.columns, self.spec.columns, source.name)
            if x_test is not None:
                if missing == "refuse":
                    gaps = columns.missing(x_test, source.columns)
                    columns.refuse_missing(gaps, len(x_test), f"{source.name!r} (test rows)", trained=False)
                x_test = columns.recode(x_test, source.columns, self.spec.columns, source.name)
        self.classes = self.spec.classes
        own = source.weights
        labels = y if train is None else y[train]
        self.class_weights = weights.of_classes(class_weight, labels, self.classes)
        weight = own
        if self.class_weights is not None:
            of_class = self.class_weights.astype(np.float32)[y]
            weight = of_class if own is None else own * of_class

        def tested_rows() -> Rows:
            if x_test is None or source.y_test is None:
                return Rows(x, y, self.spec, batch_size, index=tested, weight=own)
            return Rows(x_test, source.y_test, self.spec, batch_size, weight=source.weights_test)

        validation = None
        if held_out is not None:
            validation = Rows(x, y, self.spec, batch_size, index=held_out, weight=own)
        elif val == "test" and not refit:
            validation = tested_rows()
        self.rows = SplitRows(Rows(x, y, self.spec, batch_size, seed, train, weight), validation, tested_rows())
        self.name = source.origin

    # made when they are asked for: tracing one takes TensorFlow a tenth of a second

    @functools.cached_property
    def train(self) -> tf.data.Dataset:
        """The training rows, see :class:`Data`."""
        return self.rows.train.dataset()

    @functools.cached_property
    def val(self) -> tf.data.Dataset | None:
        """The validation rows, see :class:`Data`."""
        return None if self.rows.val is None else self.rows.val.dataset()

    @functools.cached_property
    def test(self) -> tf.data.Dataset:
        """The test rows, see :class:`Data`."""
        return self.rows.test.dataset()

    @functools.cached_property
    def inspection(self) -> Inspection:
        """What is in the source, without test rows that were drawn from its training rows; it is looked at once."""
        return inspect(self.source, self.rows.test.index if self.source.x_test is None else None)

    def __repr__(self) -> str:
        val = "no" if self.rows.val is None else f"{len(self.rows.val):,}"
        settings = ", ".join(
            f"{name}={value!r}"
            for name, value in self.settings.items()
            if (name != "missing" or self.spec.columns) and (name not in ("test", "class_weight") or value is not None)
        )
        return (
            f"Data({self.spec.name!r}: {len(self.rows.train):,} training, {val} validation and "
            f"{len(self.rows.test):,} test rows, {self.spec.dtype} {self.spec.shape}, {len(self.classes)} classes; "
            f"{settings})"
        )

    @property
    def fingerprint(self) -> str:
        """What tells these rows from others: digests of both splits, their labels and the class names.

        Two data sets have the same if their rows, labels and class names are the same and in the same order; the
        settings do not matter. Of a split of more than 256 MiB evenly spaced rows are read (see
        ``sources/fingerprint.py``). Computed anew each time, since arrays can change.
        """
        return self.source.fingerprint


def load(
    name: Any,
    *,
    label: str | None = None,
    resize: str | None = None,
    drop: Sequence[str] | None = None,
    category: Sequence[str] | None = None,
    number: Sequence[str] | None = None,
    group: str | None = None,
    sample_weight: str | None = None,
    memory: int | None = None,
    **settings: Any,
) -> Data:
    """Read a data set.

    Args:
        name: of the data set (see ``tfsoftmax datasets``), a path whose kind is plain, or a data frame (pandas, Polars
            or anything with the Arrow PyCapsule interface).
        label: of a table: the column of the labels; ``None``: the one that is called label, class, target or y.
        resize: of pictures: the ``"WIDTHxHEIGHT"`` that all are brought to.
        drop: of a table: columns to leave out.
        category: of a table: columns whose values are names, whatever they look like.
        number: of a table: columns whose values are numbers.
        group: of a table: a column whose value says which rows stay together in a split; no input of the model.
        sample_weight: of a table: a column of numbers of at least 0: what each row counts; no input of the model.
        memory: of .npy files: bytes that rows may take. More rows than that stay in their files and are read in
            windows, as training comes to them. ``None``: half of what is free.
        settings: those of :class:`Data`.

    Raises:
        InputError: as :class:`Data`, and an unknown name, unusable files, or an option that the data set does not take.
    """
    options: dict[str, Any] = {"label": label, "resize": resize, "drop": drop, "category": category, "number": number}
    options |= {"group": group, "sample_weight": sample_weight, "memory": memory}
    return Data(sources.read(name, **options), **settings)


def FashionMNIST(  # a class in the chapter, hence its name
    batch_size: int = 256, val: int | str = 10_000, seed: int = 0, preprocess: str = "unit"
) -> Data:
    """The embedded Fashion-MNIST, 28x28 uint8, ten classes: 50,000 + 10,000 training and validation rows, 10,000 test.

    Arguments and errors are those of :class:`Data`.
    """
    return load("fashion_mnist", batch_size=batch_size, val=val, seed=seed, preprocess=preprocess)
