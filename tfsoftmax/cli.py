"""The command line: one function a verb. Results go to standard output, progress and errors to standard error."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tfsoftmax import __version__, console
from tfsoftmax._checks import one_of
from tfsoftmax._quiet import quiet
from tfsoftmax.console import tensorflow
from tfsoftmax.errors import InputError
from tfsoftmax.spec import RunConfig

app = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]}, rich_markup_mode=None)

DEMO = "fashion_mnist"  # the data where neither --data nor --config names any
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(RunConfig)}


def _setting(name: str, text: str) -> Any:
    """A train option: None where absent; then the --config file or RunConfig's default, shown in the help, counts."""
    default = _DEFAULTS[name]
    return typer.Option(help=text, show_default=str(default) if default is not None else False)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that train wrote.")]


def _example(command: str) -> str:
    return f"Example: tfsoftmax {command}"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tfsoftmax {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Softmax regression, from a labelled data set to a model that answers requests."""


@app.command(epilog=_example("train --out runs/book --epochs 10 --batch-size 256 --lr 0.1"))
def train(
    out: Annotated[Path | None, typer.Option(help="Run folder to write.", show_default="runs/DATA")] = None,
    data: Annotated[
        str | None, typer.Option(help="Data set; `tfsoftmax datasets` lists them.", show_default=DEMO)
    ] = None,
    epochs: Annotated[int | None, _setting("epochs", "Passes over the training rows.")] = None,
    batch_size: Annotated[int | None, _setting("batch_size", "Rows a step.")] = None,
    lr: Annotated[float | None, _setting("lr", "Learning rate.")] = None,
    seed: Annotated[int | None, _setting("seed", "Of the split and of the order of the rows.")] = None,
    val: Annotated[
        str | None,
        typer.Option(help="Validation rows cut from the training split, or `test`.", show_default="one sixth"),
    ] = None,
    optimizer: Annotated[str | None, _setting("optimizer", "sgd, adam, adamw, lion or rmsprop.")] = None,
    momentum: Annotated[float | None, _setting("momentum", "Of sgd.")] = None,
    l2: Annotated[float | None, _setting("l2", "Factor of the squared weights in the loss.")] = None,
    label_smoothing: Annotated[
        float | None, _setting("label_smoothing", "Share of the probability that the loss gives to all classes.")
    ] = None,
    schedule: Annotated[str | None, _setting("schedule", "Learning rate: constant or cosine.")] = None,
    preprocess: Annotated[str | None, _setting("preprocess", "unit, center or standardize.")] = None,
    patience: Annotated[
        int | None, _setting("patience", "Stop after so many epochs without a better validation loss, keep the best.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file of settings, as a run folder's config.json.")] = None,
    refit: Annotated[bool | None, typer.Option("--refit", help="Train on the validation rows too.")] = None,
    tensorboard: Annotated[bool | None, typer.Option("--tensorboard", help="Write event files too.")] = None,
    precision: Annotated[str | None, _setting("precision", "Of the products in training: float32 or bfloat16.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
    strategy: Annotated[str, typer.Option(help="auto, cpu, gpu, mirrored, multiworker or tpu.")] = "auto",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for other workers.", min=1, max=86_400)] = 300,
    as_json: Json = False,
) -> None:
    """Train a model and write its run folder. On an unfinished one the same command goes on."""
    given = {name: value for name, value in locals().items() if name in _DEFAULTS and value is not None}
    if "val" in given and given["val"] != "test":
        try:
            given["val"] = int(given["val"])
        except ValueError as error:
            raise InputError(f"--val must be a number of rows or 'test', got {val!r}") from error
    if config is not None and config.is_dir():
        raise InputError(
            f"--config must be a JSON file, got the folder {str(config)!r}; a run's settings are in its "
            "config.json, a search's best ones in its best.json"
        )
    if config is None:
        settings = RunConfig(**{"data": DEMO, **given})
    else:
        fresh = {"fingerprint": None} if "data" in given else {}  # the data named here are meant as they are
        settings = dataclasses.replace(RunConfig.load(config, "configuration"), **fresh, **given)
    out = Path("runs", _file_name(settings.data or "data")) if out is None else out
    with tensorflow():
        from tfsoftmax.runs import training
        from tfsoftmax.runs.evaluation import summary
        from tfsoftmax.runs.run import reopened
        from tfsoftmax.strategy import again, opened
    with again(timeout, once="--overwrite") as left:
        scope = opened(strategy, left)
        way_out = (
            "name the data to train on as they are now by --data, or pass them in Python: tfsoftmax.train(data, …)"
        )
        rows = reopened(settings, f"the configuration {str(config)!r}", way_out)
        run = training.train(rows, settings, out, overwrite=overwrite, progress=True, strategy=scope)
    if run is None:
        return  # the chief tells
    if as_json:
        print(json.dumps({"run": str(run.folder), **run.metrics}))
        return
    print(f"trained {run.metrics['epochs']} epochs in {run.metrics['seconds']:.1f} s: {run.folder}")
    for split in ("val", "test"):
        if run.metrics[split]:
            print(f"{split:<5} {summary(run.metrics[split])}")


@app.command(epilog=_example("tune --out tune/book --trials 16 --space momentum=0,0.9"))
def tune(
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
    preprocess: Annotated[str, typer.Option(help="unit, center or standardize.")] = "center",
    seed: Annotated[int, typer.Option(help="Of the split, of the order of the rows, and of the search.")] = 0,
    val: Annotated[int | None, typer.Option(help="Validation rows.", show_default="one sixth")] = None,
    objective: Annotated[str, typer.Option(help="val_loss or val_accuracy.")] = "val_loss",
    minutes: Annotated[float | None, typer.Option(help="Time budget.", show_default="none")] = None,
    lanes: Annotated[int | None, typer.Option(help="Most trials in one fit.", show_default="16, or what fits")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a search that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Find good settings: many learning rates trained as one model. The test split is not looked at."""
    out = Path("tune", _file_name(data)) if out is None else out
    with tensorflow():
        import tuning
        from tfsoftmax import data as datasets
        from tuning.space import parse_space
    config = RunConfig(epochs=epochs, schedule=schedule, val=val)
    wanted = parse_space(space) if space else None
    rows = datasets.load(data, batch_size=batch_size, val=val, seed=seed, preprocess=preprocess)
    found = tuning.search(
        rows,
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


@app.command(epilog=_example("evaluate runs/fashion_mnist --split val --json"))
def evaluate(
    run: RunFolder,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    as_json: Json = False,
) -> None:
    """Evaluate a finished run: loss, accuracy with its 95 % interval, figures a class, confusion matrix."""
    one_of("--split", split, ("test", "val"))
    with tensorflow():
        from tfsoftmax.runs.evaluation import report, summary
        from tfsoftmax.runs.run import Run
    result = Run(run).evaluate(split)
    if as_json:
        print(json.dumps({"split": split, **result}))
        return
    print(f"{split}: {summary(result)}\n\n{report(result)}")


@app.command(epilog=_example("export runs/fashion_mnist --to export/fashion_mnist"))
def export(
    run: RunFolder,
    to: Annotated[Path, typer.Option(help="Export folder; its name is the model's name for servers.")],
    version: Annotated[
        int | None, typer.Option(help="Number of the version.", min=1, show_default="the next one")
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(help="Versions to keep; older ones go once the new one is there.", min=1, show_default="all"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a finished run as the next version, each file compared with the model on the validation rows."""
    with tensorflow():
        from tfsoftmax.runs.run import Run
    done = Run(run).export(to, version=version, keep=keep)
    if as_json:
        print(json.dumps({"folder": str(done.folder), "parity": done.parity, "removed": done.removed}))
        return
    print(done)


@app.command(epilog=_example("verify export/fashion_mnist"))
def verify(
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="Export folder, or one version folder in it.")],
    as_json: Json = False,
) -> None:
    """Verify an export: hashes, then each file opened in its own runtime and compared on the reference rows."""
    with tensorflow():
        from tfsoftmax.exporting.verify import verify as check
    found = check(export)
    if as_json:
        fields = ("parity", "unlisted")
        rows = [{"folder": str(one.folder), **{name: getattr(one, name) for name in fields}} for one in found]
        print(json.dumps({"versions": rows}))
        return
    for one in found:
        print(one)


@app.command(epilog=_example("predict export/fashion_mnist shoe.png --top 3"))
def predict(
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="Export folder, or one version folder in it.")],
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Pictures, NPY, NPZ or IDX files; - reads one JSON array.")
    ],
    top: Annotated[int, typer.Option(help="Classes to show for each input, most probable first.", min=1)] = 3,
    fit: Annotated[bool, typer.Option("--fit", help="Convert pictures of another colour mode or size.")] = False,
    invert: Annotated[
        bool, typer.Option("--invert", help="For dark-on-light pictures: turn them light-on-dark.")
    ] = False,
    as_json: Json = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV: input, label, probability, then the rest of the top.")
    ] = False,
) -> None:
    """Predict with an export, through ONNX Runtime."""
    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other: give one of the two")
    from tfsoftmax import inputs
    from tfsoftmax.predict import Predictor

    predictor = Predictor(export)
    classes = predictor.spec.classes
    top = min(top, len(classes))
    with quiet():  # libtiff's own words on broken files
        batches = [(name, inputs.read(name, predictor.spec, fit=fit, invert=invert)) for name in files]
    answers: list[tuple[str, list[tuple[str, float]]]] = []
    for name, raw in batches:
        probabilities = predictor.answer(raw)["probabilities"]
        best = (-probabilities).argsort(axis=1, kind="stable")[:, :top]
        for i, order in enumerate(best):
            row = name if len(raw) == 1 else f"{name}[{i}]"
            answers.append((row, [(classes[k], float(probabilities[i, k])) for k in order]))
    if as_json:
        rows = [
            {"input": row, "label": ranked[0][0], "top": [{"label": label, "probability": p} for label, p in ranked]}
            for row, ranked in answers
        ]
        print(json.dumps({"predictions": rows}))
    elif as_csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        ranks = [field for k in range(2, top + 1) for field in (f"label_{k}", f"probability_{k}")]
        table.writerow(["input", "label", "probability", *ranks])
        table.writerows([row, *(field for pair in ranked for field in pair)] for row, ranked in answers)
    else:
        width = max((len(row) for row, _ in answers), default=0)
        for row, ranked in answers:
            print(f"{row:<{width}}  " + "   ".join(f"{label} {p:.1%}" for label, p in ranked))


@app.command(epilog=_example("serve export/fashion_mnist --port 8501"))
def serve(
    exports: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPORT…", help="Export folders, or folders of them; NAME=EXPORT serves one under another name."
        ),
    ],
    host: Annotated[str, typer.Option(help="Name or address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 takes a free one.", min=0, max=65535)] = 8501,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    max_body: Annotated[int, typer.Option(help="MiB of a request's body, counted after decompression.", min=1)] = 64,
    max_rows: Annotated[int, typer.Option(help="Rows in one request.", min=1)] = 16_384,
    timeout: Annotated[float, typer.Option(help="Seconds for a whole request.")] = 30,
    api_key_file: Annotated[Path | None, typer.Option(help="Keys that clients may send, one a line.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve others than this machine without a key.")] = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="Print one JSON object a request.")] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin whose pages browsers let ask (CORS), once for each; * for all.", show_default="none"),
    ] = None,
) -> None:
    """Serve exports: TensorFlow Serving's REST protocol, the Open Inference Protocol, and a page at /."""
    from tfsoftmax.serving.settings import Settings, read_keys

    try:
        from tfsoftmax.serving import server
    except ImportError as error:
        raise InputError(f"serve needs more packages: pip install 'tfsoftmax[serve]' ({error})") from error
    keys = () if api_key_file is None else read_keys(api_key_file)
    if not keys and not insecure and not server.is_loopback(host):
        raise InputError(f"--host {host} is reached by others: give --api-key-file FILE, or --insecure to go without")
    origins = tuple(allow_origin or ())
    settings = Settings(tuple(exports), max_body * 2**20, max_rows, timeout, keys, access_log, origins)
    server.run(settings, host, port, workers)


@app.command(epilog=_example("formats"))
def formats(as_json: Json = False) -> None:
    """List the formats that export writes."""
    from tfsoftmax.exporting.formats import EXPORTERS

    if as_json:
        print(
            json.dumps({name: {"file": entry.files[0], "runtime": entry.runtime} for name, entry in EXPORTERS.items()})
        )
        return
    for name, entry in EXPORTERS.items():
        print(f"{name:<12} {entry.files[0]:<18} checked in {entry.runtime}")


@app.command(epilog=_example("numbers"))
def numbers(as_json: Json = False) -> None:
    """List number formats: where exp, softmax and cross-entropy end in each, and what they give at these edges."""
    from tfsoftmax import numerics

    found = numerics.report()
    print(json.dumps(found) if as_json else numerics.table(found))


@app.command(epilog=_example("datasets"))
def datasets(as_json: Json = False) -> None:
    """List the data sets that --data takes."""
    from tfsoftmax.sources import SOURCES

    if as_json:
        print(json.dumps({kind.usage: kind.summary for kind in SOURCES.values()}))
        return
    for kind in SOURCES.values():
        print(f"{kind.usage:<15} {kind.summary}")


def _file_name(data: str) -> str:
    return data.replace(":", "_").replace("/", "_")


def main() -> None:
    """Run the command line."""
    console.run(app)
