"""The verb inspect: what is in a data set, before anything is trained."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from tfsoftmax.verbs import Category, Drop, Group, Json, Label, Number, Resize, SampleWeight


def inspect(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Data set; `tfsoftmax datasets` lists them.")],
    label: Label = None,
    resize: Resize = None,
    group: Group = None,
    drop: Drop = None,
    category: Category = None,
    number: Number = None,
    sample_weight: SampleWeight = None,
    as_json: Json = False,
) -> None:
    """Show what is in a data set: columns, classes, rows that stand twice, columns that give the label away."""
    from tfsoftmax import findings, inspection, sources

    source = sources.read(
        data,
        label=label,
        resize=resize,
        group=group,
        drop=drop,
        category=category,
        number=number,
        sample_weight=sample_weight,
    )
    found = inspection.inspect(source)
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), "warnings": findings.warnings(found)}))
        return
    print("\n".join(findings.text(found)))
