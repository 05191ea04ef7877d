"""The verbs of the command line, one function each, and what several of them share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

DEMO = "fashion_mnist"  # the data where neither --data nor --config names any
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that train wrote.")]


def file_name(data: str) -> str:
    """The name of a folder for what is made of a data set."""
    return re.sub(r"[:/,*?\\]", "_", data).strip("_.") or "data"
