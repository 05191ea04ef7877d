"""Penalties: grids of them by name, what their solutions are worth, which one is chosen, and the picture of all."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfsoftmax._files import write_bytes
from tfsoftmax.fitting.solver import Solution, penalty
from tfsoftmax.rows import Rows
from tfsoftmax.runs.evaluation import cross_entropy

OBJECTIVES = ("val_accuracy", "val_loss")


def _penalties(rows: int, classes: int) -> list[float]:
    return [float(l2) for l2 in np.geomspace(1e-6, 1e2, 45)]


def _of_c(values: np.ndarray, rows: int, classes: int) -> list[float]:
    return [penalty(float(c), rows, classes) for c in values]


# name -> function of training rows and classes that gives the penalties
GRIDS: dict[str, Callable[[int, int], list[float]]] = {
    "default": _penalties,
    # Radford et al., 2021, appendix A.3: 96 values of scikit-learn's 1/C from 1e-6 to 1e6
    "clip": functools.partial(_of_c, np.logspace(-6, 6, 96)),
    # facebookresearch/dinov2, eval/log_regression.py: C_POWER_RANGE
    "dinov2": functools.partial(_of_c, 10 ** np.linspace(-6, 5, 45)),
}


def chosen(rows: Sequence[dict[str, Any]], objective: str) -> dict[str, Any]:
    """The best row; of equal ones the one with the larger penalty."""
    accuracy = objective == "val_accuracy"
    key = (lambda row: (-row["val_accuracy"], row["val_loss"])) if accuracy else (lambda row: row["val_loss"])
    return min(sorted(rows, key=lambda row: -row["l2"]), key=key)


def figures_of(rows: Rows, found: Sequence[Solution]) -> dict[str, np.ndarray]:
    """Loss and accuracy of each solution on ``rows``, weights aside: float64 ``(solutions,)``."""
    kernels, biases = np.concatenate([one.kernel for one in found], axis=1), np.stack([one.bias for one in found])
    loss, right, unshuffled = np.zeros(len(found)), np.zeros(len(found)), rows.like(rows.spec, rows.batch_size)
    for x, y, *_ in unshuffled.dataset():
        logits = (x.numpy().reshape(len(y), -1) @ kernels).reshape(len(y), *biases.shape) + biases
        labels = np.repeat(y.numpy(), len(found))
        loss += cross_entropy(logits.reshape(len(labels), -1), labels).reshape(len(y), -1).sum(axis=0)
        right += (logits.argmax(axis=-1) == y.numpy()[:, None]).sum(axis=0)
    return {"loss": loss / len(rows), "accuracy": right / len(rows)}


def draw(path: Path, rows: list[dict[str, Any]], best: dict[str, Any]) -> None:
    """Accuracy and loss against the penalty, of training and validation rows; 0 has no place on a logarithmic axis."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    rows = sorted((row for row in rows if row["l2"] > 0), key=lambda row: row["l2"])
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for axes, name in zip(panels, ("accuracy", "loss"), strict=True):
        for split, colour in (("train", "#5f6b73"), ("val", "#0b6e4f")):
            values = [row[f"{split}_{name}"] for row in rows]
            label = {"train": "training", "val": "validation"}[split]
            axes.semilogx([row["l2"] for row in rows], values, "o-", color=colour, markersize=3, label=label)
        if best["l2"] > 0:
            axes.axvline(best["l2"], color="#d1495b", linestyle="--", label=f"chosen: {best['l2']:.3g}")
        axes.set_xlabel("penalty (l2)")
        axes.set_title(name, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    losses = [row["val_loss"] for row in rows if math.isfinite(row["val_loss"])]
    panels[1].set_ylim(0, 1.5 * sorted(losses)[len(losses) // 2] if losses else 1)
    panels[0].legend()
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)
    write_bytes(path, content.getvalue())
