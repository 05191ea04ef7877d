"""Which labels are probably wrong: suspects of confident learning, with their near-duplicates beside them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfsoftmax.columns import prepared, recode
from tfsoftmax.data import Data
from tfsoftmax.encoding import as_text, decoded
from tfsoftmax.neighbours import near
from tfsoftmax.reporting import pixels, weights
from tfsoftmax.reporting.confident import suspects
from tfsoftmax.reporting.files import Files
from tfsoftmax.runs.run import Run
from tfsoftmax.stored import Stored

GREY = 5.0  # levels, root mean square, up to which two pictures are near-duplicates
FEATURE = 0.02  # of other rows, in units of the features: standard deviations where rows are standardized
_COMPARED = 200_000  # rows; among more no near-duplicates are looked for
_SHOWN = 24  # suspects, or pairs, on the page
_VALUES = 8  # of a row of a table
_HEADER = ("row", "label", "suggested", "of_label", "of_suggested", "like", "like_row", "like_label", "distance")
_PAIR = ("split", "row", "label", "like", "like_row", "like_label", "distance")


def section(run: Run, data: Data, files: Files) -> dict[str, Any]:
    """What the page says of labels; ``issues.csv`` and ``duplicates.csv`` are written.

    Rows are counted in the training split of the source, all of whose rows are looked at but those drawn for the test.
    """
    from tfsoftmax.runs.folds import FOLDS, out_of_fold  # which train, with TensorFlow; other reports need none

    said, names = out_of_fold(run, data), run.spec.classes
    found, duplicates = suspects(said.probabilities, said.labels), _duplicates(run, data)
    others = _others(duplicates or [])
    issues: list[dict[str, Any]] = []
    for at, suggested, *odds in zip(*found[:4], strict=True):
        row = int(said.rows[at])
        label = {"row": row, "label": names[said.labels[at]], "suggested": names[suggested]}
        likely = dict(zip(("of_label", "of_suggested"), map(float, odds), strict=True))
        issues.append({**label, **likely, **others.get(row, dict.fromkeys(_HEADER[-4:]))})
    files.numbers("issues", issues, _HEADER)
    files.numbers("duplicates", duplicates or [], _PAIR)
    shown = [dict(row) for row in issues[:_SHOWN]]
    raw = data.source.x_train[np.array([row["row"] for row in shown], np.int64)]
    table = data.source.columns
    values = decoded(dataclasses.replace(data.spec, columns=table), raw) if table else []
    for k, issue in enumerate(shown):
        issue["image"] = pixels.uri(pixels.png(pixels.grey(raw[k]))) if weights.is_picture(run.spec) else None
        of_row = list(values[k].items())[:_VALUES] if table else []
        issue["values"] = [(name, as_text(value)) for name, value in of_row]
    return {
        "folds": FOLDS,
        "rows": len(said.rows),
        "estimated": found.estimated,
        "found": len(issues),
        "shown": shown,
        "pairs": None if duplicates is None else len(duplicates),
        "unit": f"{GREY:g} grey levels" if data.spec.dtype == "uint8" else f"{FEATURE:g} in the features",
        "differing": [row for row in duplicates or [] if row["label"] != row["like_label"]][:_SHOWN],
    }


def _duplicates(run: Run, data: Data) -> list[dict[str, Any]] | None:
    """Pairs of near-duplicates among all rows of the source, the nearest first; ``None``: not looked for."""
    source, spec = data.source, data.spec
    tested, label, raw = np.zeros(len(source.y_train), bool), source.y_train, source.x_train
    row = np.arange(len(label))
    if source.y_test is None:
        tested[data.rows.test.index] = True
    count = len(label) + (0 if source.y_test is None else len(source.y_test))
    if isinstance(raw, Stored) or isinstance(source.x_test, Stored) or count > _COMPARED:
        return None
    if source.x_test is not None and source.y_test is not None:
        raw, label = np.concatenate([raw, source.x_test]), np.concatenate([label, source.y_test])
        row = np.append(row, np.arange(len(source.y_test)))
        tested = np.arange(count) >= len(tested)
    if spec.columns:
        raw = recode(raw, source.columns, spec.columns)
    found = near(raw.reshape(count, -1), GREY) if spec.dtype == "uint8" else near(prepared(spec, raw), FEATURE)
    split, names = np.where(tested, "test", "training").tolist(), run.spec.classes
    pairs = zip(*found.rows.T.tolist(), found.distance.tolist(), strict=True)
    return [
        dict(
            zip(
                _PAIR,
                (split[a], int(row[a]), names[label[a]], split[b], int(row[b]), names[label[b]], apart),
                strict=True,
            )
        )
        for a, b, apart in pairs
    ]


def _others(duplicates: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Of each training row the nearest near-duplicate with another label."""
    found: dict[int, dict[str, Any]] = {}
    for pair in duplicates:
        one, like = [pair[name] for name in _PAIR[:3]], [pair[name] for name in _PAIR[3:6]]
        for (split, row, label), other in ((one, like), (like, one)):
            if split == "training" and label != other[2]:
                found.setdefault(row, dict(zip(_HEADER[-4:], (*other, pair["distance"]), strict=True)))
    return found
