"""Where labelled rows come from: the table of sources, and the rows in memory that each gives."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable

from tfsoftmax._checks import shown
from tfsoftmax.errors import InputError
from tfsoftmax.sources import idx, tfds
from tfsoftmax.sources.arrays import Source, aligned

__all__ = ["SOURCES", "Source", "aligned", "read"]


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of source: how it is written on the command line, what it is, and the function that reads it."""

    usage: str
    summary: str
    read: Callable[[str], Source]


# One entry a kind. A data set is named KIND or KIND:ARGUMENT, and `read` gets the argument.
SOURCES = {
    "fashion_mnist": Kind(
        "fashion_mnist", "70,000 pictures of clothing, 28x28, 10 classes; embedded", idx.fashion_mnist
    ),
    "idx": Kind("idx:FOLDER", "a folder with four IDX files named as MNIST's, .gz or not", idx.folder),
    "tfds": Kind("tfds:NAME", "any TensorFlow Datasets picture classification set", tfds.builder),
}


def read(name: str) -> Source:
    """Read the data set called ``name``, such as ``"fashion_mnist"``, ``"idx:my/folder"`` or ``"tfds:mnist"``.

    Raises:
        InputError: no such data set (the text has the nearest names), or its files cannot be used.
    """
    if not isinstance(name, str):
        hint = f"; of a folder of IDX files give {f'idx:{name}'!r}" if isinstance(name, os.PathLike) else ""
        raise InputError(f"a data set is named by a string, got {shown(name)}{hint}")
    kind, colon, argument = name.partition(":")
    takes_argument = kind in SOURCES and ":" in SOURCES[kind].usage
    if kind not in SOURCES or bool(argument) != takes_argument or (colon and not argument):
        usages = [entry.usage for entry in SOURCES.values()]
        near = difflib.get_close_matches(name, sorted({*SOURCES, *usages}), n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise InputError(f"unknown data set {name!r}; known are {', '.join(usages)}{hint}")
    source = SOURCES[kind].read(argument)
    object.__setattr__(source, "origin", name)
    return source
