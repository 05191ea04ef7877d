"""probe(): the linear probe in one call: every penalty solved, one chosen on validation rows, refitted, tested once."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from tfsoftmax._checks import number, one_of, typed
from tfsoftmax._files import read_json, write_bytes, write_csv
from tfsoftmax._folders import Kind, claim, locked
from tfsoftmax.columns import recode, spec_of
from tfsoftmax.data import Data
from tfsoftmax.errors import InputError
from tfsoftmax.fitting.solver import Progress, optimum
from tfsoftmax.rows import Rows
from tfsoftmax.runs.evaluation import softmax
from tfsoftmax.runs.folder import has_finished
from tfsoftmax.runs.folds import drawn
from tfsoftmax.runs.run import Run
from tfsoftmax.runs.training import train
from tfsoftmax.spec import SOLVER, RunConfig
from tuning import few
from tuning.penalties import GRIDS, OBJECTIVES, chosen, draw, figures_of

OUT_OF_FOLD = "out_of_fold.npz"
FILES = ("probe.json", "penalties.csv", "penalties.png", OUT_OF_FOLD)
TOL, PASSES = 1e-3, 500  # of the sweep; the model that is kept has those of RunConfig
_EVERY = 5.0  # seconds between lines of progress


@dataclasses.dataclass(frozen=True)
class Probe:
    """A finished probe.

    Args:
        folder: ``probe.json`` (what was requested), ``penalties.csv``, ``penalties.png`` and the run folder ``run``.
        rows: one for each penalty, as in ``penalties.csv``.
        best: the row that was chosen.
        run: of the model on training and validation rows.
        few_shot: one for each number of rows per class, as in ``few_shot.json``.
    """

    folder: Path
    rows: list[dict[str, Any]]
    best: dict[str, Any]
    run: Run
    few_shot: list[dict[str, Any]]


def probe(
    data: Data,
    out: str | os.PathLike[str],
    *,
    grid: str = "default",
    objective: str = "val_accuracy",
    folds: int | None = None,
    few_shot: Sequence[int] = (),
    seeds: int = few.SEEDS,
    overwrite: bool = False,
    progress: bool = False,
) -> Probe:
    """Solve for all penalties on the training rows, choose on the validation rows, refit on both, test once.

    With ``folds`` each fold is validated in its turn by models of the others, preprocessed by what they have;
    ``out_of_fold.npz`` keeps what these say with the penalty chosen: ``probabilities`` float32 ``(rows, classes)``,
    ``labels`` and ``rows``, the places in the source's training split.

    With ``few_shot`` also probes of a few rows per class, see :func:`tuning.few.probes`: ``few_shot.json`` and
    ``few_shot.png``.

    The same call goes on where a killed one had solved the penalties, and ends in the same bytes but ``seconds``.

    Args:
        data: with validation rows of its own; for folds without.
        out: the folder to write.
        grid: a name in ``GRIDS``.
        objective: ``"val_accuracy"`` (of equal ones the lower loss) or ``"val_loss"``.
        folds: how many, at least 2; each has of every class its share, or whole groups.
        few_shot: numbers of rows per class, at least 1.
        seeds: how many times the rows of each are drawn, at least 2.
        overwrite: replace a probe that is there.
        progress: report on standard error.

    Raises:
        InputError: an argument out of range, no validation rows, or a folder of something else.
    """
    one_of("grid", grid, GRIDS)
    one_of("objective", objective, OBJECTIVES)
    if folds is not None:
        folds = number("folds", folds, 2, len(data.rows.train), whole=True)
        if data.rows.val is not None:
            raise InputError("folds take all training rows: set val to 0")
        drawn(data, folds, typed("seed", data.settings["seed"], int))  # or an error, before anything is written
    elif data.rows.val is None or data.settings["val"] == "test":
        raise InputError("a probe needs validation rows of its own: set val to a number of training rows, or folds")
    also = few.asked(few_shot, seeds)
    if also and data.rows.val is None:
        raise InputError("few_shot chooses each penalty on validation rows: leave folds out")
    asked: dict[str, Any] = {"data": data.name, "fingerprint": data.fingerprint}
    asked |= {"grid": grid, "objective": objective, "folds": folds, **also}
    asked["settings"] = {**data.settings, **data.options}
    folder, text = Path(out), json.dumps(asked, indent=1) + "\n"
    with locked(folder):
        claim(folder, PROBE_FOLDER, text, overwrite, functools.partial(_same, folder, asked))
        table = folder / "penalties.csv"
        if not table.exists():
            write_csv(table, _sweep(data, folds, GRIDS[grid](len(data.rows.train), len(data.classes)), progress))
        rows = _read_table(table)
        best = chosen(rows, objective)
        draw(folder / "penalties.png", rows, best)
        if folds is not None and not (folder / OUT_OF_FOLD).exists():
            write_bytes(folder / OUT_OF_FOLD, _out_of_fold(data, folds, best["l2"]))
        shots = few.kept(folder, data, GRIDS[grid], objective, progress, **also) if also else []
        settings: dict[str, Any] = {**data.settings, "refit": True}
        both = Data(data.source, **settings)
        config = RunConfig(optimizer=SOLVER, l2=best["l2"], **settings)
        train(both, config, folder / "run", overwrite=overwrite)
    return Probe(folder, rows, best, Run(folder / "run"), shots)


def _parts(data: Data, folds: int | None) -> list[tuple[Rows, Rows]]:
    """Training and validation rows; of each fold."""
    rows, seed = data.rows.train, typed("seed", data.settings["seed"], int)
    if folds is None:
        return [] if data.rows.val is None else [(rows, data.rows.val)]
    fold, source, parts = drawn(data, folds, seed), data.source, []
    for one in range(folds):
        held_out, others = np.flatnonzero(fold == one), np.flatnonzero(fold != one)
        index = others if rows.index is None else rows.index[others]
        spec = spec_of(source, index.astype(np.int32), data.spec.preprocess, data.spec.missing)
        x: Any = source.x_train
        x = recode(x, source.columns, spec.columns, source.name) if spec.columns else None
        parts.append((rows.some(others, spec, x=x), rows.some(held_out, spec, x=x)))
    return parts


def _out_of_fold(data: Data, folds: int, l2: float) -> bytes:
    """What each row's fold says of it, as an ``.npz``."""
    places: list[np.ndarray] = []
    said: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for train_rows, held_out in _parts(data, folds):
        (one,) = optimum(train_rows, len(data.classes), [l2])
        logits = [x.numpy().reshape(len(x), -1) @ one.kernel + one.bias for x, *_ in held_out.dataset()]
        said.append(softmax(np.concatenate(logits)).astype(np.float32))
        labels.append(held_out.y)
        places.append(np.asarray(held_out.index))
    order, content = np.argsort(np.concatenate(places)), io.BytesIO()
    arrays = {"probabilities": said, "labels": labels, "rows": places}
    made: dict[str, Any] = {name: np.concatenate(parts)[order] for name, parts in arrays.items()}
    np.savez(content, **made)
    return content.getvalue()


def _sweep(data: Data, folds: int | None, l2: list[float], progress: bool) -> list[dict[str, Any]]:
    """Solve all penalties; one row each: of folds means by rows, the largest gap and the sum of the passes."""
    begin = said = time.perf_counter()

    def on_pass(now: Progress) -> None:
        nonlocal said
        if progress and time.perf_counter() - said > _EVERY:
            said = time.perf_counter()
            left = sum(one <= now.l2 for one in l2)
            print(f"{left} penalties left of {len(l2)}, {said - begin:.0f} s", file=sys.stderr, flush=True)

    solved, figures, counts = [], [], []
    for train_rows, val_rows in _parts(data, folds):
        found = optimum(train_rows, len(data.classes), l2, tol=TOL, passes=PASSES, on_pass=on_pass)
        solved.append(found)
        counts.append((len(train_rows), len(val_rows)))
        figures.append((figures_of(train_rows, found), figures_of(val_rows, found)))
    rows = []
    for k, value in enumerate(l2):
        row: dict[str, Any] = {"l2": value}
        for s, split in enumerate(("train", "val")):
            for name in ("loss", "accuracy"):
                means = [of_fold[s][name][k] for of_fold in figures]
                row[f"{split}_{name}"] = float(np.average(means, weights=[count[s] for count in counts]))
        of_folds = [found[k] for found in solved]
        row["gap"] = max(math.nan if one.gap is None else one.gap for one in of_folds)
        row |= {"passes": sum(one.passes for one in of_folds), "converged": all(one.converged for one in of_folds)}
        rows.append(row)
    return rows


class _Always(TypedDict):
    data: str | None
    fingerprint: str
    grid: str
    objective: str
    folds: int | None
    settings: dict[str, Any]


class _Asked(_Always, total=False):
    """``probe.json``: what was requested."""

    few_shot: list[int]
    seeds: int


def _read(path: Path) -> dict[str, Any]:
    asked: dict[str, Any] = typed(f"probe {str(path)!r}", read_json(path, "probe"), _Asked)
    return asked


PROBE_FOLDER = Kind("probe folder", "probe.json", _read, (*FILES, *few.FILES))


def _same(folder: Path, asked: dict[str, Any], there: dict[str, Any]) -> None:
    """Raise InputError unless the probe in the folder is the requested one, and unfinished."""
    wanted = json.loads(json.dumps(asked))
    if others := [name for name in {**wanted, **there} if there.get(name) != wanted.get(name)]:
        raise InputError(
            f"{str(folder)!r} holds another probe, with other {', '.join(others)}; choose another --out, or pass "
            "--overwrite"
        )
    if has_finished(folder / "run"):
        raise InputError(f"probe folder {str(folder)!r} exists; choose another --out, or pass --overwrite")


def _read_table(path: Path) -> list[dict[str, Any]]:
    with open(path, newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    whole: dict[str, Callable[[str], Any]] = {"passes": int, "converged": lambda text: text == "True"}
    return [{name: whole.get(name, float)(text) for name, text in row.items()} for row in read]
