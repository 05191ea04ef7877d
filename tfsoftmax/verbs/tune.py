"""The verb tune."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tfsoftmax.console import tensorflow
from tfsoftmax.spec import RunConfig
from tfsoftmax.verbs import DEMO, ClassWeight, Json, Missing, Test, Val, file_name, reads_data, rows
from tfsoftmax.verbs import class_weight as weights_of


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
    trials: Annotated[int, typer.Option(help="Learning rates of the first round (sweep), or trials.")] = 16,
    epochs: Annotated[int, typer.Option(help="Passes over the training rows of each trial.")] = 50,
    batch_size: Annotated[int, typer.Option(help="Rows a step.")] = 256,
    schedule: Annotated[str, typer.Option(help="Learning rate: constant or cosine.")] = "cosine",
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
    config = RunConfig(epochs=epochs, schedule=schedule, **split)
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
    ended.sort(key=lambda row: sign * row[objective])
    bound = found.curvature
    if as_json:
        best = {
            "config": dataclasses.asdict(found.best),
            **{name: ended[0][name] for name in ("val_loss", "val_accuracy")},
        }
        curvature = {"largest": bound.largest, "bound": bound.bound, "at_zero_weights": bound.start}
        print(json.dumps({"folder": str(found.folder), "best": best, "curvature": curvature, "trials": found.trials}))
        return
    print(
        f"curvature bound 1/L: learning rate {bound.bound:.4g} (at zero weights {bound.start:.4g})\n"
        f"{len(ended)} trials of {len(found.trials)} came to an end; the best by {objective}:\n"
    )
    names = ["trial", *(wanted or ["lr"]), "best_epoch", "val_loss", "val_accuracy"]
    cells = [names] + [
        [f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in names] for row in ended[:5]
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
    tried = [row["lr"] for row in found.trials if row.get("lr") is not None]
    if len(tried) > 1 and found.best.lr in (min(tried), max(tried)):
        print("\nthe best learning rate is at the edge of those tried: a wider range, --space lr=…:…, may find better")
    print(
        f"\n{found.folder}: best.json, trials.csv, learning_curves.png\n"
        f"to train it on all training rows: tfsoftmax train --config {found.folder / 'best.json'} --refit"
    )
