"""Few-shot probes: what a linear model learns from a few rows per class, over several draws of them."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfsoftmax import splits
from tfsoftmax._checks import INT32, number, typed
from tfsoftmax._files import read_json, write_bytes, write_text
from tfsoftmax.data import Data
from tfsoftmax.errors import InputError
from tfsoftmax.fitting.solver import Solution, optimum
from tfsoftmax.rows import Rows, preprocess
from tfsoftmax.spec import ModelSpec
from tuning.penalties import chosen, figures_of

SEEDS = 5
VALIDATED = 4  # validation rows per class, at most
_ROUNDED = 1e-7  # of the largest singular value: what is smaller is the rounding of float32
FILES = ("few_shot.json", "few_shot.png")


def asked(shots: Sequence[int], seeds: int) -> dict[str, Any]:
    """What ``probe.json`` notes of few-shot probes; empty for none. Raises InputError."""
    wanted = [number("few_shot", one, 1, INT32, whole=True) for one in shots]
    if len(set(wanted)) < len(wanted):
        raise InputError(f"few_shot must be distinct numbers of rows per class, got {list(shots)}")
    seeds = number("seeds", seeds, 2, INT32, whole=True)
    return {"few_shot": sorted(wanted), "seeds": seeds} if wanted else {}


def kept(
    folder: Path,
    data: Data,
    grid: Callable[[int, int], list[float]],
    objective: str,
    progress: bool,
    few_shot: list[int],
    seeds: int,
) -> list[dict[str, Any]]:
    """What ``few_shot.json`` in ``folder`` has, written where it is not there, and drawn."""
    path = folder / FILES[0]
    if not path.exists():
        found = probes(data, few_shot, seeds, grid, objective, progress)
        write_text(path, json.dumps({"few_shot": found}, indent=1) + "\n")
    rows = typed(f"few-shot probes {str(path)!r}", read_json(path, "few-shot probes"), dict[str, list[dict[str, Any]]])
    _draw(folder / FILES[1], rows["few_shot"])
    return rows["few_shot"]


def probes(
    data: Data,
    shots: Sequence[int],
    seeds: int,
    grid: Callable[[int, int], list[float]],
    objective: str,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Probes of a few rows per class, as Zhou et al. (2022, CoOp) compare CLIP's linear probe.

    Each draw takes so many training rows of each class without replacement, or all that it has, and up to four
    validation rows of each class, but no more than training rows, to choose the penalty on. The models see these rows
    alone; the constants of the preprocessing, which know no labels, are those of all training rows. The test split is
    read once for all models. More rows of one draw are its fewer ones and others.

    Returns:
        For each of ``shots``: ``shots``; ``rows``, of the models; ``classes_with_fewer`` rows; mean ``accuracy`` on
        the test split and its standard deviation ``std`` over the draws (of the sample, by ``seeds - 1``); and of each
        draw ``accuracies``, ``l2``, ``gaps`` and ``converged``.
    """
    train, seed = data.rows.train, typed("seed", data.settings["seed"], int)
    val: Any = data.rows.val
    sizes = np.bincount(train.y, minlength=len(data.classes))
    found: list[Solution] = []
    rows: list[dict[str, Any]] = []
    for count in shots:
        few = {"shots": count, "rows": int(np.minimum(sizes, count).sum())}
        rows.append({**few, "classes_with_fewer": int((sizes < count).sum())})
        if progress:
            print(f"few-shot: {count} rows per class, {seeds} draws", file=sys.stderr, flush=True)
        for draw in range(seeds):
            learned = _some(train, count, [seed, draw, 0])
            held_out = _some(val, min(count, VALIDATED), [seed, draw, 1])
            solved = _solved(learned, len(data.classes), grid(len(learned), len(data.classes)))
            figures = figures_of(held_out, solved)
            values = zip(solved, figures["accuracy"], figures["loss"], strict=True)
            found.append(
                chosen([{"l2": s.l2, "val_accuracy": a, "val_loss": b, "of": s} for s, a, b in values], objective)["of"]
            )
    accuracies = figures_of(data.rows.test, found)["accuracy"].reshape(len(shots), seeds)
    for k, row in enumerate(rows):
        of_draws = found[k * seeds : (k + 1) * seeds]
        row |= {"accuracy": float(accuracies[k].mean()), "std": float(accuracies[k].std(ddof=1))}
        row |= {"accuracies": accuracies[k].tolist(), "l2": [one.l2 for one in of_draws]}
        row |= {"gaps": [one.gap for one in of_draws], "converged": [one.converged for one in of_draws]}
    return rows


def _solved(rows: Rows, classes: int, l2: list[float]) -> list[Solution]:
    """Solve for ``l2``; of fewer rows than features in the span of the rows, where with a penalty every optimum is."""
    if len(rows) > math.prod(rows.spec.features):
        return optimum(rows, classes, l2)
    x = np.asarray(preprocess(rows.spec, rows.x), np.float64).reshape(len(rows), -1)
    mean = x.mean(axis=0)
    left, size, right = np.linalg.svd(x - mean, full_matrices=False)
    there = max(1, int((size > _ROUNDED * size[0]).sum()))
    shorter = (left * size)[:, :there].astype(np.float32)
    spec = ModelSpec(rows.spec.name, (there,), "float32", rows.spec.classes, "unit", 0.0, 1.0)
    solutions = []
    for one in optimum(Rows(shorter, rows.y, spec, rows.batch_size, weight=rows.weight), classes, l2):
        kernel = right[:there].T @ one.kernel.astype(np.float64)
        bias = one.bias - mean @ kernel
        solutions.append(dataclasses.replace(one, kernel=kernel.astype(np.float32), bias=bias.astype(np.float32)))
    return solutions


def _some(rows: Rows, count: int, seed: list[int]) -> Rows:
    """Up to ``count`` rows of each class, in memory."""
    places, weight = splits.each(rows.y, count, np.random.default_rng(seed)), rows.weight
    weight = None if weight is None else weight[places]
    return Rows(rows.take(places), rows.y[places], rows.spec, rows.batch_size, weight=weight)


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The table of :func:`probes` for people."""
    table = [f"{'rows per class':>14}  {'test accuracy':>14}  {'std':>14}  {'l2':>24}"]
    for row in rows:
        low, high = min(row["l2"]), max(row["l2"])
        between = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        table.append(f"{row['shots']:>14}  {row['accuracy']:>14.4f}  {row['std']:>14.4f}  {between:>24}")
    table.append(f"mean and standard deviation over {len(rows[0]['l2'])} draws")
    if short := [row for row in rows if row["classes_with_fewer"]]:
        counts = ", ".join(f"{row['classes_with_fewer']:,} with fewer than {row['shots']}" for row in short)
        table.append(f"classes with fewer rows give all that they have: {counts}")
    if left := [str(row["shots"]) for row in rows if not all(row["converged"])]:
        table.append(f"not converged in some draws of {', '.join(left)} rows per class; few_shot.json has the gaps")
    return table


def _draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """Test accuracy against rows per class: each draw, and mean with standard deviation."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    shots = [row["shots"] for row in rows]
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for row in rows:
        axes.plot([row["shots"]] * len(row["accuracies"]), row["accuracies"], "o", color="#5f6b73", markersize=3)
    means, spread = [row["accuracy"] for row in rows], [row["std"] for row in rows]
    axes.errorbar(shots, means, spread, fmt="o-", color="#0b6e4f", capsize=4, label="mean and standard deviation")
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(count) for count in shots])
    axes.set_xlabel("training rows per class")
    axes.set_title("accuracy on the test split", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right")
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)
    write_bytes(path, content.getvalue())
