"""Pictures in requests: as the body, in a form, in base64."""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from typing import NamedTuple

import numpy as np

from tfsoftmax import pictures
from tfsoftmax.errors import InputError
from tfsoftmax.serving.effort import Effort
from tfsoftmax.spec import ModelSpec

# how the files begin; no JSON does
_BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
_ALPHABETS = bytes.maketrans(b"-_", b"+/")
_BLANK = b" \t\r\n"


class Convert(NamedTuple):
    """How the request wants its pictures read.

    Attributes:
        kind: the body's content type, as it was sent.
        fit: convert another colour mode or size, as ``tfsoftmax predict --fit`` does.
        invert: turn light to dark and dark to light.
    """

    kind: bytes
    fit: bool = False
    invert: bool = False


def in_body(body: bytes, kind: bytes) -> list[bytes] | None:
    """The picture files that a body is or contains; None if it is something else, presumably JSON.

    Args:
        body: the whole body.
        kind: its content type. curl calls what ``--data-binary`` sends a form, so the content counts as well.

    Raises:
        InputError: a form without files.
    """
    if body.startswith(_BEGINNINGS):
        return [body]
    if not kind or kind == b"application/json":
        return None
    kind = kind.strip()
    if kind[:6].lower() == b"image/":
        return [body]
    if kind[:20].lower() == b"multipart/form-data;":
        return _files(body, kind)
    return None


def _files(body: bytes, kind: bytes) -> list[bytes]:
    """The parts of a form."""
    boundary = re.search(rb'boundary=(?:"([^"]+)"|([^;\s]+))', kind, re.IGNORECASE)
    parts = body.split(b"--" + (boundary[1] or boundary[2])) if boundary else []
    found = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts[1:-1]]
    if not found or not all(found):
        raise InputError("the form holds no picture: send it as a file, or as the body with its type, image/png")
    return found


def from_base64(text: str) -> bytes:
    """Base64 as clients write it: either alphabet, with line breaks, without padding, as a data URL."""
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise InputError("b64 is a data: URL that is not in base64")
    try:
        content = text.encode("ascii").translate(_ALPHABETS, _BLANK).rstrip(b"=")
        return base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InputError(f"b64 is not base64: {error}") from error


def array(content: bytes, spec: ModelSpec, convert: Convert, effort: Effort) -> np.ndarray:
    """A picture file as one row of ``spec.shape``. Raises InputError."""
    effort.picture_file(len(content))
    effort.picture(*_size(content))
    found = pictures.picture(io.BytesIO(content), spec, convert.fit, "the picture", advice="?fit=true")
    return 255 - found if convert.invert else found


def _size(content: bytes) -> tuple[int, int]:
    """Width and height from the file's header; zeros if it cannot be read, which is reported later."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(content), formats=tuple(pictures.PICTURES)).size
    except MemoryError:
        raise
    except Exception:  # Pillow's readers raise anything on broken files
        return 0, 0
