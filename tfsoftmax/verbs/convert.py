"""The verb convert: a data set becomes row files, shuffled on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tfsoftmax._files import read_json
from tfsoftmax.verbs import Json, reads_data


@reads_data
def convert(
    options: dict[str, Any],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Data set; `tfsoftmax datasets` lists them.")],
    to: Annotated[Path, typer.Option(help="Folder to write; `--data FOLDER` reads it.")],
    seed: Annotated[int, typer.Option(help="Of the order of the rows.")] = 0,
    keep_order: Annotated[bool, typer.Option("--keep-order", help="Do not shuffle.")] = False,
    as_json: Json = False,
) -> None:
    """Write a data set once as row files (.npy, labels, checksums), its training rows shuffled as a whole."""
    from rich.console import Console
    from rich.progress import Progress

    from tfsoftmax import sources
    from tfsoftmax.sources import converted

    source = sources.opened(data, **options)
    screen = Console(stderr=True)
    with Progress(console=screen, disable=not screen.is_terminal) as bar:
        task = bar.add_task("rows")
        converted.convert(
            source, to, None if keep_order else seed, lambda done, of: bar.update(task, completed=done, total=of)
        )
    count = sum(file["rows"] for file in read_json(to / converted.MARK, "the row files")["x_train"])
    if as_json:
        print(json.dumps({"folder": str(to), "rows": count, "seed": None if keep_order else seed}))
        return
    print(f"{count:,} training rows: {to}; to train on them: tfsoftmax train --data {to}")
