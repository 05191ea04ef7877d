"""Classifier: softmax regression with scikit-learn's manners, for its pipelines, cross-validation and grid search."""

from __future__ import annotations

import numbers
import os
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_array, check_consistent_length, check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(f"tfsoftmax.Classifier needs scikit-learn: pip install 'tfsoftmax[sklearn]' ({error})") from error

from tfsoftmax import columns
from tfsoftmax._checks import INT32, INT64, number, one_of, shown
from tfsoftmax.curvature import default_rate
from tfsoftmax.errors import InputError, TrainingError
from tfsoftmax.predict import conform
from tfsoftmax.preprocessing import PREPROCESSORS
from tfsoftmax.rows import Rows, preprocess
from tfsoftmax.sources import Source, tables
from tfsoftmax.sources.columns import Choices, rows_of
from tfsoftmax.sources.labels import text
from tfsoftmax.spec import MISSING, Column

if TYPE_CHECKING:
    import pyarrow as pa

    from tfsoftmax.export import Export

_PART = 8192  # rows that are preprocessed at a time in predict_proba


class Classifier(ClassifierMixin, BaseEstimator):
    """Softmax regression as a scikit-learn estimator.

    All rows that ``fit`` is given are training rows; ``cross_val_score`` and its kin hold rows out.

    Args:
        epochs: passes over the rows, at least 1.
        batch_size: rows per step, at least 1.
        lr: learning rate, above 0; ``None``: the curvature bound of the rows (see ``tfsoftmax.curvature``), at which
            plain gradient descent over all rows lowers the loss in every step.
        optimizer: see :func:`tfsoftmax.SoftmaxRegression`, as ``momentum`` and ``l2``.
        momentum: of ``"sgd"``, in [0, 1).
        l2: factor of the squared weights (not the bias) in the mean loss, at least 0.
        preprocess: a name in ``tfsoftmax.preprocessing.PREPROCESSORS``. The constants are those of the rows that
            ``fit`` is given, each counted once whatever its weight.
        missing: ``"refuse"`` missing values, or ``"impute"`` them: see :class:`tfsoftmax.Data`. An array is then a
            table of columns ``x0``, ``x1``, ….
        category: of a data frame: columns whose values are names, whatever they look like.
        random_state: seed of the order of the rows: a whole number, ``None`` or a ``numpy.random.RandomState``.

    Attributes:
        classes_: the labels, sorted, ``(classes,)``.
        model_: the fitted ``keras.Sequential``; takes preprocessed rows.
        spec_: its :class:`~tfsoftmax.ModelSpec`.
        n_features_in_: columns of the rows given.
        feature_names_in_: their names; only of a data frame whose columns all have strings for names.
    """

    def __init__(
        self,
        *,
        epochs: int = 100,
        batch_size: int = 256,
        lr: float | None = None,
        optimizer: str = "sgd",
        momentum: float = 0.0,
        l2: float = 0.0,
        preprocess: str = "standardize",
        missing: str = "refuse",
        category: tuple[str, ...] = (),
        random_state: Any = 0,
    ):
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.optimizer = optimizer
        self.momentum = momentum
        self.l2 = l2
        self.preprocess = preprocess
        self.missing = missing
        self.category = category
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn wants to know of an estimator: missing values are taken with ``missing="impute"``."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "impute"
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Classifier:
        """Train from zero weights.

        Args:
            X: numbers ``(rows, columns)``, or a data frame (pandas, Polars or anything with the Arrow PyCapsule
                interface), whose columns may be numbers, booleans and words.
            y: labels of any kind, ``(rows,)``.
            sample_weight: of each row in the loss, numbers of at least 0, ``(rows,)``; ``None``: 1. Their scale does
                not matter: they are divided by their mean. Rows of weight 0 are left out.

        Returns:
            The estimator itself.

        Raises:
            InputError: a setting out of range, one class alone, or a data frame that is no table; a ``ValueError``, as
                those that scikit-learn's own checks raise.
        """
        from tfsoftmax.model import SoftmaxRegression

        one_of("missing", self.missing, MISSING)
        epochs = number("epochs", self.epochs, 1, INT32, whole=True)
        batch_size = number("batch_size", self.batch_size, 1, INT32, whole=True)
        one_of("preprocess", self.preprocess, PREPROCESSORS)
        table = _table(X)
        if table is None:
            X, y = validate_data(self, X, y, dtype=np.float32, ensure_all_finite=self._finite())
        else:
            y = validate_data(self, y=y)
            validate_data(self, X, skip_check_array=True)  # the names of the columns, and their count
            X = table
        check_classification_targets(y)
        check_consistent_length(X, y)
        weight = None if sample_weight is None else _weight(sample_weight, y)
        if weight is not None:
            rows = np.flatnonzero(weight)
            X, y, weight = X.take(rows) if table is not None else X[rows], y[rows], weight[rows]
        self.classes_, codes = np.unique(y, return_inverse=True)
        names = [text(value) for value in self.classes_.tolist()]
        if len(names) < 2:
            raise InputError(f"y has 1 class, {names[0]!r}: a classifier needs at least 2")
        self._columns = None if table is None else table.column_names
        raw, found = self._read(X, "X") if table is not None else (X, self._of_array(X))
        source = Source("data", raw, codes, classes=names, columns=found)
        spec = columns.spec_of(source, None, self.preprocess, self.missing)
        x: Any = source.x_train
        x = columns.recode(x, found, spec.columns) if found else x
        if weight is not None:
            weight = (weight / weight.mean()).astype(np.float32)
        data = Rows(x, source.y_train, spec, batch_size, self._seed(), weight=weight).dataset()
        lr = default_rate(data.rows, self.optimizer, self.l2) if self.lr is None else self.lr
        model = SoftmaxRegression(len(names), lr, optimizer=self.optimizer, momentum=self.momentum, l2=self.l2)
        model.fit(data, epochs=epochs, verbose=0)
        if not all(np.isfinite(value).all() for value in model.get_weights()):
            raise TrainingError(f"the weights are no longer numbers at lr={lr:g}: give a smaller one, or leave lr out")
        self.model_, self.spec_ = model, spec
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, float64 ``(rows, classes)``, in the order of ``classes_``.

        Args:
            X: as in :meth:`fit`. The columns of a data frame are found by name, in any order.
        """
        check_is_fitted(self)
        raw = self._raw(X)
        logits = np.concatenate(
            [
                np.asarray(self.model_(preprocess(self.spec_, raw[i : i + _PART])), np.float64)
                for i in range(0, len(raw), _PART)
            ]
        )
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable of ``classes_`` for each row, ``(rows,)``."""
        places = self.predict_proba(X).argmax(axis=1)
        labels: np.ndarray = self.classes_[places]
        return labels

    def export(self, path: str | os.PathLike[str], **settings: Any) -> Export:
        """Write an export folder; see :func:`tfsoftmax.export`, which takes ``settings`` too."""
        from tfsoftmax.export import export

        check_is_fitted(self)
        return export(self.model_, self.spec_, path, **settings)

    def _finite(self) -> bool | str:
        """What scikit-learn's checks take for values that must be there."""
        return "allow-nan" if self.missing == "impute" else True

    def _seed(self) -> int:
        if isinstance(self.random_state, numbers.Integral):
            return number("random_state", self.random_state, 0, INT64, whole=True)
        return int(check_random_state(self.random_state).randint(INT32))

    def _of_array(self, x: np.ndarray) -> tuple[Column, ...]:
        """The columns of an array, where it needs some: a value that is missing is a feature of its own."""
        if self.missing == "refuse":
            return ()
        return tuple(Column(f"x{place}", "number", "float32") for place in range(x.shape[1]))

    def _read(self, table: pa.Table, where: str) -> tuple[np.ndarray, tuple[Column, ...]]:
        choices = Choices(category=tuple(self.category))
        if unknown := [name for name in choices.category if name not in table.column_names]:
            raise InputError(f"category: {where} has no column {shown(unknown[0])}")
        return rows_of(where, table, len(table), (), choices)[:2]

    def _raw(self, X: Any) -> np.ndarray:
        """Raw rows as the model of ``spec_`` takes them."""
        import pyarrow as pa

        spec = self.spec_
        if self._columns is None:
            X = validate_data(self, X, reset=False, dtype=np.float32, ensure_all_finite=self._finite())
            return conform(X, spec, "X")
        table = _table(X)
        if table is None:
            X = validate_data(self, X, reset=False, dtype=None, ensure_all_finite=False)
            table = pa.table([pa.array(values.tolist(), from_pandas=True) for values in X.T], names=self._columns)
        if spec.columns:
            return tables.raw_rows(table, spec, "X")[0]
        # a list column, which stands alone
        (name,) = self._columns
        if name not in table.column_names:
            raise InputError(f"X has no column {shown(name)}; it has {shown(', '.join(table.column_names))}")
        return conform(self._read(table.select([name]), "X")[0], spec, "X")


def _table(X: Any) -> pa.Table | None:
    """A data frame as a table; ``None``: it is an array, or what becomes one."""
    return tables.of_frame(X) if tables.is_frame(X) and not hasattr(X, "to_frame") else None


def _weight(values: Any, y: np.ndarray) -> np.ndarray:
    """Weights float64 ``(rows,)``. Raises InputError: another shape, below 0, or all 0."""
    weight = check_array(values, dtype=np.float64, ensure_2d=False, input_name="sample_weight")
    if weight.shape != y.shape or (weight < 0).any():
        raise InputError(f"sample_weight must be {len(y)} numbers of at least 0, one per row, got {shown(values)}")
    if not weight.any():
        raise InputError("sample_weight: all weights are zero, so no row is left to learn from")
    return np.asarray(weight)
