"""The verb probe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tfsoftmax.console import tensorflow
from tfsoftmax.errors import InputError
from tfsoftmax.verbs import ClassWeight, Json, Missing, Test, Val, file_name, reads_data, rows
from tfsoftmax.verbs import class_weight as weights_of


@reads_data
def probe(
    options: dict[str, Any],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Data set; `tfsoftmax datasets` lists them.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write.", show_default="probe/DATA")] = None,
    preset: Annotated[
        str, typer.Option(help="The penalties: default (45 from 1e-6 to 100), clip or dinov2.")
    ] = "default",
    objective: Annotated[str, typer.Option(help="val_accuracy or val_loss.")] = "val_accuracy",
    folds: Annotated[
        int | None, typer.Option(help="Choose by so many folds instead of validation rows; keeps what they predict.")
    ] = None,
    few_shot: Annotated[
        str | None, typer.Option(metavar="K,K,…", help="Also probes of so many training rows per class: 1,2,4,8,16.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many times the rows of --few-shot are drawn.")] = 5,
    preprocess: Annotated[str, typer.Option(help="unit, center or standardize.")] = "standardize",
    seed: Annotated[int, typer.Option(help="Of the split, and of the rows of --few-shot.")] = 0,
    missing: Missing = None,
    class_weight: ClassWeight = None,
    test: Test = None,
    val: Val = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a probe that is there.")] = False,
    as_json: Json = False,
) -> None:
    """The linear probe: each penalty at its optimum, one chosen on validation rows, refitted on both, tested once."""
    out = Path("probe", file_name(data)) if out is None else out
    with tensorflow():
        from tfsoftmax import Data, sources
        from tfsoftmax.runs.evaluation import proof, summary
        from tuning import few
        from tuning.probe import probe as run_probe
    settings = {"val": rows("--val", val), "test": rows("--test", test), "class_weight": weights_of(class_weight)}
    if folds is not None and val is None:
        settings["val"] = 0
    settings |= {} if missing is None else {"missing": missing}
    read = Data(sources.read(data, **options), **settings, preprocess=preprocess, seed=seed)
    found = run_probe(
        read,
        out,
        grid=preset,
        objective=objective,
        folds=folds,
        few_shot=_counts(few_shot),
        seeds=seeds,
        overwrite=overwrite,
        progress=True,
    )
    metrics = found.run.metrics
    if as_json:
        also = {"few_shot": found.few_shot} if found.few_shot else {}
        printed = {"folder": str(found.folder), "best": found.best, "penalties": found.rows, **also, **metrics}
        print(json.dumps(printed))
        return
    names = ["l2", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "gap", "passes"]
    print("  ".join(f"{name:>14}" for name in names))
    for row in found.rows:
        marks = ("  <- chosen" if row == found.best else "") + ("" if row["converged"] else "  not converged")
        print("  ".join(f"{row[name]:>14.4g}" for name in names) + marks)
    if found.best["l2"] in (found.rows[0]["l2"], found.rows[-1]["l2"]):
        print("\nthe chosen penalty is at the edge of those tried")
    if found.few_shot:
        print("", *few.lines(found.few_shot), sep="\n")
    print(
        f"\nrefitted on training and validation rows: {proof(metrics['optimum'])}\ntest  {summary(metrics['test'])}\n\n"
        f"{found.folder}: penalties.csv, penalties.png{', few_shot.json, few_shot.png' if found.few_shot else ''}; "
        f"the run is in {found.run.folder}"
    )


def _counts(text: str | None) -> list[int]:
    try:
        return [] if text is None else [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--few-shot must be numbers of rows per class such as 1,2,4,8,16, got {text!r}") from error
