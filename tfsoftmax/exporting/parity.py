"""Parity: what a file answers in its own runtime, compared with what the model answers."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from tfsoftmax.exporting.formats import Format
from tfsoftmax.predict import Answer
from tfsoftmax.runs.evaluation import softmax
from tfsoftmax.spec import ModelSpec

# Largest difference of a logit between a file and the model, for logits up to 100. Beyond, float32 itself has
# coarser steps, and the limit grows in proportion.
LOGIT_LIMIT = 1e-4
# int8: the difference of a logit as a share of the distance between the largest and the smallest one, ...
INT8_LOGIT_LIMIT = 0.02
# ... and the share of rows that may be right with the model and wrong with the file, on balance.
INT8_ACCURACY_LIMIT = 0.005
_AT_ONCE = 16_384  # rows a call, at most: larger sets go in parts


@dataclasses.dataclass(frozen=True)
class Expected:
    """Rows, with what the model answers.

    Args:
        raw: raw inputs ``(n, *spec.shape)``; they go into each file at once.
        y: labels int64 ``(n,)``, -1 where there is none.
        logits: of the model, float32 ``(n, classes)``.
        few: indices of rows that go in one by one and in batches of 7, too.
    """

    raw: np.ndarray
    y: np.ndarray
    logits: np.ndarray
    few: np.ndarray


def compare(name: str, entry: Format, folder: Path, spec: ModelSpec, rows: Expected) -> dict[str, Any]:
    """Open the file of a format, called ``name``, in a version folder and compare it with the model.

    Returns:
        JSON-ready: ``format``, ``file``, ``runtime``, ``rows``, ``labelled`` (how many of them have labels), ``bytes``;
        ``logits`` and ``probabilities``, largest absolute differences; ``limit``, of logits; ``classes``, rows whose
        class differs; ``accuracy`` and ``model_accuracy`` on the rows with labels (``None`` without); ``microseconds``,
        a row in batches of ``"1"`` and ``"1024"``, medians; ``ok``.
    """
    raw, few = rows.raw, rows.few
    answer = entry.open(folder, spec)
    order = np.concatenate([np.arange(len(raw)), few, few])
    parts = [*_batches(raw, _AT_ONCE), *_batches(raw[few], 1), *_batches(raw[few], 7)]
    got = [answer(part) for part in parts]
    logits, probabilities, class_id = (
        np.concatenate([part[key] for part in got]) for key in ("logits", "probabilities", "class_id")
    )
    expected, y = rows.logits[order], rows.y[order]
    best = expected.argmax(axis=1)
    changed = class_id != best
    differ = _largest(logits - expected)
    known = (y >= 0) & (np.arange(len(order)) < len(raw))
    right, model_right = int((class_id == y)[known].sum()), int((best == y)[known].sum())
    if entry.int8:
        limit = INT8_LOGIT_LIMIT * float(expected.max() - expected.min())
        # fewer than 200 rows cannot show half a point: one row may change there
        same = model_right - right <= max(1, INT8_ACCURACY_LIMIT * known.sum())
    else:
        limit = LOGIT_LIMIT * max(1.0, float(np.abs(expected).max()) / 100)
        # two classes whose logits the limit cannot tell apart may change places
        chosen = np.take_along_axis(expected, class_id[:, None], axis=1)[:, 0]
        same = not (changed & (expected.max(axis=1) - chosen > 2 * limit)).any()
    names = np.array(spec.classes, object)[class_id]
    labels = np.concatenate([part["label"] for part in got]) if "label" in got[0] else names
    return {
        "format": name,
        "file": entry.files[0],
        "runtime": entry.runtime,
        "rows": len(raw),
        "labelled": int(known.sum()),
        "bytes": sum(path.stat().st_size for pattern in entry.files for path in folder.glob(pattern)),
        "logits": differ,
        "limit": limit,
        "probabilities": _largest(probabilities - softmax(expected)),
        "classes": int(changed[: len(raw)].sum()),
        "accuracy": right / int(known.sum()) if known.any() else None,
        "model_accuracy": model_right / int(known.sum()) if known.any() else None,
        "microseconds": {"1": _seconds(answer, raw, 1, 200) * 1e6, "1024": _seconds(answer, raw, 1024, 10) * 1e6},
        "ok": bool(differ <= limit and same and (labels == names).all()),
    }


def table(parity: list[dict[str, Any]]) -> str:
    """The parity rows as text, one line a format."""
    lines = [
        f"{'format':<12} {'runtime':<13} {'rows':>6} {'bytes':>8} {'logits differ':>14} {'probabilities':>14} "
        f"{'classes':>8} {'accuracy':>9} {'us/row: 1':>10} {'1,024':>7}  ok"
    ]
    lines += [
        f"{row['format']:<12} {row['runtime']:<13} {row['rows']:>6} {row['bytes']:>8,} {row['logits']:>14.2e} "
        f"{row['probabilities']:>14.2e} {row['classes']:>8} {_share(row['accuracy']):>9} "
        f"{row['microseconds']['1']:>10.1f} {row['microseconds']['1024']:>7.2f}  {'yes' if row['ok'] else 'NO'}"
        for row in parity
    ]
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _batches(raw: np.ndarray, size: int) -> list[np.ndarray]:
    return [raw[i : i + size] for i in range(0, len(raw), size)]


def _largest(difference: np.ndarray) -> float:
    """The largest absolute value; infinite where something is not a number."""
    return float(np.nan_to_num(np.abs(difference), nan=np.inf).max())


def _seconds(answer: Answer, raw: np.ndarray, size: int, times: int) -> float:
    """Median seconds a row, in batches of ``size``."""
    rows = np.ascontiguousarray(raw[np.arange(size) % len(raw)])
    answer(rows)
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        answer(rows)
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken)) / size
