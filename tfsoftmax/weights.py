"""What each training row counts in the loss: the weight of its class times its own."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfsoftmax._checks import shown
from tfsoftmax.errors import InputError


def check_class_weight(given: Any) -> str | dict[str, float] | None:
    """Return ``class_weight`` with plain numbers.

    Raises:
        InputError: it is neither ``None``, ``"balanced"`` nor a weight of at least 0 for each of some class names.
    """
    if given is None or (isinstance(given, str) and given == "balanced"):
        return given
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"class_weight must be 'balanced' or a weight for each class name, got {shown(given)}")
    for name, weight in given.items():
        number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
        if not isinstance(name, str) or not number or not 0 <= weight < math.inf:
            raise InputError(f"class_weight[{shown(name)}] must be a number of at least 0, got {shown(weight)}")
    return {name: float(weight) for name, weight in given.items()}


def of_classes(given: str | Mapping[str, float] | None, y: np.ndarray, classes: Sequence[str]) -> np.ndarray | None:
    """The weight of each class, float64 ``(classes,)``; ``None``: all 1.

    Args:
        given: what :func:`check_class_weight` returns. ``"balanced"``: rows / (classes * rows of the class), so that
            each class counts alike (King and Zeng, 2001; scikit-learn's formula). A class without a weight has 1.
        y: labels of the training rows, whole numbers ``(rows,)``.
        classes: class names in the order of the labels.

    Raises:
        InputError: a weight for a class that is not there, or nothing but zeros.
    """
    if given is None:
        return None
    if isinstance(given, str):
        count = np.bincount(y, minlength=len(classes))
        return np.where(count > 0, len(y) / (np.count_nonzero(count) * np.maximum(count, 1)), 1.0)
    if unknown := [name for name in given if name not in classes]:
        known = shown(", ".join(classes))
        raise InputError(f"class_weight names {shown(unknown[0])}, which is no class; the classes are {known}")
    weights = np.array([given.get(name, 1.0) for name in classes])
    if not weights[np.unique(y)].any():
        raise InputError("class_weight is 0 for every class: nothing is left to learn from")
    return weights


def check_rows(given: Any, rows: int, where: str) -> np.ndarray:
    """The weights of rows as float32 ``(rows,)``.

    Raises:
        InputError: another shape, a weight that is no number of at least 0, or nothing but zeros.
    """
    weights = np.asarray(given)
    if weights.shape != (rows,) or weights.dtype.kind not in "biuf":
        raise InputError(f"{where}: weights must be {rows:,} numbers, got {weights.dtype} {weights.shape}")
    with np.errstate(over="ignore"):
        weights = weights.astype(np.float32)
    wrong = ~((weights >= 0) & np.isfinite(weights))
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{where}: the weight of row {row} is {weights[row]}; weights are numbers of at least 0")
    if not weights.any():
        raise InputError(f"{where}: all weights are 0")
    return weights


def without_weights(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Logits as of a model that was trained without class weights, by the prior correction.

    A model of weighted classes says ``p(c|x) w_c / sum``; so ``log w_c`` is taken from each logit. A class of weight 0
    was never learned, and stays as it is.
    """
    return logits - np.log(np.where(weights > 0, weights, 1.0))
