"""How well rows in files are mixed: the classes that a batch holds, against those of a full shuffle. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfsoftmax.windows import Plan

ENOUGH = 0.9  # of the classes of a full shuffle
_ROWS = 2**22  # rows of the first epoch that are looked at


def mixing(y: np.ndarray, plan: Plan, batch_size: int, seed: int | None) -> dict[str, Any]:
    """How many classes the whole batches of the first epoch hold.

    Args:
        y: labels of the rows in the order of the file, whole numbers ``(rows,)``.
        plan: of their windows.
        batch_size: rows per batch.
        seed: of their order.

    Returns:
        ``batch``: rows of a batch; ``expected`` and ``smallest``: mean and least number of different classes in a batch
        of the first epoch; ``shuffled`` and ``smallest_shuffled``: the same of a full shuffle of all rows; ``share``:
        ``expected / shuffled``. Of more than 4,194,304 rows the first windows that come to so many are looked at.
    """
    order, batch = plan.order(seed, 0), min(batch_size, len(y))
    found = []
    for number in range(min(len(order), max(1, _ROWS // plan.window))):
        found.append(_classes(y[order.taken(number)][order.places(number)], batch))
    here = np.concatenate([one for one in found if len(one)])
    shuffled = _classes(np.random.default_rng([seed or 0, 2]).permutation(y)[:_ROWS], batch)
    return {
        "batch": batch,
        "expected": float(here.mean()),
        "smallest": int(here.min()),
        "shuffled": float(shuffled.mean()),
        "smallest_shuffled": int(shuffled.min()),
        "share": float(here.mean() / shuffled.mean()),
    }


def line(found: dict[str, Any]) -> str:
    """What :func:`mixing` found, for people."""
    text = (
        f"batches of {found['batch']:,} rows hold {found['expected']:.1f} classes, {found['smallest']:,} at least; "
        f"of a full shuffle {found['shuffled']:.1f} and {found['smallest_shuffled']:,}"
    )
    if found["share"] >= ENOUGH:
        return text
    return (
        f"{text}: the files are sorted, and training may suffer; `tfsoftmax convert DATA --to FOLDER` shuffles them, "
        "and so does `train --cache FOLDER`"
    )


def _classes(y: np.ndarray, batch: int) -> np.ndarray:
    """How many classes each whole batch has."""
    whole = np.sort(y[: len(y) // batch * batch].reshape(-1, batch), axis=1)
    return 1 + (np.diff(whole, axis=1) != 0).sum(axis=1)
