"""The verb describe: what a folder holds, on one screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tfsoftmax.verbs import Json


def describe(
    folder: Annotated[
        Path,
        typer.Argument(metavar="RUN|EXPORT|TUNE", help="Folder that train, export or tune wrote, finished or not."),
    ],
    as_json: Json = False,
) -> None:
    """Describe a run, an export or a search: data, settings, figures, files."""
    from tfsoftmax import description

    found = description.describe(folder)
    print(json.dumps(found) if as_json else description.text(found))
