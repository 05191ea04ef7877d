"""IDX files, the format of MNIST and its kin: one file, a folder of four, and the embedded Fashion-MNIST."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tfsoftmax.errors import InputError
from tfsoftmax.sources.arrays import Source, empty_aligned

# The third byte of an IDX file names the type; all are big-endian (Yann LeCun's page on MNIST).
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

_DEFLATE = 1032  # a byte of a gzip file stands for at most so many

# what is in it -> name of the file, without .gz
FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# SHA-256 of the official files, the same that TensorFlow Datasets asks for.
_FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}


def read_idx(path: Path, sha256: str | None = None) -> np.ndarray:
    """Read one IDX file, compressed (``.gz``) or not.

    Args:
        path: the file.
        sha256: hexadecimal digest that the file as stored must have; ``None`` checks nothing.

    Returns:
        The array, in the machine's byte order.

    Raises:
        InputError: unreadable, another checksum, truncated, a wrong magic number, or trailing bytes.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise InputError(f"{str(path)!r} has SHA-256 {found}, expected {sha256}; restore the original file")
    stream: io.BufferedIOBase = io.BytesIO(content)
    if path.suffix == ".gz":
        stream = gzip.GzipFile(fileobj=stream)
    try:
        return _read_array(stream, path, len(content))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{str(path)!r} is not a whole gzip file: {error}") from error


def _read_array(stream: io.BufferedIOBase, path: Path, stored: int) -> np.ndarray:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or magic[3] == 0:
        raise InputError(
            f"{str(path)!r} is not an IDX file: it starts with {magic.hex()!r}, expected 0000, type, dimensions"
        )
    sizes = stream.read(4 * magic[3])
    shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
    dtype = np.dtype(_TYPES[magic[2]])
    size = math.prod(shape) * dtype.itemsize if len(sizes) == 4 * magic[3] else 0
    if size > _DEFLATE * stored:
        raise InputError(f"{str(path)!r} says it holds {size:,} bytes (shape {shape}), more than its {stored:,} can")
    memory = empty_aligned((size,), np.uint8)
    found, view = 0, memory.data
    while count := stream.readinto(view[found:]):
        found += count
    if found != size or stream.read(1):
        raise InputError(
            f"{str(path)!r} does not hold the {size:,} bytes of its shape {shape}: {found:,} and then its end"
        )
    array = memory.view(dtype).reshape(shape)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def _read_four(folder: Path, checksums: dict[str, str]) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for role, name in FILES.items():
        found = [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()]
        if not found:
            raise InputError(
                f"{str(folder)!r} has no file {name!r} or {name + '.gz'!r}; the four are {list(FILES.values())}"
            )
        arrays[role] = read_idx(found[0], checksums.get(found[0].name))
    return arrays


def folder(path: str) -> Source:
    """Read a folder of four IDX files; ``labels.txt`` in it, if there, has one class name per line."""
    where = Path(path)
    if not where.is_dir():
        raise InputError(f"there is no folder {path!r}; idx:FOLDER needs one with {list(FILES.values())}")
    arrays = _read_four(where, {})
    names = where / "labels.txt"
    if names.is_file():
        classes = read_lines(names)
    else:
        classes = [str(label) for label in range(int(arrays["y_train"].max(initial=1)) + 1)]
    return Source(name=where.resolve().name, classes=classes, **arrays)


def read_lines(path: Path) -> list[str]:
    """The lines of a file of class names, in UTF-8 or with the mark of UTF-16, without spaces around them."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{str(path)!r} is not text in UTF-8: byte {content[error.start]:#04x} at {error.start}; save it as UTF-8"
        ) from error
    lines = [line.strip() for line in text.replace("\r\n", "\n").rstrip().split("\n")]  # other breaks are no lines here
    if "" in lines:
        raise InputError(f"{str(path)!r}: line {lines.index('') + 1} is empty; it needs one class name a line")
    return lines


def fashion_mnist(_: str = "") -> Source:
    """Read the embedded Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 60,000 training and 10,000 test pictures."""
    where = Path(__file__).parent.parent / "datasets" / "fashion_mnist"
    return Source(name="fashion_mnist", classes=FASHION_MNIST_CLASSES, **_read_four(where, _FASHION_MNIST_SHA256))
