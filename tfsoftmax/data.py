"""From a source to tf.data: the split, the preprocessing constants, the order of the rows."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfsoftmax import columns, sources, splits, weights
from tfsoftmax._checks import INT32, INT64, number, one_of, shown, typed
from tfsoftmax.errors import InputError
from tfsoftmax.preprocessing import PREPROCESSORS as PREPROCESSORS
from tfsoftmax.spec import MISSING, ModelSpec, check_test, check_val

if TYPE_CHECKING:
    import tensorflow as tf


def preprocess(spec: ModelSpec, x: tf.Tensor) -> tf.Tensor:
    """Apply the preprocessing of ``spec`` to raw inputs ``(batch, *shape)``; returns float32 ``(batch, *features)``."""
    import tensorflow as tf

    offset, scale = (
        tf.constant(value, tf.float32, shape=spec.features if isinstance(value, np.ndarray) else ())
        for value in columns.constants(spec)
    )
    return (columns.features(spec, x) - offset) * scale


class Rows:
    """The rows of one split, in memory and raw, with their batch size and their order.

    The order of epoch ``e`` depends on ``(seed, e)`` alone. ``fit`` sets the epochs that it trains, whatever has
    read the rows before. Otherwise each new iteration of :meth:`dataset` is the next epoch; ``epoch`` counts.

    Args:
        x: raw inputs ``(rows, *spec.shape)`` of dtype ``spec.dtype``; shared, not copied, where its memory is aligned.
        y: labels int32 ``(rows,)``.
        spec: its preprocessing is applied to each batch.
        batch_size: rows per batch; the last batch of an epoch has the remaining rows.
        seed: shuffles the rows in each epoch; ``None`` keeps their order.
        index: which rows of ``x`` and ``y`` these are, int32; ``None`` for all. Splits share one ``x`` so.
        weight: of each row of ``x`` in the loss, float32 ``(rows,)``; ``None``: 1.
    """

    _living: ClassVar[weakref.WeakSet[Rows]] = weakref.WeakSet()

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        spec: ModelSpec,
        batch_size: int,
        seed: int | None = None,
        index: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ):
        import tfsoftmax._tensorflow  # noqa: F401 - before TensorFlow

        # isort: split
        import tensorflow as tf

        self._x, self._y, self._weight = sources.aligned(x), y, weight
        self.spec, self.batch_size, self.seed, self.index = spec, batch_size, seed, index
        self._on_device: dict[str, tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]] = {}
        with tf.device("CPU"):
            self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False, name="epoch")
            self._counting = tf.Variable(1, dtype=tf.int64, trainable=False, name="counting")
        self._living.add(self)

    @classmethod
    def begin(cls, epoch: int, counting: bool) -> None:
        """Called by ``fit``: the next iteration of any :meth:`dataset`, and of what is made of it, is ``epoch``.

        With ``counting`` the next but one is the epoch after; else all are ``epoch`` until it is called again.
        """
        for rows in cls._living:
            rows.epoch.assign(epoch)
            rows._counting.assign(int(counting))

    @classmethod
    @contextlib.contextmanager
    def in_fit(cls) -> Iterator[None]:
        """A fit, at whose end iterations count again."""
        try:
            yield
        finally:
            for rows in cls._living:
                rows._counting.assign(1)

    def __len__(self) -> int:
        return len(self._x if self.index is None else self.index)

    @property
    def x(self) -> np.ndarray:
        """The raw inputs of these rows, in order."""
        return self._x if self.index is None else self._x[self.index]

    @property
    def y(self) -> np.ndarray:
        """The labels of these rows, in order."""
        return self._y if self.index is None else self._y[self.index]

    @property
    def weight(self) -> np.ndarray | None:
        """The weights of these rows, in order; ``None``: all 1."""
        return self._weight if self._weight is None or self.index is None else self._weight[self.index]

    @functools.cached_property
    def checksum(self) -> int:
        """CRC-32 of the arrays that these rows are in, and of which ones they are."""
        arrays = [array for array in (self._x, self._y, self.index, self._weight) if array is not None]
        return functools.reduce(lambda sum_, array: zlib.crc32(np.ascontiguousarray(array).data, sum_), arrays, 0)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return math.ceil(len(self) / self.batch_size)

    def order(self, epoch: tf.Tensor | int) -> tf.Tensor:
        """Where the rows of ``epoch`` are in :meth:`tensors`, one after the other: int32 ``(rows,)``."""
        import tensorflow as tf

        rows = tf.range(len(self), dtype=tf.int32) if self.index is None else tf.constant(self.index)
        if self.seed is None:
            return rows
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(epoch, tf.int64)])
        return tf.random.experimental.stateless_shuffle(rows, seed=seed)

    def tensors(self, device: str = "CPU") -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
        """The whole raw ``x``, ``y`` and weights on a device; on the host ``x`` shares the memory of the array."""
        import tensorflow as tf

        if device not in self._on_device:
            with tf.device("CPU"):
                x, y = tf.experimental.dlpack.from_dlpack(self._x.__dlpack__()), tf.constant(self._y)
                weight = None if self._weight is None else tf.constant(self._weight, tf.float32)
            with tf.device(device):
                placed = None if weight is None else tf.identity(weight)
                self._on_device[device] = tf.identity(x), tf.identity(y), placed
        return self._on_device[device]

    def dataset(self) -> tf.data.Dataset:
        """The batches of one epoch: ``x`` float32 ``(batch, *shape)`` preprocessed, ``y`` int32 ``(batch,)``.

        Rows with weights have them as a third element, float32 ``(batch,)``.
        The data set carries this object as its attribute ``rows``; data sets derived from it do not.
        """
        import tensorflow as tf

        (x, y, weight), size, count = self.tensors(), self.batch_size, len(self)

        def begin(_: tf.Tensor) -> tf.Tensor:
            counting = self._counting.read_value()
            return self.order(self.epoch.assign_add(counting) - counting)

        def batch(order: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, ...]:
            rows = order[step * size : tf.minimum((step + 1) * size, count)]
            raw = tf.gather(x, rows)
            prepared = preprocess(self.spec, tf.ensure_shape(raw, (None, *self.spec.shape)))
            return prepared, tf.gather(y, rows), *(() if weight is None else (tf.gather(weight, rows),))

        def batches(order: tf.Tensor) -> tf.data.Dataset:
            steps = tf.data.Dataset.range(self.steps, output_type=tf.int32)
            return steps.map(functools.partial(batch, order), num_parallel_calls=os.cpu_count())

        epoch = tf.data.Dataset.from_tensors(0).map(begin).flat_map(batches)
        epoch = untuned(epoch.apply(tf.data.experimental.assert_cardinality(self.steps)).prefetch(2))
        epoch.rows = self
        return epoch


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """``dataset`` without tf.data's autotuning, whose thread an iterator waits for when it ends, up to seconds.

    Where its options ask for autotuning, it stays.
    """
    import tensorflow as tf

    if dataset.options().autotune.enabled is not None:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


class Data:
    """A labelled data set, split and ready for ``model.fit``.

    Args:
        source: the rows; :func:`load` reads one by name.
        batch_size: rows a batch, at least 1.
        val: validation rows, drawn by ``seed`` from the training split, or a share of it, above 0 and below 1; ``None``
            draws one sixth, unless the source has a validation split; ``"test"`` validates on the test split (the
            book's way: then nothing unseen is left to report). 0: no validation.
        seed: of the split and of the order of the training rows.
        preprocess: a name in ``PREPROCESSORS``; constants come from the training rows alone.
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
        source: sources.Source,
        batch_size: int = 256,
        val: int | float | str | None = None,
        seed: int = 0,
        preprocess: str = "unit",
        refit: bool = False,
        missing: str = "refuse",
        test: int | float | None = None,
        class_weight: str | Mapping[str, float] | None = None,
    ):
        if not isinstance(source, sources.Source):
            raise InputError(
                f"source must be a tfsoftmax.Source, got {shown(source)}; tfsoftmax.load reads a data set by its name"
            )
        batch_size = number("batch_size", batch_size, 1, INT32, whole=True)
        seed = number("seed", seed, 0, INT64, whole=True)
        one_of("preprocess", preprocess, PREPROCESSORS)
        typed("refit", refit, bool)
        one_of("missing", missing, MISSING)
        val, test = check_val(val), check_test(test)
        class_weight = weights.check_class_weight(class_weight)
        self.source, self.options = source, source.options
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
        x_test: np.ndarray | None = source.x_test
        self.spec = columns.spec_of(source, train, preprocess, missing)
        if source.columns:
            x = columns.recode(x, source.columns, self.spec.columns, source.name)
            if x_test is not None:
                if missing == "refuse":
                    gaps = columns.missing(x_test, source.columns)
                    columns.refuse_missing(gaps, len(x_test), f"{source.name!r} (test rows)")
                x_test = columns.recode(x_test, source.columns, self.spec.columns, source.name)
        self.classes = self.spec.classes
        own = source.weights
        labels = y if train is None else y[train]
        self.class_weights = weights.of_classes(class_weight, labels, self.classes)
        weight = own
        if self.class_weights is not None:
            of_class = self.class_weights.astype(np.float32)[y]
            weight = of_class if own is None else own * of_class
        self.train = Rows(x, y, self.spec, batch_size, seed, train, weight).dataset()

        def tested_rows() -> tf.data.Dataset:
            if x_test is None or source.y_test is None:
                return Rows(x, y, self.spec, batch_size, index=tested, weight=own).dataset()
            return Rows(x_test, source.y_test, self.spec, batch_size, weight=source.weights_test).dataset()

        self.test, self.val = tested_rows(), None
        if held_out is not None:
            self.val = Rows(x, y, self.spec, batch_size, index=held_out, weight=own).dataset()
        elif val == "test" and not refit:
            self.val = tested_rows()
        self.name = source.origin

    def __repr__(self) -> str:
        val = "no" if self.val is None else f"{len(self.val.rows):,}"
        settings = ", ".join(
            f"{name}={value!r}"
            for name, value in self.settings.items()
            if (name != "missing" or self.spec.columns) and (name not in ("test", "class_weight") or value is not None)
        )
        return (
            f"Data({self.spec.name!r}: {len(self.train.rows):,} training, {val} validation and "
            f"{len(self.test.rows):,} test rows, {self.spec.dtype} {self.spec.shape}, {len(self.classes)} classes; "
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
        settings: those of :class:`Data`.

    Raises:
        InputError: as :class:`Data`, and an unknown name, unusable files, or an option that the data set does not take.
    """
    options = {"label": label, "resize": resize, "drop": drop, "category": category, "number": number}
    options |= {"group": group, "sample_weight": sample_weight}
    return Data(sources.read(name, **options), **settings)


def FashionMNIST(  # a class in the chapter, hence its name
    batch_size: int = 256, val: int | str = 10_000, seed: int = 0, preprocess: str = "unit"
) -> Data:
    """The embedded Fashion-MNIST, 28x28 uint8, ten classes: 50,000 + 10,000 training and validation rows, 10,000 test.

    Arguments and errors are those of :class:`Data`.
    """
    return load("fashion_mnist", batch_size=batch_size, val=val, seed=seed, preprocess=preprocess)
