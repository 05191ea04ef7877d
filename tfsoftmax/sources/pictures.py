"""A folder of class folders of pictures, with the folders train, val and test around them where there are such."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfsoftmax._checks import shown
from tfsoftmax._files import unchanged
from tfsoftmax._machine import memory_available
from tfsoftmax.errors import InputError
from tfsoftmax.pictures import PICTURES, converted, fitted, refused, upright
from tfsoftmax.sources.arrays import Source, empty_aligned
from tfsoftmax.spec import picture_size

_SPLITS = ("train", "val", "test")
_ENDINGS = tuple(ending for endings in PICTURES.values() for ending in endings)
_GREY = ("1", "L", "I", "F")  # how the modes of grey pictures begin

_log = logging.getLogger(__name__)


def folder(path: str, resize: str | None = None) -> Source:
    """Read the pictures of each class folder; grey where all are, else RGB, uint8 ``(rows, height, width[, 3])``.

    Args:
        path: a folder of class folders, or one that has the folders ``train`` and, if there, ``val`` and ``test`` with
            the class folders in them.
        resize: ``"WIDTHxHEIGHT"``: the middle of each picture in these proportions, resized; ``None``: as they are.

    Raises:
        InputError: a folder that is laid out otherwise, one without pictures, a broken picture, different sizes.
    """
    where = Path(path)
    if not where.is_dir():
        raise InputError(f"there is no folder {path!r}; pictures:FOLDER needs one with a folder of pictures per class")
    names = [one.name for one in _folders(where)]
    if "train" not in names:
        splits = {"train": where}
    elif others := [name for name in names if name not in _SPLITS]:
        raise InputError(f"{path!r} has the folder {shown(others[0])} beside 'train': class folders belong inside it")
    else:
        splits = {split: where / split for split in _SPLITS if split in names}
    files = {split: list(_files(inside)) for split, inside in splits.items()}
    size = None if resize is None else picture_size(resize)
    every = [file for found in files.values() for file, _ in found]
    x = _read(every, "RGB" if any(map(_is_colour, every)) else "L", size)
    y = np.array([label for found in files.values() for _, label in found])
    counts = {split: len(files.get(split, ())) for split in _SPLITS}
    count = counts["train"] + counts["val"]
    x_test, y_test = (x[count:], y[count:]) if counts["test"] else (None, None)
    val_rows = np.arange(counts["train"], count) if counts["val"] else None
    conversion = "mode" if size is None else "size"
    return Source(where.resolve().name, x[:count], y[:count], x_test, y_test, val_rows=val_rows, conversion=conversion)


def _folders(where: Path) -> list[Path]:
    return sorted(one for one in where.iterdir() if not one.name.startswith(".") and one.is_dir())


def _files(where: Path) -> Iterator[tuple[Path, str]]:
    """The pictures of each class folder, with its name."""
    classes = _folders(where)
    if not classes:
        raise InputError(f"{str(where)!r} has no folder: it needs one of pictures per class")
    left = []
    for inside in classes:
        entries = sorted(one for one in inside.iterdir() if not one.name.startswith("."))
        if folders := [one for one in entries if one.is_dir()]:
            raise InputError(
                f"the class folder {str(inside)!r} has the folder {folders[0].name!r} in it, not only files"
            )
        found = [one for one in entries if one.name.lower().endswith(_ENDINGS)]
        left += [one for one in entries if one not in {*found}]
        if not found:
            raise InputError(f"the class folder {str(inside)!r} has no picture: none ends in {', '.join(_ENDINGS)}")
        yield from ((one, inside.name) for one in found)
    if left:
        _log.warning("%d files that are no pictures are left out, such as %r", len(left), str(left[0]))


def _is_colour(path: Path) -> bool:
    from PIL import Image

    try:
        with refused(repr(str(path))), Image.open(path, formats=tuple(PICTURES)) as image:
            return not image.mode.startswith(_GREY)
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error


def _read(files: list[Path], mode: str, size: tuple[int, int] | None) -> np.ndarray:
    x, first = np.empty(0, np.uint8), (0, 0)
    for row, path in enumerate(files):
        try:
            with unchanged(path):
                content = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
        with refused(repr(str(path))):
            image = converted(upright(io.BytesIO(content), repr(str(path))), mode, repr(str(path)))
            if size is not None:
                image = fitted(image, size)
        values = np.asarray(image)
        if row == 0:
            needed, free = len(files) * math.prod(values.shape), memory_available()
            if needed > free:
                raise InputError(
                    f"{len(files):,} pictures of {image.width}x{image.height} take {needed / 2**30:.1f} GiB, and "
                    f"{free / 2**30:.1f} GiB of memory are free; --resize makes them smaller"
                )
            first = image.size
            x = empty_aligned((len(files), *values.shape), np.uint8)
        if values.shape != x.shape[1:]:
            raise InputError(
                f"{str(path)!r} is {image.width}x{image.height} and {str(files[0])!r} is {first[0]}x{first[1]}: "
                "a linear model needs one size; --resize WIDTHxHEIGHT brings all to it"
            )
        x[row] = values
    return x
