"""Picture files as arrays: opened, turned upright, converted and resized, the same for training and for answers."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from tfsoftmax.errors import InputError
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
        fit: convert another colour mode or size, see :func:`tfsoftmax.inputs.read`, even where training did not.
        what: names the picture in errors.
        advice: names in errors what turns ``fit`` on.
        most: pixels that are not too many; ``None``: Pillow's own limit.

    Raises:
        InputError: it cannot be opened, or does not fit.
    """
    if spec.dtype != "uint8" or len(spec.shape) not in (2, 3) or spec.shape[2:] not in ((), (1,), (3,)):
        raise InputError(f"the model takes {spec.dtype} {spec.shape}, not pictures such as {what}")
    mode = "RGB" if spec.shape[2:] == (3,) else "L"
    height, width = spec.shape[:2]
    with refused(what):
        image = upright(file, what, most)
        if fit or spec.conversion != "none":
            image = converted(image, mode, what)
        if fit or spec.conversion == "size":
            image = fitted(image, (width, height))
    if image.mode != mode or image.size != (width, height):
        raise InputError(
            f"{what} is {image.mode} {image.width}x{image.height}, the model takes {mode} {width}x{height}; "
            f"{advice} converts and crops it"
        )
    return np.asarray(image).reshape(spec.shape)


@contextlib.contextmanager
def refused(what: str) -> Iterator[None]:
    """What Pillow raises becomes an InputError of the picture ``what``; errors of the disk stay."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UnidentifiedImageError as error:
        raise InputError(f"{what} is not a picture that can be opened: none of {', '.join(PICTURES)}") from error
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of a broken file Pillow's readers raise whatever they stumble over
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{what} is not a picture that can be opened: {error}") from error


def upright(file: BinaryIO, what: str, most: int | None = None) -> Image:
    """The one picture in a file, the way up that its EXIF orientation says; errors are for :func:`refused`."""
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


def converted(image: Image, mode: str, what: str) -> Image:
    """In ``mode``, ``"L"`` or ``"RGB"``: 16 bits become 8, palettes and CMYK colours, and transparency white."""
    from PIL import Image

    if image.mode.startswith("I;16"):  # to the nearest of 256 steps
        values, transparent = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray(((np.minimum(values, 65_407) + 128) // 257).astype(np.uint8))
        if transparent is not None:
            image.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    if image.mode in ("I", "F"):
        raise InputError(f"{what} has 32 bits a channel (mode {image.mode}); save it with 8 or 16")
    if image.has_transparency_data:  # what is seen through is taken as white, as on a page
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert(mode)


def fitted(image: Image, size: tuple[int, int]) -> Image:
    """Cropped in the middle to the proportions of ``size`` (width, height), and resized to it."""
    from PIL import Image, ImageOps

    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
