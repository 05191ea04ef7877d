"""The verb tune."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tfsoftmax.console import tensorflow
from tfsoftmax.spec import SOLVER, RunConfig
from tfsoftmax.verbs import DEMO, ClassWeight, Json, Missing, Test, Val, file_name, reads_data, rows
from tfsoftmax.verbs import class_weight as weights_of

_FIGURES = ("val_loss", "val_accuracy")


@reads_data
def tune(
    options: dict[str, Any],
    out: Annotated[Path | None, typer.Option(help="Tune folder to write.", show_default="tune/DATA")] = None,
    data: Annotated[str, typer.Option(help="Data set; `tfsoftmax datasets` lists them.")] = DEMO,
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUES",
            help="What to tune, once for each: lr=0.01:1 is a range, momentum=0,0.9 are values.",
            show_default="lr around the curvature bound",
        ),
    ] = None,
    tuner: Annotated[str, typer.Option(help="sweep, grid, random, bayesian or hyperband.")] = "sweep",
    trials: Annotated[
        int, typer.Option(help="Learning rates, or penalties of lbfgs, of the first round (sweep), or trials.")
    ] = 16,
    optimizer: Annotated[
        str, typer.Option(help="As of train; lbfgs solves for the penalties --space l2=LOW:HIGH, each with a proof.")
    ] = "sgd",
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training rows of each trial.", show_default="50")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows a step.")] = 256,
    schedule: Annotated[
        str | None, typer.Option(help="Learning rate: constant or cosine.", show_default="cosine")
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(help="unit, center or standardize.", show_default="center for pictures, else standardize"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split, of the order of the rows, and of the search.")] = 0,
    missing: Missing = None,
    class_weight: ClassWeight = None,
    test: Test = None,
    val: Val = None,
    objective: Annotated[str, typer.Option(help="val_loss or val_accuracy.")] = "val_loss",
    minutes: Annotated[float | None, typer.Option(help="Time budget.", show_default="none")] = None,
    lanes: Annotated[int | None, typer.Option(help="Most trials in one fit.", show_default="16, or what fits")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a search that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Find good settings: many learning rates trained as one model. The test split is not looked at."""
    out = Path("tune", file_name(data)) if out is None else out
    with tensorflow():
        import tuning
        from tfsoftmax import Data, sources
        from tuning.space import parse_space
    split = {"val": rows("--val", val), "test": rows("--test", test), "class_weight": weights_of(class_weight)}
    split |= {} if missing is None else {"missing": missing}
    solved = optimizer == SOLVER
    given = {"epochs": epochs, "schedule": schedule}
    defaults: dict[str, Any] = {} if solved else {"epochs": 50, "schedule": "cosine"}
    settings = {**defaults, **{name: value for name, value in given.items() if value is not None}}
    config = RunConfig(optimizer=optimizer, **settings, **split)
    wanted = parse_space(space) if space else None
    source = sources.read(data, **options)
    if preprocess is None and source.x_train.dtype == "uint8":
        preprocess = "center"
    read = Data(source, **split, batch_size=batch_size, seed=seed, preprocess=preprocess)
    found = tuning.search(
        read,
        out,
        config=config,
        space=wanted,
        tuner=tuner,
        trials=trials,
        objective=objective,
        lanes=lanes,
        minutes=minutes,
        overwrite=overwrite,
        progress=True,
    )
    ended = [row for row in found.trials if row["status"] == "completed"]
    sign = -1 if objective == "val_accuracy" else 1
    ended.sort(key=lambda row: (sign * row[objective], row["val_loss"] if solved else 0))
    bound = found.curvature
    if as_json:
        best = {
            "config": dataclasses.asdict(found.best),
            **{name: ended[0][name] for name in _FIGURES},
        }
        curvature = bound and {"largest": bound.largest, "bound": bound.bound, "at_zero_weights": bound.start}
        print(json.dumps({"folder": str(found.folder), "best": best, "curvature": curvature, "trials": found.trials}))
        return
    if bound is not None:
        print(f"curvature bound 1/L: learning rate {bound.bound:.4g} (at zero weights {bound.start:.4g})")
    print(f"{len(ended)} trials of {len(found.trials)} came to an end; the best by {objective}:\n")
    swept = "l2" if solved else "lr"
    shown = [*_FIGURES, "gap", "passes", "converged"] if solved else ["best_epoch", *_FIGURES]
    names = ["trial", *(wanted or [swept]), *shown]
    cells = [names] + [
        [f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in names] for row in ended[:5]
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
    tried = [row[swept] for row in found.trials if row.get(swept) is not None]
    if len(tried) > 1 and getattr(found.best, swept) in (min(tried), max(tried)):
        what = "penalty" if solved else "learning rate"
        print(f"\nthe best {what} is at the edge of those tried: a wider range, --space {swept}=…:…, may find better")
    print(
        f"\n{found.folder}: best.json, trials.csv, {'penalties' if solved else 'learning_curves'}.png\n"
        f"to train it on all training rows: tfsoftmax train --config {found.folder / 'best.json'} --refit"
    )
