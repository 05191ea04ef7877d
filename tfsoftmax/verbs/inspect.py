"""The verb inspect: what is in a data set, before anything is trained."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

import typer

from tfsoftmax.verbs import Json, reads_data


@reads_data
def inspect(
    options: dict[str, Any],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Data set; `tfsoftmax datasets` lists them.")],
    as_json: Json = False,
) -> None:
    """Show what is in a data set: columns, classes, rows that stand twice, columns that give the label away."""
    from tfsoftmax import findings, inspection, sources

    found = inspection.inspect(sources.read(data, **options))
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), "warnings": findings.warnings(found)}))
        return
    print("\n".join(findings.text(found)))
