"""What is in a data set: columns, classes, rows that stand twice, columns that give the label away. NumPy only."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tfsoftmax.mixing import mixing
from tfsoftmax.stored import Stored
from tfsoftmax.windows import Plan

if TYPE_CHECKING:
    from tfsoftmax.sources import Source
    from tfsoftmax.spec import Column

_LISTED = 30  # duplicates that are named by their places
_FREQUENT = 5  # values of a category that are named
_FEW = 20  # with fewer rows a column can tell the label by chance
_MOST_ELEMENTS = 2_000  # of rows that are one vector: with more none is tried alone
_SCREENED = 5_000  # rows that say whether a column is worth a look at all of them
_BLOCK = 2**24  # bytes of rows that are looked at together
_BATCH = 256
_SOME = 2**26  # bytes of rows in files that are looked at


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What was found; ``dataclasses.asdict`` of it is ready for JSON.

    Figures of columns and values are those of the training rows.

    Attributes:
        name: of the data set.
        rows: of each split; ``test`` is ``None`` where there is none.
        drawn: the test rows are drawn from the training rows, of each class its share.
        shape: of a row.
        dtype: of its elements.
        columns: of a table: ``name``, ``kind``, ``dtype``, ``missing`` (of each split), ``distinct`` (values, without
            the missing one); of numbers ``min``, ``max`` and ``mean``; of categories ``frequent`` (up to 5 values with
            their counts) and ``unseen_in_test`` (rows whose value no training row has).
        left_out: of a table: columns that are no inputs and that nobody left out, and why.
        values: of rows that are no table: ``elements``, ``min``, ``max``, ``mean``, ``constant`` (elements that are the
            same in all rows).
        constant: names of the columns with one value in all rows.
        classes: ``name``, and the rows of each split.
        baseline: ``class``, the most frequent one in training, and the accuracy of always naming it, for each split.
        groups: how many groups the rows belong to, if they have any.
        duplicates: rows that are another one byte for byte: ``train`` and ``test`` are repetitions of an earlier row
            of the same split, ``test_in_train`` are test rows that are a training row too. Each has their number
            ``rows``, of how many the label is ``differing``, and ``first``: up to 30 pairs of places in the source,
            from 0: of the row, and of the first one like it.
        telling: columns that alone tell the label for 99 % of the rows or more: ``column``, ``share`` of the rows, and
            ``by``: ``"value"``, rows with the same value have the same label, or ``"range"``, each label has a range.
        looked_at: how many rows of each split ``values``, ``duplicates`` and ``telling`` are of; ``None``: all.
        mixing: of rows in files: how many classes batches of 256 training rows hold, see ``tfsoftmax.mixing``.
    """

    name: str
    rows: dict[str, int | None]
    drawn: bool
    shape: tuple[int, ...]
    dtype: str
    columns: list[dict[str, Any]]
    left_out: dict[str, str]
    values: dict[str, Any] | None
    constant: list[str]
    classes: list[dict[str, Any]]
    baseline: dict[str, Any]
    groups: int | None
    duplicates: dict[str, dict[str, Any]]
    telling: list[dict[str, Any]]
    looked_at: dict[str, int | None] | None
    mixing: dict[str, Any] | None


def inspect(source: Source, drawn: np.ndarray | None = None) -> Inspection:
    """Look at all rows of ``source``; of rows in files at all labels, and at evenly spaced rows of 64 MiB a split.

    Args:
        source: the rows.
        drawn: which of the training rows are used as test rows, indices ``(rows,)``; ``None``: none.
    """
    if isinstance(source.x_train, Stored):
        return _of_some(source, source.x_train, drawn)
    rows = {"train": np.arange(len(source.x_train))}
    if drawn is not None:
        rows = {"train": np.delete(rows["train"], drawn), "test": np.sort(drawn)}
    x, y = source.x_train, source.y_train[rows["train"]]
    x_test: Any
    x_test, y_test = (source.x_test, source.y_test) if drawn is None else (x, source.y_train[rows["test"]])
    if x_test is not None and drawn is None:
        rows["test"] = np.arange(len(x_test))
    of_train = slice(None) if drawn is None else rows["train"]  # a slice copies nothing
    columns, values, telling = [], None, []
    elements = x.shape[1] if x.ndim == 2 and x.shape[1] <= _MOST_ELEMENTS else 0
    for place in range(len(source.columns) or elements):
        name, one = f"element {place}", x[of_train, place]
        if source.columns:
            name = source.columns[place].name
            columns.append(_column(source.columns[place], one, None if x_test is None else x_test[rows["test"], place]))
        telling += [{"column": name, **found} for found in _telling(one, y, len(source.classes), bool(columns))]
    if not source.columns:
        values = _values(x, rows["train"])
    return Inspection(
        name=source.name,
        drawn=drawn is not None,
        shape=tuple(x.shape[1:]),
        dtype=str(x.dtype),
        columns=columns,
        left_out=source.left_out,
        values=values,
        constant=[column["name"] for column in columns if column["distinct"] + (column["missing"]["train"] > 0) < 2],
        duplicates=_duplicates(x, None if drawn is not None else x_test, rows, y, y_test),
        telling=telling,
        looked_at=None,
        mixing=None,
        **_of_labels(source, y, y_test),
    )


def _of_some(source: Source, x: Stored, drawn: np.ndarray | None) -> Inspection:
    """The inspection of rows in files: of some rows in memory, and of all labels."""
    test: Any = x if source.x_test is None else source.x_test
    steps = {split: math.ceil(of.nbytes / _SOME) for split, of in (("train", x), ("test", test))}
    every, every_test = slice(None, None, steps["train"]), slice(None, None, steps["test"])
    some = dataclasses.replace(
        source,
        x_train=x[every],
        y_train=source.y_train[every],
        x_test=None if source.x_test is None else test[every_test],
        y_test=None if source.y_test is None else source.y_test[every_test],
        groups=None,
        val_rows=None,
        weights=None,
        weights_test=None,
    )
    tested = np.zeros(len(x), bool)
    if drawn is not None:
        tested[drawn] = True
    found = inspect(some, None if drawn is None else np.flatnonzero(tested[every]))
    for name, pairs in found.duplicates.items():
        row, first = ("test" if name.startswith("test") else "train", "test" if name == "test" else "train")
        pairs["first"] = [[place * steps[row], like * steps[first]] for place, like in pairs["first"]]
    y_test = source.y_test if drawn is None else source.y_train[tested]
    train = np.flatnonzero(~tested)
    mixed = mixing(source.y_train[train], Plan.of(x, train, _BATCH), _BATCH, 0)
    of_labels = _of_labels(source, source.y_train[train], y_test)
    return dataclasses.replace(found, looked_at=found.rows, mixing=mixed, **of_labels)


def _of_labels(source: Source, y: np.ndarray, y_test: np.ndarray | None) -> dict[str, Any]:
    """What labels and groups alone say."""
    counts = {split: _counts(labels, len(source.classes)) for split, labels in (("train", y), ("test", y_test))}
    classes = [
        {"name": name, **{split: None if of is None else int(of[k]) for split, of in counts.items()}}
        for k, name in enumerate(source.classes)
    ]
    most = int(np.bincount(y).argmax())
    baseline = {split: None if of is None else float(of[most] / of.sum()) for split, of in counts.items()}
    return {
        "rows": {"train": len(y), "test": None if y_test is None else len(y_test)},
        "classes": classes,
        "baseline": {"class": source.classes[most], **baseline},
        "groups": None if source.groups is None else len(np.unique(source.groups)),
    }


def _counts(y: np.ndarray | None, classes: int) -> np.ndarray | None:
    return None if y is None else np.bincount(y, minlength=classes)


def _column(column: Column, x: np.ndarray, x_test: np.ndarray | None) -> dict[str, Any]:
    there = x[~np.isnan(x)]
    values, counts = np.unique(there, return_counts=True)
    found: dict[str, Any] = {
        "name": column.name,
        "kind": column.kind,
        "dtype": column.dtype,
        "missing": {
            "train": len(x) - len(there),
            "test": None if x_test is None else int(np.isnan(x_test).sum()),
        },
        "distinct": len(values),
    }
    if column.kind == "number":
        extremes = (float(there.min()), float(there.max()), float(there.mean(dtype=np.float64))) if len(there) else ()
        return found | dict(zip(("min", "max", "mean"), extremes or (None, None, None), strict=True))
    order = np.argsort(-counts, kind="stable")[:_FREQUENT]
    frequent = [[column.values[int(values[k])], int(counts[k])] for k in order]
    unseen = None if x_test is None else int((~np.isnan(x_test) & ~np.isin(x_test, values)).sum())
    return found | {"frequent": frequent, "unseen_in_test": unseen}


def _values(x: np.ndarray, which: np.ndarray) -> dict[str, Any]:
    """Figures of rows that are one tensor each."""
    rows = x.reshape(len(x), -1)
    low, high, total = rows[which[0]].copy(), rows[which[0]].copy(), 0.0
    size = max(1, _BLOCK // rows[0].nbytes)
    for begin in range(0, len(which), size):
        block = rows[which[begin : begin + size]]
        np.minimum(low, block.min(axis=0), out=low)
        np.maximum(high, block.max(axis=0), out=high)
        total += float(block.sum(dtype=np.uint64 if x.dtype == np.uint8 else np.float64))
    return {
        "elements": rows.shape[1],
        "min": float(low.min()),
        "max": float(high.max()),
        "mean": total / (len(which) * rows.shape[1]),
        "constant": int((low == high).sum()),
    }


def _digests(x: np.ndarray) -> np.ndarray:
    """64 bits of BLAKE2b of the bytes of each row, uint64 ``(rows,)``."""
    rows = np.ascontiguousarray(x).reshape(-1).view(np.uint8).data
    size = len(rows) // len(x)
    digests = bytearray(8 * len(x))
    for row in range(len(x)):
        digests[8 * row : 8 * row + 8] = hashlib.blake2b(rows[row * size : (row + 1) * size], digest_size=8).digest()
    return np.frombuffer(digests, np.uint64)


def _duplicates(
    x: np.ndarray,
    x_test: np.ndarray | None,
    rows: dict[str, np.ndarray],
    y: np.ndarray,
    y_test: np.ndarray | None,
) -> dict[str, dict[str, Any]]:
    """``x_test``: ``None`` where test rows are rows of ``x``, or there are none."""
    digests = _digests(x)
    in_train = digests[rows["train"]]
    known, first, inverse = np.unique(in_train, return_index=True, return_inverse=True)
    found = {"train": _repeated(first[inverse], y, rows["train"])}
    if y_test is None:
        return found
    in_test = digests[rows["test"]] if x_test is None else _digests(x_test)
    _, first_test, inverse = np.unique(in_test, return_index=True, return_inverse=True)
    found["test"] = _repeated(first_test[inverse], y_test, rows["test"])
    place = np.minimum(np.searchsorted(known, in_test), len(known) - 1)
    again = np.flatnonzero(known[place] == in_test)
    found["test_in_train"] = _pairs(again, first[place[again]], (y_test, y), (rows["test"], rows["train"]))
    return found


def _repeated(like: np.ndarray, y: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    again = np.flatnonzero(like != np.arange(len(like)))
    return _pairs(again, like[again], (y, y), (rows, rows))


def _pairs(
    again: np.ndarray,
    like: np.ndarray,
    y: tuple[np.ndarray, np.ndarray],
    rows: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:
    places = np.stack([rows[0][again[:_LISTED]], rows[1][like[:_LISTED]]], axis=1)
    return {"rows": len(again), "differing": int((y[0][again] != y[1][like]).sum()), "first": places.tolist()}


def _telling(x: np.ndarray, y: np.ndarray, classes: int, named: bool) -> list[dict[str, Any]]:
    """How a column alone tells the label, if it does; at most one. Those without a name of their own are many."""
    if len(x) < _FEW:
        return []
    step = -(-len(x) // _SCREENED)
    some, labels = x[::step], y[::step]
    wrong = 1 - np.bincount(y).max() / len(y)
    wanted = 1 - min(0.01, wrong / 10)  # where one class has nearly all rows, the column must add to that
    if not wrong:
        return []
    if (named or 2 * len(np.unique(some)) <= len(some)) and (share := _share_by_value(x, y, classes)) >= wanted:
        return [{"share": share, "by": "value"}]
    if _share_by_range(some, labels) >= wanted - 0.03 and (share := _share_by_range(x, y)) >= wanted:
        return [{"share": share, "by": "range"}]
    return []


def _share_by_value(x: np.ndarray, y: np.ndarray, classes: int) -> float:
    """The share of the rows whose label is that of most *other* rows with the same value.

    Values that are all different, such as identifiers, tell nothing so. Missing is a value.
    """
    values, codes = np.unique(x, return_inverse=True)
    if 2 * len(values) > len(x):
        return 0.0
    pairs, counts = np.unique(codes.astype(np.int64) * classes + y, return_counts=True)
    value = pairs // classes
    begin = np.flatnonzero(np.diff(value, prepend=-1))
    largest = np.maximum.reduceat(counts, begin)
    total = np.add.reduceat(counts, begin)
    # without the row itself its label must still have more than any other one; all others together bound that
    return float(np.where(2 * largest - 1 > total, largest, 0).sum() / len(x))


def _share_by_range(x: np.ndarray, y: np.ndarray) -> float:
    """The largest share of the rows with the right label, if each class has one range of the numbers.

    The ranges follow each other in the order of the medians. Cuts are between different numbers.
    """
    there = ~np.isnan(x)
    gone = np.bincount(y[~there]).max() if not there.all() else 0
    x, y = x[there], y[there]
    if not len(x):
        return 0.0
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    present = np.unique(y)
    middle = {label: np.median(np.flatnonzero(y == label)) for label in present}
    cuts = np.append(np.flatnonzero(np.diff(x, prepend=np.nan) != 0), len(x))  # rows before each possible cut
    best = np.zeros(len(cuts), np.int64)
    for label in sorted(present, key=middle.__getitem__):
        right = np.concatenate(([0], np.cumsum(y == label)))[cuts]
        best = right + np.maximum.accumulate(best - right)
    return float((best[-1] + gone) / len(there))
