"""The verbs formats, numbers and datasets: lists of what there is."""

from __future__ import annotations

import json

from tfsoftmax.verbs import Json


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


def numbers(as_json: Json = False) -> None:
    """List number formats: where exp, softmax and cross-entropy end in each, and what they give at these edges."""
    from tfsoftmax import numerics

    found = numerics.report()
    print(json.dumps(found) if as_json else numerics.table(found))


def datasets(as_json: Json = False) -> None:
    """List the data sets that --data takes."""
    from tfsoftmax.sources import SOURCES

    if as_json:
        print(json.dumps({kind.usage: kind.summary for kind in SOURCES.values()}))
        return
    for kind in SOURCES.values():
        print(f"{kind.usage:<16} {kind.summary}")
