"""The verbs evaluate, report, export and verify: what is done with a run and its exports."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated

import typer

from tfsoftmax._checks import one_of
from tfsoftmax._kinds import TUNE, kind
from tfsoftmax.console import tensorflow
from tfsoftmax.errors import InputError
from tfsoftmax.verbs import Json, RunFolder


def evaluate(
    run: RunFolder,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    prior: Annotated[
        bool, typer.Option("--prior", help="Take the class weights of training out of the probabilities.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Evaluate a finished run: loss, accuracy with its 95 % interval, calibration, figures per class, mistakes."""
    one_of("--split", split, ("test", "val"))
    from tfsoftmax.runs.evaluation import probabilities, report, summary
    from tfsoftmax.runs.run import Run

    result = Run(run).evaluate(split, prior=prior)
    if as_json:
        print(json.dumps({"split": split, **result}))
        return
    print(f"{split}: {summary(result)}\n{probabilities(result)}\n\n{report(result)}")


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...|TUNE", help="Run folder, several are compared; or a tune folder.")
    ],
    to: Annotated[
        Path | None,
        typer.Option(help="HTML file to write.", show_default="report.html in the folder; of several comparison.html"),
    ] = None,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels",
            help="Also look for wrong labels of training rows, by five fits, as lanes where the settings allow it.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a page that shows what a run learned, how sure it is and where it fails; its figures beside it.

    Of several runs on the same test rows the page shows what differs; of a search all trials, and their curves.
    """
    if len(runs) == 1 and (found := kind(runs[0])) and found[0] == TUNE:
        if labels:
            raise InputError(f"--labels goes with a run, and {str(runs[0])!r} is {TUNE}")
        from tfsoftmax.reporting.trials import report as write_trials
        from tfsoftmax.tuned import Tuned

        _written(write_trials(Tuned(runs[0]), to), as_json)
        return
    if labels and len(runs) > 1:
        raise InputError("--labels goes with one run: leave it out, or name one")
    with tensorflow() if labels else contextlib.nullcontext():
        from tfsoftmax.reporting.one import report as write
        from tfsoftmax.reporting.several import compare
        from tfsoftmax.runs.run import Run
    opened = [Run(run) for run in runs]
    several = len(opened) > 1
    path = compare(opened, to or "comparison.html") if several else write(opened[0], to, labels=labels)
    _written(path, as_json)


def _written(path: Path, as_json: bool) -> None:
    print(json.dumps({"report": str(path)}) if as_json else f"report: {path}")


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
    calibrated: Annotated[
        bool,
        typer.Option("--calibrated", help="Divide the logits by the temperature that was fitted on validation rows."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Export a finished run as the next version, each file compared with the model on the validation rows."""
    with tensorflow():
        from tfsoftmax.runs.run import Run
    done = Run(run).export(to, version=version, keep=keep, calibrated=calibrated)
    if as_json:
        print(json.dumps({"folder": str(done.folder), "parity": done.parity, "removed": done.removed}))
        return
    print(done)


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
