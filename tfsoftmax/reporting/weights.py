"""What the weights of a linear model say: templates, evidence, columns and values, classes alike. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfsoftmax.columns import column_of_feature, constants, dense, feature_names
from tfsoftmax.spec import ModelSpec


def is_picture(spec: ModelSpec) -> bool:
    """Whether a row can be seen: grey or in three colours."""
    return len(spec.shape) == 2 or (len(spec.shape) == 3 and spec.shape[2] in (1, 3))


def centred(kernel: np.ndarray) -> np.ndarray:
    """The kernel ``(features, classes)`` less its mean over the classes, which changes no probability."""
    plain = kernel.astype(np.float64)
    return plain - plain.mean(axis=1, keepdims=True)


def templates(spec: ModelSpec, kernel: np.ndarray) -> np.ndarray:
    """What one raw unit of each element says for each class, float64 ``(classes, *shape)``."""
    return (centred(kernel) * np.reshape(constants(spec)[1], (-1, 1))).T.reshape(-1, *spec.shape)


def evidence(spec: ModelSpec, kernel: np.ndarray, raw: np.ndarray, first: int, second: int) -> np.ndarray:
    """What each element, or column, of one raw input says for one class against another, float64 ``shape``.

    With the difference of the biases they add up to the difference of the two logits.
    """
    offset, scale = (np.asarray(value) for value in constants(spec))
    features = (dense(spec, raw[None]).astype(np.float64)[0] - offset) * scale
    terms = features * (kernel[:, first].astype(np.float64) - kernel[:, second])
    if spec.columns:
        terms = np.bincount(column_of_feature(spec.columns), terms, len(spec.columns))
    return terms.reshape(spec.shape)


def by_feature(spec: ModelSpec, kernel: np.ndarray) -> list[dict[str, Any]]:
    """The weights of the features of a table, those first that tell classes apart most.

    ``feature``, ``spread`` (largest less smallest weight), and ``weights``, one per class; of a number they are those
    of one unit as the model sees it, a standard deviation where rows are standardized.
    """
    plain, names = centred(kernel), feature_names(spec.columns)
    spread = np.ptp(plain, axis=1)
    return [
        {"feature": names[k], "spread": float(spread[k]), "weights": plain[k].tolist()}
        for k in np.argsort(-spread, kind="stable")
    ]


def alike(classes: tuple[str, ...], kernel: np.ndarray) -> list[dict[str, Any]]:
    """Of each class the norm of its weights, and the class whose weights point most nearly the same way."""
    plain = centred(kernel)
    norms = np.linalg.norm(plain, axis=0)
    cosines = plain.T @ plain / np.maximum(np.outer(norms, norms), np.finfo(float).tiny)
    np.fill_diagonal(cosines, -np.inf)
    nearest = cosines.argmax(axis=1)
    return [
        {
            "class": name,
            "norm": float(norms[k]),
            "nearest": classes[nearest[k]],
            "cosine": float(cosines[k, nearest[k]]),
        }
        for k, name in enumerate(classes)
    ]
