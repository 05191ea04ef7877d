"""SOURCES: where labelled rows come from, one function per kind of data set."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfsoftmax._checks import shown
from tfsoftmax.errors import InputError
from tfsoftmax.sources import converted, embeddings, idx, npy, pictures, tables, tfds, tfrecord
from tfsoftmax.sources.arrays import Source, aligned, empty_aligned
from tfsoftmax.sources.columns import Choices
from tfsoftmax.sources.large import Large
from tfsoftmax.spec import OPTIONS, RunConfig
from tfsoftmax.stored import Stored

__all__ = ["SOURCES", "Source", "aligned", "empty_aligned", "opened", "read"]

COLUMNS = tuple(field.name for field in dataclasses.fields(Choices))  # options of tables


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of source.

    Args:
        usage: how it is written on the command line.
        summary: what it is.
        read: the function that reads it, of the argument and of the options given.
        options: those that it takes, of ``spec.OPTIONS``.
        ending: of the paths that are read so without the name of the kind.
    """

    usage: str
    summary: str
    read: Callable[..., Source | Large]
    options: tuple[str, ...] = ()
    ending: str = ""


def _table(kind: str, path: str, **options: Any) -> Source:
    return tables.read_files(kind, path, Choices(**options))


_TABLES = {
    "csv": "a CSV file, a folder of them or a pattern",
    "tsv": "the same, with tabs between the values",
    "parquet": "the same, of Parquet files",
}

# One entry a kind. A data set is named KIND or KIND:ARGUMENT, and `read` gets the argument.
SOURCES = {
    "fashion_mnist": Kind(
        "fashion_mnist", "70,000 pictures of clothing, 28x28, 10 classes; embedded", idx.fashion_mnist
    ),
    **{
        kind: Kind(f"{kind}:PATH", summary, functools.partial(_table, kind), COLUMNS, f".{kind}")
        for kind, summary in _TABLES.items()
    },
    "parquet": Kind("parquet:PATH", _TABLES["parquet"], embeddings.parquet, (*COLUMNS, "memory"), ".parquet"),
    "tfrecord": Kind(
        "tfrecord:PATH",
        "TFRecord files of tf.train.Example: numbers and a label",
        tfrecord.files,
        ("label", "drop", "memory"),
        ".tfrecord",
    ),
    "pictures": Kind("pictures:FOLDER", "a folder of pictures per class", pictures.folder, ("resize",)),
    "npy": Kind("npy:X.npy,Y.npy", "two NumPy files, or a folder with x.npy and y.npy", npy.files, ("memory",)),
    "npz": Kind("npz:FILE", "one NumPy archive with x and y, or x_train and so on", npy.archive, ending=".npz"),
    "rows": Kind("rows:FOLDER", "row files, as `tfsoftmax convert` writes them", converted.folder, ("memory",)),
    "idx": Kind("idx:FOLDER", "a folder with four IDX files named as MNIST's, .gz or not", idx.folder),
    "tfds": Kind("tfds:NAME", "any TensorFlow Datasets picture classification set", tfds.builder),
}


def read(name: Any, **options: Any) -> Source:
    """Read the data set called ``name``, such as ``"fashion_mnist"``, ``"idx:my/folder"`` or ``"tfds:mnist"``.

    Args:
        name: also a path, where the kind is plain from it, or a data frame.
        options: of ``spec.OPTIONS``; ``None`` is none.

    Raises:
        InputError: no such data set (the text has the nearest names), an option that it does not take, or its files
            cannot be used, or are larger than memory and need row files.
    """
    found = opened(name, **options)
    if isinstance(found, Source):
        return found
    raise InputError(
        f"the rows of {found.name!r} take more memory than the {found.memory:,} bytes that they may take: "
        f"`tfsoftmax convert DATA --to FOLDER` makes row files of them, and so does `tfsoftmax train --cache FOLDER`"
    )


def opened(name: Any, **options: Any) -> Source | Large:
    """As :func:`read`; where the rows are larger than memory and need row files, they come as :class:`Large`."""
    given = _given(options)
    if not isinstance(name, (str, os.PathLike)):
        return _of_frame(name, given)
    name = os.fspath(name)
    kind, argument = _kind(name)
    if wrong := [option for option in given if option not in SOURCES[kind].options]:
        takers = [entry.usage for entry in SOURCES.values() if wrong[0] in entry.options]
        raise InputError(f"{name!r} does not take the option {wrong[0]}: {', '.join(takers)} do")
    source = SOURCES[kind].read(argument, **given)
    if isinstance(source, Large):
        return source
    given.pop("memory", None)
    if isinstance(source.x_train, Stored):  # else it makes no difference
        given["memory"] = source.x_train.memory
    object.__setattr__(source, "origin", name)
    object.__setattr__(source, "options", given)
    return source


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that are not None, as RunConfig has them."""
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise InputError(f"unknown option {unknown[0]!r} of a data set; known are {', '.join(OPTIONS)}")
    lists: dict[str, Any] = {
        name: (value,) if isinstance(value, str) and name in ("drop", "category", "number") else value
        for name, value in options.items()
    }
    config = RunConfig(**lists)
    return {name: getattr(config, name) for name in options if getattr(config, name) is not None}


def _kind(name: str) -> tuple[str, str]:
    """The kind of the data set ``name``, and its argument."""
    kind, colon, argument = name.partition(":")
    if kind in SOURCES and bool(argument) == (":" in SOURCES[kind].usage) and (argument or not colon):
        return kind, argument
    if kind not in SOURCES and (found := _plain_kind(name)):
        return found, name
    usages = [entry.usage for entry in SOURCES.values()]
    if kind in SOURCES:
        takes = "needs an argument" if ":" in SOURCES[kind].usage else "takes no argument"
        raise InputError(f"the data set {name!r} {takes}: write {SOURCES[kind].usage}")
    near = difflib.get_close_matches(name, sorted({*SOURCES, *usages}), n=3, cutoff=0.5)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    if Path(name).exists():
        hint = "; a path that is none of these is here: name its kind"
    raise InputError(f"unknown data set {name!r}; known are {', '.join(usages)}{hint}")


def _plain_kind(name: str) -> str | None:
    """The kind that a path has by its ending; of a folder by what is in it."""
    path = Path(name)
    for kind, entry in SOURCES.items():
        if entry.ending and name.lower().endswith(entry.ending):
            return kind
    if not name or not path.is_dir():
        return None
    if (path / converted.MARK).is_file():
        return "rows"
    if any((path / f"{file}{gz}").is_file() for file in idx.FILES.values() for gz in ("", ".gz")):
        return "idx"
    if any((path / f"{x}.npy").is_file() for x in ("x", "x_train")):
        return "npy"
    files = (kind for kind in _TABLES if any(path.glob(f"*.{kind}")))
    return next(files, "pictures" if any(entry.is_dir() for entry in path.iterdir()) else None)


def of_arrays(name: str, x: Any, y: Any, *, x_test: Any, y_test: Any, classes: Any, groups: Any) -> Source:
    """Inputs and labels in memory as a :class:`Source`; inputs that are data frames as a table.

    Raises:
        InputError: as :class:`Source`; test columns of other names than the training columns.
    """
    if not tables.is_frame(x):
        return Source(name, x, y, x_test, y_test, classes, groups=groups)
    if groups is not None or len(classes):
        raise InputError("a data frame takes its classes from the labels, and groups by tfsoftmax.load(…, group=…)")
    if (x_test is None) != (y_test is None):
        raise InputError("a test split has both, x_test and y_test")
    label = "label"
    while label in map(str, x.columns if hasattr(x, "columns") else ()):
        label += "_"
    train = tables.labelled(name, x, y, label)
    test = None if x_test is None else tables.labelled(name, x_test, y_test, label)
    if test is not None and (more := sorted(set(test.column_names) - set(train.column_names))):
        raise InputError(
            f"the test rows of {name!r} have the column {shown(more[0])}, which the training rows do not have"
        )
    return tables.source(name, train, Choices(label), test)


def _of_frame(frame: Any, options: dict[str, Any]) -> Source:
    if not tables.is_frame(frame):
        raise InputError(f"a data set is a name, a path or a data frame, got {shown(frame)}")
    if wrong := [option for option in options if option not in COLUMNS]:
        raise InputError(f"a data frame does not take the option {wrong[0]}")
    return tables.source("frame", tables.of_frame(frame), Choices(**options))
