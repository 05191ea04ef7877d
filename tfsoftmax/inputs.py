"""Raw inputs from files: one reader a file type, in one table."""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from tfsoftmax._quiet import quiet
from tfsoftmax.errors import InputError
from tfsoftmax.predict import conform
from tfsoftmax.sources.idx import read_idx
from tfsoftmax.spec import ModelSpec

if TYPE_CHECKING:
    from PIL.Image import Image


# Pillow's name of each picture format that is opened -> the endings of its files
PICTURES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}


def picture(
    file: BinaryIO,
    spec: ModelSpec,
    fit: bool,
    what: str,
    *,
    advice: str = "--fit",
    most: int | None = None,
) -> np.ndarray:
    """One picture as an array of ``spec.shape``, uint8, the way up that its EXIF orientation says.

    Args:
        file: its content, in one of the formats of ``PICTURES``.
        spec: what the model takes.
        fit: convert another colour mode or size, see :func:`read`.
        what: names the picture in errors.
        advice: names in errors what turns ``fit`` on.
        most: pixels that are not too many; ``None``: Pillow's own limit.

    Raises:
        InputError: it cannot be opened, or does not fit.
    """
    from PIL import Image, UnidentifiedImageError

    if spec.dtype != "uint8" or len(spec.shape) not in (2, 3) or spec.shape[2:] not in ((), (1,), (3,)):
        raise InputError(f"the model takes {spec.dtype} {spec.shape}, not pictures such as {what}")
    mode = "RGB" if spec.shape[2:] == (3,) else "L"
    height, width = spec.shape[:2]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = _open(file, what, most)
            if fit:
                image = _fit(image, mode, (width, height), what)
    except UnidentifiedImageError as error:
        raise InputError(f"{what} is not a picture that can be opened: none of {', '.join(PICTURES)}") from error
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of a broken file Pillow's readers raise whatever they stumble over
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{what} is not a picture that can be opened: {error}") from error
    if image.mode != mode or image.size != (width, height):
        raise InputError(
            f"{what} is {image.mode} {image.width}x{image.height}, the model takes {mode} {width}x{height}; "
            f"{advice} converts and crops it"
        )
    return np.asarray(image).reshape(spec.shape)


def _open(file: BinaryIO, what: str, most: int | None) -> Image:
    from PIL import Image

    with Image.open(file, formats=tuple(PICTURES)) as image:
        if most is not None and image.width * image.height > most:
            raise InputError(f"{what} has {image.width}x{image.height} pixels, more than {most:,}")
        # a photograph with a preview or a depth map beside it is an MPO, and is one picture
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise InputError(f"{what} holds several pictures, as frames or pages; save the one that is meant")
        image.load()
        return _upright(image)


def _upright(image: Image) -> Image:
    """Turned as its EXIF orientation says; as it is where the EXIF data cannot be read."""
    from PIL import ExifTags
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as above
        turn = None
    return image if turn is None else image.transpose(turn)


def _fit(image: Image, mode: str, size: tuple[int, int], what: str) -> Image:
    from PIL import Image, ImageOps

    if image.mode.startswith("I;16"):  # to the nearest of 256 steps
        values, transparent = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray(((np.minimum(values, 65_407) + 128) // 257).astype(np.uint8))
        if transparent is not None:
            image.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    if image.mode in ("I", "F"):
        raise InputError(f"{what} has 32 bits a channel (mode {image.mode}); save it with 8 or 16")
    if image.has_transparency_data:  # what is seen through is taken as white, as on a page
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return ImageOps.fit(image.convert(mode), size, Image.Resampling.LANCZOS)


def _picture(path: Path, spec: ModelSpec, fit: bool) -> np.ndarray:
    # by its content: Pillow maps an uncompressed TIFF that it opens by name, and then turns it wrongly
    with quiet():  # libtiff's own words on broken files
        return picture(io.BytesIO(path.read_bytes()), spec, fit, repr(str(path)))


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


# file name ending -> function of (path, spec, fit) that returns one raw input or a batch of them
READERS: dict[str, Callable[[Path, ModelSpec, bool], np.ndarray]] = {
    **{ending: _picture for endings in PICTURES.values() for ending in endings},
    ".npy": _npy,
    ".npz": _npz,
    ".idx": _idx,
    ".gz": _idx,
    "-ubyte": _idx,
}


# file name ending of a table -> kind of file, as ``sources.tables`` calls it
TABLES = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def named(
    name: str, spec: ModelSpec, *, fit: bool = False, invert: bool = False, id_column: str | None = None
) -> tuple[list[str], np.ndarray]:
    """Read one file as :func:`read`; returns a name for each row, too: the file's with its place, or its id."""
    if not spec.columns or name == "-":
        raw, ids = read(name, spec, fit=fit, invert=invert), None
    else:
        raw, ids = _table(name, spec, id_column)
    if ids is not None:
        return ids, raw
    return [name] if len(raw) == 1 else [f"{name}[{i}]" for i in range(len(raw))], raw


def _table(name: str, spec: ModelSpec, id_column: str | None = None) -> tuple[np.ndarray, list[str] | None]:
    from tfsoftmax.sources import tables

    kind = TABLES.get(Path(name).suffix.lower())
    if kind is None:
        raise InputError(f"the model takes a table, and {name!r} does not end in one of {', '.join(TABLES)}")
    table = tables.read_table(Path(name), kind, spec.columns)
    return tables.raw_rows(table, spec, repr(name), id_column)


def read(name: str, spec: ModelSpec, *, fit: bool = False, invert: bool = False) -> np.ndarray:
    """Read the raw inputs of one file.

    Args:
        name: a file that ends as ``READERS`` says, or ``"-"``: one JSON array on standard input.
        spec: what the model takes.
        fit: convert a picture of another colour mode or size: 16 bits to 8, transparency to white, grey (or RGB) as the
            model wants, cropped in the middle to the model's proportions, resized.
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
    elif spec.columns:
        return _table(name, spec)[0]
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
