"""The command line. Results go to standard output, progress and errors to standard error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from tfsoftmax import __version__, console
from tfsoftmax.verbs import answers, convert, describe, inspect, lists, probe, runs, train, tune

app = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]}, rich_markup_mode=None)

# each verb with its example, in the order of the help
VERBS: tuple[tuple[Callable[..., Any], str], ...] = (
    (inspect.inspect, "inspect penguins.csv --label species"),
    (convert.convert, "convert npy:embeddings --to rows/embeddings"),
    (train.train, "train --out runs/book --epochs 10 --batch-size 256 --lr 0.1"),
    (tune.tune, "tune --out tune/book --trials 16 --space momentum=0,0.9"),
    (probe.probe, "probe embeddings.npz --preset dinov2"),
    (runs.evaluate, "evaluate runs/fashion_mnist --split val --json"),
    (runs.report, "report runs/fashion_mnist"),
    (describe.describe, "describe runs/fashion_mnist"),
    (runs.export, "export runs/fashion_mnist --to export/fashion_mnist"),
    (runs.verify, "verify export/fashion_mnist"),
    (answers.predict, "predict export/fashion_mnist shoe.png --top 3"),
    (answers.serve, "serve export/fashion_mnist --port 8501"),
    (lists.formats, "formats"),
    (lists.numbers, "numbers"),
    (lists.datasets, "datasets"),
)


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


for _verb, _usage in VERBS:
    app.command(epilog=f"Example: tfsoftmax {_usage}")(_verb)


def main() -> None:
    """Run the command line."""
    console.run(app)
