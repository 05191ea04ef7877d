"""What logits are worth against labels: loss, accuracy with its interval, per class figures. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from tfsoftmax._checks import typed
from tfsoftmax._files import read_json
from tfsoftmax.errors import InputError
from tfsoftmax.runs.calibration import Calibration

MATRIX = 100  # classes up to which the whole confusion matrix is kept; it grows with their square
MISTAKES = 100  # the most frequent mistakes that are kept

_BLOCK = 2**22  # logits that are computed with at once: float64 copies of all would take three times their memory


class ClassFigures(TypedDict):
    """Figures of one class; a figure over nothing is ``None``."""

    name: str
    count: int
    precision: float | None
    recall: float | None


class Mistake(TypedDict):
    """How many rows of one class were called another."""

    true: str
    predicted: str
    rows: int


class _Figures(TypedDict):
    rows: int
    loss: float
    accuracy: float
    accuracy_95: list[float]
    classes: list[ClassFigures]
    confusion: list[list[int]] | None


class Weighted(TypedDict):
    """Figures over rows that count by their weights."""

    loss: float
    accuracy: float


class Bin(TypedDict):
    """Rows of about the same largest probability."""

    rows: int
    confidence: float
    accuracy: float


class Probabilities(TypedDict):
    """Figures of probabilities that are calibrated by a temperature."""

    temperature: float
    loss: float
    brier: float
    calibration_error: float
    reliability: list[Bin]


class Figures(_Figures, total=False):
    """What :func:`evaluate` returns; former versions wrote less, and rows may have no weights and no temperature."""

    mistakes: list[Mistake]
    brier: float
    calibration_error: float
    reliability: list[Bin]
    weighted: Weighted
    calibrated: Probabilities


class Certificate(TypedDict):
    """What :meth:`tfsoftmax.fitting.solver.Solution.certificate` returns."""

    l2: float
    loss: float
    objective: float
    gradient: float
    gap: float | None
    passes: int
    converged: bool
    precision: str
    why: str


class _Metrics(TypedDict):
    val: Figures | None
    test: Figures
    epochs: int
    seconds: float


class Metrics(_Metrics, total=False):
    """``metrics.json`` of a run; of one to the optimum ``epochs`` are passes."""

    optimum: Certificate


_Z95 = 1.959963984540054  # 97.5 % point of the standard normal distribution


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each row in nats, float64 ``(rows,)``: ``log(sum(exp(o - max o))) - (o_y - max o)``.

    Args:
        logits: ``(rows, classes)``, any float; computed in float64, so ±3e38 is no trouble.
        labels: whole numbers ``(rows,)`` in ``[0, classes)``.
    """
    size, found = max(1, _BLOCK // logits.shape[1]), []
    for i in range(0, len(labels), size):
        shifted = logits[i : i + size].astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        right = shifted[np.arange(len(shifted)), labels[i : i + size]]
        found.append(np.log(np.exp(shifted, out=shifted).sum(axis=1)) - right)
    return np.concatenate(found)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of each row, float64 ``(rows, classes)``, from logits of any float type."""
    exps: np.ndarray = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    exps /= exps.sum(axis=1, keepdims=True)
    return exps


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion ``right / count`` (Wilson, 1927)."""
    share, z2 = right / count, _Z95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def evaluate(
    logits: np.ndarray | Iterable[np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    weights: np.ndarray | None = None,
    temperature: float | None = None,
) -> dict[str, Any]:
    """Compare logits with labels.

    Args:
        logits: floats ``(rows, len(classes))``, at least one row; or parts of them, one after the other.
        labels: whole numbers ``(rows,)``.
        classes: class names in the order of the labels.
        weights: of the rows, not all 0, ``(rows,)``.
        temperature: that calibrates the model, see :func:`tfsoftmax.runs.calibration.temperature`.

    Returns:
        A JSON-ready dict: ``rows``, ``loss`` (mean, nats), ``accuracy``, ``accuracy_95`` (low, high), ``classes`` (a
        list of ``name``, ``count``, ``precision``, ``recall``; a figure over nothing is ``None``), ``confusion``
        (row: true class, column: predicted class; ``None`` above ``MATRIX`` classes), ``mistakes`` (the most frequent
        ones first, at most ``MISTAKES``: ``true`` and ``predicted`` class, ``rows``), and what
        :meth:`tfsoftmax.runs.calibration.Calibration.figures` returns. With weights also ``weighted``: ``loss`` and
        ``accuracy`` as means by weight; all else counts rows. With a temperature also ``calibrated``: it, and ``loss``,
        ``brier``, ``calibration_error`` and ``reliability`` at it.
    """
    said_by, losses_of, at = [], [], 0
    trained, cooled, cooled_loss = Calibration(), Calibration(), 0.0
    for part in [logits] if isinstance(logits, np.ndarray) else logits:
        label = labels[at : at + len(part)]
        said_by.append(part.argmax(axis=1))
        losses_of.append(cross_entropy(part, label))
        trained.add(part, label)
        if temperature is not None:
            part = part / temperature
            cooled.add(part, label)
            cooled_loss += float(cross_entropy(part, label).sum())
        at += len(part)
    count, predicted, losses = len(classes), np.concatenate(said_by), np.concatenate(losses_of)
    pairs, rows = np.unique(labels.astype(np.int64) * count + predicted, return_counts=True)
    true_of, said_of = np.divmod(pairs, count)
    right = np.bincount(labels[predicted == labels], minlength=count)
    true, said = np.bincount(labels, minlength=count), np.bincount(predicted, minlength=count)
    confusion = None
    if count <= MATRIX:
        matrix = np.zeros((count, count), np.int64)
        matrix[true_of, said_of] = rows
        confusion = matrix.tolist()
    wrong = np.flatnonzero(true_of != said_of)
    wrong = wrong[np.argsort(-rows[wrong], kind="stable")[:MISTAKES]]
    weighted = {}
    if weights is not None:
        means = {"loss": losses, "accuracy": predicted == labels}
        weighted = {"weighted": {name: float(np.average(values, weights=weights)) for name, values in means.items()}}
    calibrated = {}
    if temperature is not None:
        found = {"temperature": temperature, "loss": cooled_loss / len(labels), **cooled.figures()}
        calibrated = {"calibrated": found}
    return {
        "rows": len(labels),
        "loss": float(losses.mean()),
        "accuracy": int(right.sum()) / len(labels),
        "accuracy_95": list(wilson(int(right.sum()), len(labels))),
        "classes": [
            {
                "name": name,
                "count": int(true[i]),
                "precision": int(right[i]) / int(said[i]) if said[i] else None,
                "recall": int(right[i]) / int(true[i]) if true[i] else None,
            }
            for i, name in enumerate(classes)
        ],
        "confusion": confusion,
        "mistakes": [
            {"true": classes[true_of[i]], "predicted": classes[said_of[i]], "rows": int(rows[i])} for i in wrong
        ],
        **trained.figures(),
        **weighted,
        **calibrated,
    }


def read_metrics(path: Path) -> dict[str, Any]:
    """Read ``metrics.json`` of a run; what the first versions left out is computed from the confusion matrix.

    Raises:
        InputError: it is not as it was written; the text names the field.
    """
    return checked(read_json(path, "metrics"), f"metrics {str(path)!r}")


def checked(metrics: Any, what: str = "metrics") -> dict[str, Any]:
    """As :func:`read_metrics`, of what has been read."""
    found: dict[str, Any] = typed(what, metrics, Metrics)
    for split in ("val", "test"):
        if found[split] is None:
            continue
        figures = found[split]
        count, matrix = len(figures["classes"]), figures["confusion"]
        if len(figures["accuracy_95"]) != 2:
            raise InputError(f"{what}.{split}.accuracy_95 must be two numbers")
        if matrix is not None and [len(row) for row in matrix] != [count] * count:
            raise InputError(f"{what}.{split}.confusion must have {count} rows of {count} numbers")
        if "mistakes" not in figures:
            names = [row["name"] for row in figures["classes"]]
            pairs = [(i, k) for i in range(count) for k in range(count) if matrix and i != k and matrix[i][k]]
            pairs.sort(key=lambda pair: -matrix[pair[0]][pair[1]])
            figures["mistakes"] = [
                {"true": names[i], "predicted": names[k], "rows": matrix[i][k]} for i, k in pairs[:MISTAKES]
            ]
    return found


def proof(optimum: dict[str, Any]) -> str:
    """The certificate of an optimum in one line."""
    if not optimum["converged"]:
        return f"not converged: {optimum['why']}"
    if optimum["gap"] is None:
        return f"objective {optimum['objective']:.6g} without penalty; gradient {optimum['gradient']:.2g}"
    return (
        f"objective {optimum['objective']:.6g}, at most {optimum['gap']:.2g} nats above the lowest one of "
        f"l2 {optimum['l2']:g}, after {optimum['passes']} passes"
    )


def summary(result: dict[str, Any]) -> str:
    """Loss and accuracy in one line."""
    low, high = result["accuracy_95"]
    return (
        f"loss {result['loss']:.4f}   accuracy {result['accuracy']:.4f} "
        f"(95 % interval {low:.4f} to {high:.4f}, {result['rows']:,} rows)"
        + "".join(f"; by weight {name} {value:.4f}" for name, value in result.get("weighted", {}).items())
    )


def report(figures: dict[str, Any], most: int = 20) -> str:
    """The figures by class and the confusion matrix as text; of many classes the ``most`` worst ones."""
    rows, matrix = figures["classes"], figures["confusion"]
    few = len(rows) <= most and matrix is not None
    if not few:
        found = [row for row in rows if row["recall"] is not None]
        rows = sorted(found, key=lambda row: row["recall"])[:most]
    width = max([len("class"), *(len(row["name"]) for row in rows)])
    lines = [f"{'class':<{width}}  count  precision  recall"]
    lines += [
        f"{row['name']:<{width}}  {row['count']:>5}  {_figure(row['precision']):>9}  {_figure(row['recall']):>6}"
        for row in rows
    ]
    if few:
        cell = max(5, *(len(str(count)) + 1 for row in matrix for count in row))
        lines += ["", "confusion matrix (row: true class, column: predicted class)"]
        lines.append(f"{'':<{width}}  " + "".join(f"{i:>{cell}}" for i in range(len(rows))))
        for i, (row, counts) in enumerate(zip(rows, matrix, strict=True)):
            lines.append(f"{row['name']:<{width}} {i}" + "".join(f"{count:>{cell}}" for count in counts))
        return "\n".join(lines)
    lines.insert(0, f"the {len(rows)} of {len(figures['classes']):,} classes that are found least (--json has all)")
    lines += ["", "most frequent mistakes"]
    lines += [f"{row['rows']:>6}  {row['true']}, called {row['predicted']}" for row in figures["mistakes"][:most]]
    return "\n".join(lines)


def probabilities(result: dict[str, Any]) -> str:
    """How good the probabilities are, as they are and at the temperature, in lines; empty for figures without them."""
    rows = [("as trained", result)]
    if calibrated := result.get("calibrated"):
        rows.append((f"at temperature {calibrated['temperature']:.4g}", calibrated))
    return "\n".join(
        f"{name}: log-loss {found['loss']:.4f}   Brier score {found['brier']:.4f}   "
        f"calibration error {found['calibration_error']:.4f}"
        for name, found in rows
        if "brier" in found
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
