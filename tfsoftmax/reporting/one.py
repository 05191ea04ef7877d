"""The report of one run: what it learned, how sure it is, where it fails."""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tfsoftmax import findings
from tfsoftmax.data import Data
from tfsoftmax.encoding import as_text, decoded
from tfsoftmax.inspection import Inspection
from tfsoftmax.reporting import answers, figures, pixels, weights
from tfsoftmax.reporting.answers import Answers
from tfsoftmax.reporting.files import Files
from tfsoftmax.reporting.labels import section as wrong_labels
from tfsoftmax.rows import Rows
from tfsoftmax.runs.evaluation import proof
from tfsoftmax.runs.folder import best_epoch, history
from tfsoftmax.runs.run import Run, logits

WANTED = (0.9, 0.95, 0.99)  # accuracies for which a threshold is looked for
_MATRIX = 30  # classes up to which the page has the confusion matrix
_SHOWN = 100  # classes, features or slices that a table has
_TEMPLATES = 30  # classes with a template
_NUMBERS = 200_000  # in a CSV file of weights
_COLUMNS = 8  # of a row that explain a mistake


def report(
    run: Run, to: str | os.PathLike[str] | None = None, *, data: Data | None = None, labels: bool = False
) -> Path:
    """Write the report of a run: one page, and a folder of its name with each figure as PNG and its numbers as CSV.

    The test rows are read once, in parts.

    Args:
        run: a finished run.
        to: the ``.html`` file; ``None``: ``report.html`` in the run folder.
        data: ``None``: of :meth:`tfsoftmax.Run.data`.
        labels: also which labels of its training rows are probably wrong, which takes the time of one training, or of
            five where its settings allow no lanes.

    Returns:
        The path of the page.

    Raises:
        InputError: the data have no name, cannot be read or have changed; ``to`` is no such file, or not a report.
    """
    figures.prepare()
    is_own = data is None or data.fingerprint == run.config.fingerprint
    data = run.data() if data is None else data
    rows = run.rows(data)
    files = Files(run.folder / "report.html" if to is None else Path(to))
    kernel = run.weights[0]
    ask = functools.partial(answers.read, classes=run.spec.classes)
    found = ask(logits(run.weights, rows), rows.y, weights=rows.weight, temperature=run.temperature)
    val = None
    if run.temperature is not None and is_own:
        own = run.rows(data, "val")
        val = ask(logits(run.weights, own), own.y, weights=own.weight)
    return files.page(
        "run.html",
        name=run.spec.name,
        run=run,
        spec=run.spec,
        figures=found.figures,
        splits={"test": found.figures} if val is None else {"validation": val.figures, "test": found.figures},
        baseline=_baseline(found.figures),
        training=_training(run, files),
        classes=_classes(found.figures, files),
        matrix=_matrix(found.figures, files),
        learned=_learned(run, kernel, files),
        sure=_sure(found.figures, files),
        refusing=_refusing(found, val, files),
        mistakes=_mistakes(run, rows, kernel, found, files),
        slices=_slices(run, rows, found, files),
        labels=wrong_labels(run, data, files) if labels else None,
        sheet=_sheet(data.inspection),
        settings=_settings(run),
        versions=_versions(),
        commands=_commands(run),
    )


def _baseline(figures: dict[str, Any]) -> dict[str, Any]:
    """The most frequent class of the test rows, and the accuracy of always naming it."""
    most = max(figures["classes"], key=lambda row: row["count"])
    return {"class": most["name"], "accuracy": most["count"] / figures["rows"]}


def _training(run: Run, files: Files) -> dict[str, Any]:
    past = history(run.folder)
    made: dict[str, Any] = {"figures": [], "best": best_epoch(past), "optimum": None, "epochs": run.metrics["epochs"]}
    if optimum := run.metrics.get("optimum"):
        made["optimum"] = proof(optimum)
        plots = {"objective": {"objective": "objective"}, "gap": {"gap": "duality gap"}}
    else:
        plots = {
            "loss": {"loss": "training", "val_loss": "validation"},
            "accuracy": {"accuracy": "training", "val_accuracy": "validation"},
        }
    x = "pass" if optimum else "epoch"
    for name, columns in plots.items():
        lines = {
            text: (past["epoch"], past[column])
            for column, text in columns.items()
            if np.isfinite(past.get(column, [])).any()
        }
        if not lines:
            continue
        label = f"{name} per {x}: " + "; ".join(
            f"{text} from {values[0]:.4g} to {values[-1]:.4g}" for text, (_, values) in lines.items()
        )
        draw = figures.curves(lines, x, name, made["best"], log=name == "gap")
        numbers = [dict(zip(past, values, strict=True)) for values in zip(*past.values(), strict=True)]
        made["figures"].append((name, files.figure(name, label, draw, numbers)))
    return made


def _classes(figures: dict[str, Any], files: Files) -> list[dict[str, Any]]:
    """Figures of each class; with the class that it is most often called instead, where all mistakes are known."""
    rows, matrix = [], figures["confusion"]
    for k, row in enumerate(figures["classes"]):
        precision, recall = row["precision"], row["recall"]
        f1 = 2 * precision * recall / (precision + recall) if precision and recall else None
        rows.append({**row, "f1": f1})
        if matrix is not None:
            times, other = max((count, -i) for i, count in enumerate(matrix[k]) if i != k)
            rows[-1] |= {"called": figures["classes"][-other]["name"] if times else None, "times": times}
    files.numbers("classes", rows)
    return rows


def _matrix(figures_: dict[str, Any], files: Files) -> list[list[tuple[int, float]]] | None:
    """The confusion matrix, each count with its share of the true class."""
    matrix, names = figures_["confusion"], [row["name"] for row in figures_["classes"]]
    if matrix is None or len(names) > _MATRIX:
        files.numbers("confusion", figures_["mistakes"] or [{"true": None, "predicted": None, "rows": 0}])
        return None
    size = 2.4 + 0.42 * len(names), 1.2 + 0.32 * len(names)
    files.picture("confusion", figures.png(figures.confusion(matrix, names), size))
    files.numbers(
        "confusion",
        [
            {"true": name, **{f"called {k} {names[k]}": count for k, count in enumerate(row)}}
            for name, row in zip(names, matrix, strict=True)
        ],
    )
    return [[(count, round(count / (sum(row) or 1), 3)) for count in row] for row in matrix]


def _learned(run: Run, kernel: np.ndarray, files: Files) -> dict[str, Any]:
    """Templates of pictures, weights of a table, norms and likeness of all else."""
    spec = run.spec
    if spec.columns:
        rows = weights.by_feature(spec, kernel)
        most = max(1, _NUMBERS // len(spec.classes))
        named = [f"{k} {name}" for k, name in enumerate(spec.classes)]
        files.numbers(
            "weights",
            [{"feature": row["feature"], **dict(zip(named, row["weights"], strict=True))} for row in rows[:most]],
        )
        return {"kind": "table", "rows": rows[:_SHOWN], "all": len(rows), "largest": rows[0]["spread"] or 1.0}
    if weights.is_picture(spec):
        shown = weights.templates(spec, kernel)[:_TEMPLATES]
        largest = float(np.abs(shown).max())
        drawn = [pixels.diverging(one, largest) for one in shown]
        files.picture("templates", pixels.png(pixels.sheet(drawn, 10), None))
        numbers = [{"class": spec.classes[k], **{f"element {i}": value for i, value in enumerate(one.ravel())}}
                   for k, one in enumerate(shown[: max(1, _NUMBERS // shown[0].size)])]  # fmt: skip
        files.numbers("templates", numbers)
        images = [(name, pixels.uri(pixels.png(one))) for name, one in zip(spec.classes, drawn, strict=False)]
        return {"kind": "pictures", "images": images, "largest": largest, "all": len(spec.classes)}
    rows = weights.alike(spec.classes, kernel)
    files.numbers("alike", rows)
    rows.sort(key=lambda row: -row["cosine"])
    return {"kind": "vectors", "rows": rows[:_SHOWN], "all": len(rows)}


def _sure(figures_: dict[str, Any], files: Files) -> dict[str, Any]:
    bins = {"as trained": figures_["reliability"]}
    calibrated = figures_.get("calibrated")
    if calibrated:
        bins[f"at temperature {calibrated['temperature']:.3g}"] = calibrated["reliability"]
    label = f"Reliability: the expected calibration error is {figures_['calibration_error']:.4f}"
    if calibrated:
        label += f", and {calibrated['calibration_error']:.4f} at temperature {calibrated['temperature']:.3g}"
    numbers = [{"probabilities": name, **row} for name, rows in bins.items() for row in rows]
    return {
        "figure": files.figure("reliability", label, figures.reliability(bins), numbers),
        "rows": [("as trained", figures_), *([(list(bins)[1], calibrated)] if calibrated else [])],
    }


def _refusing(found: Answers, val: Answers | None, files: Files) -> dict[str, Any]:
    """Accuracy against coverage, and thresholds: chosen on validation rows where there are any, tried on test rows."""
    curve = answers.coverage(found)
    lines = {"test rows": ([row["coverage"] for row in curve], [row["accuracy"] for row in curve])}
    half = min(curve, key=lambda row: abs(row["coverage"] - 0.5))
    label = (
        f"Accuracy by the share of rows that are answered, the surest first: {half['accuracy']:.3f} on "
        f"{half['coverage']:.2f} of them, {curve[-1]['accuracy']:.3f} on all"
    )
    figure = files.figure("coverage", label, figures.curves(lines, "share of rows answered", "accuracy"), curve)
    chosen = found if val is None else val
    rows = []
    for wanted in WANTED:
        least = answers.threshold(chosen, wanted)
        rows.append({"wanted": wanted, **({"threshold": None} if least is None else answers.above(found, least))})
    return {"figure": figure, "rows": rows, "chosen_on": "test" if val is None else "validation"}


def _mistakes(run: Run, rows: Rows, kernel: np.ndarray, found: Answers, files: Files) -> list[dict[str, Any]]:
    """The wrong rows that the model is surest of, with what speaks for its answer and against the label."""
    if not found.mistakes:
        return []
    spec, raw = run.spec, rows.take(np.array([mistake.row for mistake in found.mistakes]))
    picture, shown = weights.is_picture(spec), []
    terms = [
        weights.evidence(spec, kernel, one, m.predicted, m.true) for one, m in zip(raw, found.mistakes, strict=True)
    ]
    values = decoded(spec, raw) if spec.columns else []
    for k, (one, mistake, term) in enumerate(zip(raw, found.mistakes, terms, strict=True)):
        row: dict[str, Any] = {
            **mistake._asdict(),
            "true": spec.classes[mistake.true],
            "predicted": spec.classes[mistake.predicted],
            "images": None,
            "columns": None,
        }
        if picture:
            flat = term.sum(axis=2) if term.ndim == 3 else term
            drawn = pixels.grey(one), pixels.diverging(flat, float(np.abs(flat).max()))
            row["images"] = [pixels.uri(pixels.png(image)) for image in drawn]
            row["sheet"] = drawn
        elif spec.columns:
            most = np.argsort(-np.abs(term), kind="stable")[:_COLUMNS]
            row["columns"] = [
                (spec.columns[i].name, as_text(values[k][spec.columns[i].name]), float(term[i])) for i in most
            ]
        shown.append(row)
    if picture:
        files.picture("mistakes", pixels.png(pixels.sheet([one for row in shown for one in row.pop("sheet")], 8), None))
    files.numbers("mistakes", [mistake._asdict() for mistake in found.mistakes])
    return shown


def _slices(run: Run, rows: Rows, found: Answers, files: Files) -> list[dict[str, Any]]:
    """Slices of a table, those first whose accuracy is surely lowest."""
    if not run.spec.columns:
        return []
    made = answers.slices(run.spec.columns, rows.x, found.right)
    made.sort(key=lambda row: row["accuracy_95"][1])
    files.numbers("slices", made)
    overall = found.figures["accuracy"]
    return [
        {
            **row,
            "apart": "lower"
            if row["accuracy_95"][1] < overall
            else "higher"
            if row["accuracy_95"][0] > overall
            else "",
        }
        for row in made[:_SHOWN]
    ]


def _sheet(found: Inspection) -> dict[str, Any]:
    columns = [
        {
            "name": column["name"],
            "kind": f"{column['kind']} {column['dtype']}",
            "missing": findings.missing(column),
            "distinct": column["distinct"],
            "values": findings.of_column(column),
        }
        for column in found.columns[:_SHOWN]
    ]
    return {
        "headline": findings.headline(found),
        "warnings": findings.warnings(found),
        "columns": columns,
        "all": len(found.columns),
        "left_out": found.left_out,
        "lines": [findings.repeats(found, split) for split in found.duplicates],
    }


def _settings(run: Run) -> list[tuple[str, str]]:
    return [
        (name, "-" if value is None else str(value))
        for name, value in dataclasses.asdict(run.config).items()
        if name != "fingerprint"
    ]


def _versions() -> list[tuple[str, str]]:
    packages = "TensorFlow", "Keras", "NumPy"
    return [("Python", platform.python_version()), *((name, version(name.lower())) for name in packages)]


def _commands(run: Run) -> Sequence[str]:
    """The lines that make it again; a run of rows that were made in Python has none for its data."""
    folder = shlex.quote(str(run.folder))
    made = [f"tfsoftmax evaluate {folder}", f"tfsoftmax report {folder}"]
    if run.config.data is not None:
        config = shlex.quote(str(run.folder / "config.json"))
        made.insert(0, f"tfsoftmax train --config {config} --out {shlex.quote(str(run.folder) + '-again')}")
    return made
