"""Which rows of a source are for training, for validation and for the test. NumPy only."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfsoftmax._checks import shown
from tfsoftmax.errors import InputError

if TYPE_CHECKING:
    from tfsoftmax.sources import Source

TEST = 0.2  # the share of the rows that is drawn where a source has no test split and nobody says how many

_PART = 2**20  # rows that are drawn from together

_log = logging.getLogger(__name__)


class Split(NamedTuple):
    """Indices int32 into the training rows of a source, in order.

    Attributes:
        train: the rows to train on; ``None``: all.
        val: the rows to validate on; ``None``: none of these.
        test: the rows to test on; ``None``: the source has a test split of its own.
    """

    train: np.ndarray | None
    val: np.ndarray | None
    test: np.ndarray | None


def split(source: Source, val: int | float | str | None, test: int | float | None, seed: int, refit: bool) -> Split:
    """Split the training rows of ``source``, with the arguments of :class:`tfsoftmax.Data`, ``test`` not ``None``
    where rows are drawn for it.

    Raises:
        InputError: a split that leaves no training row, groups that cannot be split, or ``val`` or ``test`` where
            the source has such a split.
    """
    count = len(source.x_train)
    left, tested = np.arange(count, dtype=np.int32), None
    if source.x_test is None:
        drawn = _stratified(source, _rows(source, "test", TEST if test is None else test, count), seed)
        left, tested = left[~drawn], left[drawn]
        _log.log(
            logging.WARNING if test is None else logging.INFO,
            "%s has no test split: %s of its %s rows are drawn for one (test=%s, seed=%d)",
            *(repr(source.name), f"{len(tested):,}", f"{count:,}", test or TEST, seed),
        )
    elif test is not None:
        raise InputError(f"{source.name!r} has a test split, so test={test} draws none: leave it out")
    validation = None
    if source.val_rows is not None:
        if val is not None and val != 0 and val != "test":
            raise InputError(f"{source.name!r} has a validation split, so val={val} draws none: leave it out")
        own = np.zeros(count, bool)
        own[source.val_rows] = True
        if not refit:
            left = left[~own[left]]
        if val is None and not refit:
            validation = source.val_rows.astype(np.int32)
    elif not isinstance(val, str) and val != 0 and not refit:
        wanted = max(1, len(left) // 6) if val is None else _rows(source, "val", val, len(left))
        if source.groups is None:
            picked = np.zeros(len(left), bool)
            picked[shuffled(len(left), np.random.default_rng(seed))[:wanted]] = True
        else:
            picked = _grouped(source, "val", left, wanted, seed)
        left, validation = left[~picked], left[picked]
    return Split(None if len(left) == count else left, validation, tested)


def _rows(source: Source, name: str, value: Any, count: int) -> int:
    """How many of ``count`` rows ``value`` is, a number or a share of them."""
    rows = max(1, round(value * count)) if isinstance(value, float) else value
    if rows >= count:
        raise InputError(f"{name}={value} leaves no training row of {count} in {source.name!r}: give less")
    return int(rows)


def _stratified(source: Source, count: int, seed: int) -> np.ndarray:
    """Draw ``count`` training rows, of each class its share; whole groups where there are some. Returns a mask."""
    y = source.y_train
    if source.groups is not None:
        return _grouped(source, "test", np.arange(len(y)), count, seed)
    sizes = np.bincount(y, minlength=len(source.classes))
    share, room = count * sizes / len(y), np.maximum(sizes - 1, 0)  # a class keeps one row to train on
    taken = np.minimum(share.astype(np.int64), room)
    order = np.argsort(taken - share, kind="stable")
    while (left := count - int(taken.sum())) > 0:
        free = order[taken[order] < room[order]][:left]
        if not len(free):
            raise InputError(f"test={count} of {len(y)} rows leaves classes of {source.name!r} without one: give less")
        taken[free] += 1
    drawn = np.zeros(len(y), bool)
    drawn[each(y, taken, np.random.default_rng([seed, 1]))] = True
    return drawn


def _grouped(source: Source, name: str, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw about ``count`` of ``rows`` as whole groups, of each class about its share. Returns a mask.

    Groups come in random order, the largest first; one is drawn if that brings the counts of the classes nearer to
    what is wanted.
    """
    assigned: Any = source.groups
    y, kinds = source.y_train[rows], len(source.classes)
    _, groups, sizes = np.unique(assigned[rows], return_inverse=True, return_counts=True)
    parts = np.split(np.argsort(groups, kind="stable"), np.cumsum(sizes)[:-1])
    shuffled = np.random.default_rng([seed, 1]).permutation(len(sizes))
    wanted = count * np.bincount(y, minlength=kinds) / len(y)
    drawn = np.zeros(len(y), bool)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        left = wanted - np.bincount(y[parts[group]], minlength=kinds)
        if (left**2).sum() < (wanted**2).sum():
            wanted = left
            drawn[parts[group]] = True
    if drawn.all() or not drawn.any():
        raise InputError(
            f"{name}={count} of the {len(y)} rows of {source.name!r} cannot be drawn as whole groups: there are "
            f"{len(sizes)}, the largest has {shown(int(sizes.max()))} rows"
        )
    return drawn


def folds(labels: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Which of ``count`` folds each row is in, int64 ``(rows,)``; each fold has of every class its share."""
    order, fold = shuffled(len(labels), random), np.empty(len(labels), np.int64)
    fold[order[np.argsort(labels[order], kind="stable")]] = np.arange(len(labels)) % count
    return fold


def each(labels: np.ndarray, count: int | np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw ``count`` rows of each class, or all that it has, without replacement: int32 indices, ascending.

    More rows from the same state of ``random`` are those of fewer and others.
    """
    order, found = shuffled(len(labels), random), []
    left = np.minimum(count, np.bincount(labels, minlength=np.size(count)))
    for begin in range(0, len(order), _PART):
        rows = order[begin : begin + _PART]
        sizes = np.bincount(labels[rows], minlength=len(left))
        rows = rows[np.argsort(labels[rows], kind="stable")]
        rank = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        found.append(rows[rank < np.repeat(left, sizes)])
        left -= np.minimum(left, sizes)
    return np.sort(np.concatenate(found))


def shuffled(count: int, random: np.random.Generator) -> np.ndarray:
    """``random.permutation(count)`` in half of the memory: int32 ``(count,)``."""
    order = np.arange(count, dtype=np.int32)
    random.shuffle(order)
    return order
