"""Large: a data set that is larger than memory and is read from beginning to end alone; row files are made of it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from tfsoftmax._files import state
from tfsoftmax.errors import InputError
from tfsoftmax.sources.arrays import Source
from tfsoftmax.sources.columns import Choices
from tfsoftmax.stored import Shard, Stored

PART = 2**24  # bytes of rows that are read together


@dataclasses.dataclass(frozen=True)
class Large:
    """Rows that can be trained on once they are row files.

    Args:
        name: of the data set.
        fingerprint: another one if its files or the choices are others.
        memory: bytes that its rows may take, which are more.
        write: writes the rows into files ``*.part`` of the folder given and returns the source that reads them there;
            calls its second argument now and then with how many rows are done, of how many.
    """

    name: str
    fingerprint: str
    memory: int
    write: Callable[[Path, Callable[[int, int], None]], Source]


def fingerprint(files: Sequence[Path], choices: Choices) -> str:
    """Paths, sizes and times of the files, and the choices."""
    states = [(os.path.abspath(path), *state(path.stat())) for path in files]
    return json.dumps([states, dataclasses.astuple(choices)])


def written(path: Path, batches: Iterable[np.ndarray], memory: int) -> Stored:
    """Write rows one after the other into ``path``, from where they are then read."""
    rows, x = 0, None
    with open(path, "wb") as file:
        for x in batches:
            file.write(np.ascontiguousarray(x).data)
            rows += len(x)
    if x is None:
        raise InputError("a split of the data has no rows")
    return Stored([Shard(path, 0, rows, x.dtype, False, state(path.stat()))], x.shape[1:], memory)
