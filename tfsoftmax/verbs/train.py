"""The verb train."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tfsoftmax.console import tensorflow
from tfsoftmax.errors import InputError
from tfsoftmax.spec import OPTIONS, RunConfig
from tfsoftmax.verbs import DEMO, ClassWeight, Json, Missing, Test, Val, file_name, reads_data, rows
from tfsoftmax.verbs import class_weight as weights_of

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(RunConfig)}


def _setting(name: str, text: str) -> Any:
    """A train option: None where absent; then the --config file or RunConfig's default, shown in the help, counts."""
    default = _DEFAULTS[name]
    return typer.Option(help=text, show_default=str(default) if default is not None else False)


def _from_cache(settings: RunConfig, cache: Path) -> RunConfig:
    """``settings`` on row files in ``cache``, where their data need them."""
    from rich.console import Console
    from rich.progress import Progress

    from tfsoftmax.cache import prepared

    screen = Console(stderr=True)
    with Progress(console=screen, disable=not screen.is_terminal) as bar:
        task = bar.add_task("rows", visible=False)

        def progress(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of, visible=True)

        return prepared(settings, cache, lambda line: print(line, file=sys.stderr), progress)


@reads_data
def train(
    options: dict[str, Any],
    out: Annotated[Path | None, typer.Option(help="Run folder to write.", show_default="runs/DATA")] = None,
    data: Annotated[
        str | None, typer.Option(help="Data set; `tfsoftmax datasets` lists them.", show_default=DEMO)
    ] = None,
    epochs: Annotated[int | None, _setting("epochs", "Passes over the training rows.")] = None,
    batch_size: Annotated[int | None, _setting("batch_size", "Rows a step.")] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate.", show_default="0.1 for fashion_mnist, else the curvature bound"),
    ] = None,
    seed: Annotated[int | None, _setting("seed", "Of the split and of the order of the rows.")] = None,
    missing: Missing = None,
    class_weight: ClassWeight = None,
    test: Test = None,
    val: Val = None,
    optimizer: Annotated[
        str | None, _setting("optimizer", "sgd, adam, adamw, lion or rmsprop; lbfgs goes to the optimum and proves it.")
    ] = None,
    momentum: Annotated[float | None, _setting("momentum", "Of sgd.")] = None,
    l2: Annotated[float | None, _setting("l2", "Factor of the squared weights in the loss.")] = None,
    c: Annotated[
        float | None,
        typer.Option("--C", help="The penalty as scikit-learn has it, instead of --l2.", show_default=False),
    ] = None,
    passes: Annotated[int | None, _setting("passes", "Of lbfgs: most passes over the training rows.")] = None,
    tol: Annotated[float | None, _setting("tol", "Of lbfgs: the duality gap wanted, in nats.")] = None,
    label_smoothing: Annotated[
        float | None, _setting("label_smoothing", "Share of the probability that the loss gives to all classes.")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Learning rate: constant or cosine.", show_default="cosine without --lr, from 100 batches on"
        ),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(help="unit, center or standardize.", show_default="unit for pictures, else standardize"),
    ] = None,
    patience: Annotated[
        int | None, _setting("patience", "Stop after so many epochs without a better validation loss, keep the best.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file of settings, as a run folder's config.json.")] = None,
    refit: Annotated[bool | None, typer.Option("--refit", help="Train on the validation rows too.")] = None,
    tensorboard: Annotated[
        bool | None, typer.Option("--tensorboard", help="Write event files too: scalars, templates, settings.")
    ] = None,
    precision: Annotated[str | None, _setting("precision", "Of the products in training: float32 or bfloat16.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for row files of data that need them (larger than memory, or sorted by class)."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
    strategy: Annotated[str, typer.Option(help="auto, cpu, gpu, mirrored, multiworker or tpu.")] = "auto",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for other workers.", min=1, max=86_400)] = 300,
    as_json: Json = False,
) -> None:
    """Train a model and write its run folder, with a report. On an unfinished one the same command goes on."""
    given = {name: value for name, value in (locals() | options).items() if name in _DEFAULTS and value is not None}
    if c is not None and l2 is not None:
        raise InputError("--C and --l2 say the same: give one of the two")
    if class_weight is not None:
        given["class_weight"] = weights_of(class_weight)
    given |= {name: rows(f"--{name}", given[name]) for name in ("val", "test") if name in given}
    if config is not None and config.is_dir():
        raise InputError(
            f"--config must be a JSON file, got the folder {str(config)!r}; a run's settings are in its "
            "config.json, a search's best ones in its best.json"
        )
    if config is None:
        settings = RunConfig(**{"data": DEMO, **given})
    else:
        settings = RunConfig.load(config, "configuration")
        fresh: dict[str, Any] = {"fingerprint": None} if "data" in given else {}  # those named here are as they are
        if given.get("data", settings.data) != settings.data:
            fresh |= dict.fromkeys(OPTIONS)
        settings = dataclasses.replace(settings, **{**fresh, **given})
    out = Path("runs", file_name(settings.data or "data")) if out is None else out
    with tensorflow():
        from tfsoftmax.fitting.solver import penalty
        from tfsoftmax.reporting.files import is_report
        from tfsoftmax.runs import training
        from tfsoftmax.runs.evaluation import proof, summary
        from tfsoftmax.runs.run import reopened
        from tfsoftmax.strategy import again, opened
    with again(timeout, once="--overwrite") as left:
        scope = opened(strategy, left)
        way_out = (
            "name the data to train on as they are now by --data, or pass them in Python: tfsoftmax.train(data, …)"
        )
        if cache is not None:
            settings = _from_cache(settings, cache)
        settings = training.as_begun(settings, out)
        found = reopened(settings, f"the configuration {str(config)!r}", way_out)
        if c is not None:
            settings = dataclasses.replace(settings, l2=penalty(c, len(found.rows.train), len(found.classes)))
        run = training.train(found, settings, out, overwrite=overwrite, progress=True, strategy=scope)
    if run is None:
        return  # the chief tells
    if as_json:
        print(json.dumps({"run": str(run.folder), **run.metrics}))
        return
    if "optimum" in run.metrics:
        print(f"solved in {run.metrics['seconds']:.1f} s: {run.folder}\n{proof(run.metrics['optimum'])}")
    else:
        print(f"trained {run.metrics['epochs']} epochs in {run.metrics['seconds']:.1f} s: {run.folder}")
    for split in ("val", "test"):
        if run.metrics[split]:
            print(f"{split:<5} {summary(run.metrics[split])}")
    if is_report(page := run.folder / "report.html"):
        print(f"report: {page}")
