"""What tells one set of labelled rows from another: a short digest of each of its parts."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tfsoftmax.sources.arrays import Source
    from tfsoftmax.stored import Stored

_WHOLE = 2**28  # bytes; of a larger array evenly spaced rows, about so many bytes of them, are read
_PART = 2**24  # bytes that are read at once; the digest depends on it
_PARTS = {  # name in the fingerprint -> name in errors
    "train": "training rows",
    "train_labels": "labels of the training rows",
    "test": "test rows",
    "test_labels": "labels of the test rows",
    "classes": "class names",
    "order": "order of the class names",
    "weights": "weights of the training rows",
    "weights_test": "weights of the test rows",
    "columns": "columns and the values in them",
    "groups": "groups of the training rows",
    "val_rows": "rows of the validation split",
}


def fingerprint(source: Source) -> str:
    """The fingerprint of ``source``: for each part its name, how many it has, and 16 hexadecimal digits of BLAKE2b.

    Labels and class names are read whole, and so are rows of up to 256 MiB a split (0.1 s for Fashion-MNIST); of more
    rows, 256 MiB of evenly spaced ones.
    """
    names = [name.encode() for name in source.classes]
    parts = {
        "train": (len(source.x_train), digest_of(source.x_train)),
        "train_labels": (len(source.y_train), digest_of(source.y_train)),
        "classes": (len(names), _digest(sorted(names))),
        "order": (len(names), _digest(names)),
    }
    if source.x_test is not None and source.y_test is not None:
        parts["test"] = (len(source.x_test), digest_of(source.x_test))
        parts["test_labels"] = (len(source.y_test), digest_of(source.y_test))
    for part, array in (("groups", source.groups), ("val_rows", source.val_rows)):
        if array is not None:
            parts[part] = (len(array), digest_of(array))
    for name in ("weights", "weights_test"):
        if (weights := getattr(source, name)) is not None:
            parts[name] = (len(weights), digest_of(weights))
    if source.columns:
        described = (json.dumps(dataclasses.astuple(column)).encode() for column in source.columns)
        parts["columns"] = (len(source.columns), _digest(described))
    return " ".join(f"{name}:{count}:{digest}" for name, (count, digest) in parts.items())


def changes(then: str, now: str) -> list[str]:
    """What differs between two fingerprints, for people; empty if nothing does."""
    old, new = _parts(then), _parts(now)
    found: dict[str, str] = {}
    for name, text in _PARTS.items():
        (count, digest), (count_now, digest_now) = old.get(name, ("?", "")), new.get(name, ("?", ""))
        if count != count_now:
            found[name] = f"{text} ({count} then, {count_now} now)"
        elif digest != digest_now:
            found[name] = text
    for part, cause in (("order", "classes"), ("train_labels", "train"), ("test_labels", "test")):
        if part in found and cause in found:
            del found[part]  # it follows
    return list(found.values())


def _parts(text: str) -> dict[str, tuple[str, str]]:
    entries = (entry.split(":") for entry in text.split())
    return {entry[0]: (entry[1], entry[2]) for entry in entries if len(entry) == 3}


def digest_of(array: np.ndarray | Stored) -> str:
    """16 hexadecimal digits of BLAKE2b of an array, of its type and shape; see :func:`fingerprint`."""
    step = 1 if array.ndim == 1 else math.ceil(array.nbytes / _WHOLE)
    size = step * max(1, _PART // max(1, array[0].nbytes))
    blocks = (array[begin : begin + size : step].tobytes() for begin in range(0, len(array), size))
    return _digest(itertools.chain([f"{array.dtype.str}{array.shape}".encode()], blocks))


def _digest(parts: Iterable[bytes]) -> str:
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(len(part).to_bytes(8, "little") + part)
    return state.hexdigest()
