"""Raw inputs from files: one reader a file type, in one table."""

from __future__ import annotations

import json
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tfsoftmax.errors import InputError
from tfsoftmax.predict import conform
from tfsoftmax.sources.idx import read_idx
from tfsoftmax.spec import ModelSpec


def picture(
    file: Path | BinaryIO,
    spec: ModelSpec,
    fit: bool,
    what: str,
    *,
    advice: str = "--fit",
    formats: tuple[str, ...] | None = None,
    most: int | None = None,
) -> np.ndarray:
    """One picture as an array of ``spec.shape``, uint8.

    Args:
        file: where to read it.
        spec: what the model takes.
        fit: convert another colour mode or size, see :func:`read`.
        what: names the picture in errors.
        advice: names in errors what turns ``fit`` on.
        formats: Pillow's names of the formats to take; ``None``: all.
        most: pixels that are not too many; ``None``: Pillow's own limit.

    Raises:
        InputError: it cannot be opened, or does not fit.
    """
    from PIL import Image, ImageOps

    if spec.dtype != "uint8" or len(spec.shape) not in (2, 3) or spec.shape[2:] not in ((), (3,)):
        raise InputError(f"the model takes {spec.dtype} {spec.shape}, not pictures such as {what}")
    mode = "RGB" if spec.shape[2:] else "L"
    height, width = spec.shape[:2]
    try:
        with warnings.catch_warnings(), Image.open(file, formats=formats) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if most is not None and image.width * image.height > most:
                raise InputError(f"{what} has {image.width}x{image.height} pixels, more than {most:,}")
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error) as error:
        if isinstance(error, InputError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise InputError(f"{what} is not a picture that can be opened: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{what} is not a picture that can be opened: {error}") from error
    if fit:
        if image.mode.startswith(("I", "F")):
            raise InputError(f"{what} has more than 8 bits a channel (mode {image.mode}); save it with 8")
        if image.has_transparency_data:  # what is seen through is taken as white, as on a page
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = ImageOps.fit(image.convert(mode), (width, height), Image.Resampling.LANCZOS)
    if image.mode != mode or image.size != (width, height):
        raise InputError(
            f"{what} is {image.mode} {image.width}x{image.height}, the model takes {mode} {width}x{height}; "
            f"{advice} converts and crops it"
        )
    return np.asarray(image)


def _picture(path: Path, spec: ModelSpec, fit: bool) -> np.ndarray:
    return picture(path, spec, fit, repr(str(path)))


def _npy(path: Path, spec: ModelSpec, fit: bool) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{str(path)!r} is not an NPY file of plain numbers: {error}") from error


def _npz(path: Path, spec: ModelSpec, fit: bool) -> np.ndarray:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            name = archive.files[0] if len(archive.files) == 1 else spec.input_name
            if name not in archive.files:
                raise InputError(f"{str(path)!r} holds {archive.files}; expected one array, or one named {name!r}")
            return archive[name]
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r} is not an NPZ file of plain numbers: {error}") from error


def _idx(path: Path, spec: ModelSpec, fit: bool) -> np.ndarray:
    return read_idx(path)


# file name ending -> function of (path, spec, fit) that gives one raw input or a batch of them
READERS: dict[str, Callable[[Path, ModelSpec, bool], np.ndarray]] = {
    ".png": _picture,
    ".jpg": _picture,
    ".jpeg": _picture,
    ".npy": _npy,
    ".npz": _npz,
    ".idx": _idx,
    ".gz": _idx,
    "-ubyte": _idx,
}


def read(name: str, spec: ModelSpec, *, fit: bool = False, invert: bool = False) -> np.ndarray:
    """Read the raw inputs of one file.

    Args:
        name: a file that ends as ``READERS`` says, or ``"-"``: one JSON array on standard input.
        spec: what the model takes.
        fit: convert a picture of another colour mode or size: transparency to white, grey (or RGB) as the model wants,
            cropped in the middle to the model's proportions, resized.
        invert: turn light to dark and dark to light, for uint8 inputs.

    Returns:
        ``(n, *spec.shape)`` of dtype ``spec.dtype``.

    Raises:
        InputError: the file, or what is in it, cannot be used; the text names it.
    """
    if name == "-":
        try:
            raw = json.load(sys.stdin)
        except (ValueError, RecursionError) as error:
            raise InputError(f"standard input is not one JSON array: {error}") from error
        if not isinstance(raw, list):
            raise InputError(f"standard input must hold one JSON array, got {type(raw).__name__}")
        what = "standard input"
    else:
        readers = [reader for ending, reader in READERS.items() if name.lower().endswith(ending)]
        if not readers:
            raise InputError(f"unknown file type of {name!r}; known endings are {', '.join(READERS)}, and - for JSON")
        try:
            raw = readers[0](Path(name), spec, fit)
        except OSError as error:
            raise InputError(f"cannot read {name!r}: {error.strerror or error}") from error
        what = repr(name)
    array = conform(raw, spec, what)
    if invert:
        if spec.dtype != "uint8":
            raise InputError("--invert is for pictures; this model takes float32 features")
        array = 255 - array
    return array
