"""Pictures of the page: raw rows, templates and evidence as small PNG files in data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np

_FOR, _AGAINST = np.array([33, 102, 172]), np.array([179, 88, 6])  # blue and orange, told apart by everybody


def diverging(values: np.ndarray, largest: float) -> np.ndarray:
    """Values as colours around white, uint8 ``(height, width, 3)``; those of three channels in their own colours."""
    share = np.clip(values / (largest or 1.0), -1, 1)
    if share.ndim == 3 and share.shape[2] == 3:
        return np.round(127.5 + 127.5 * share).astype(np.uint8)
    share = share.reshape(*share.shape[:2], 1)
    colours = 255 + np.where(share > 0, share * (_FOR - 255), -share * (_AGAINST - 255))
    return np.round(colours).astype(np.uint8)


def grey(raw: np.ndarray) -> np.ndarray:
    """A raw row as it looks, uint8; floats are brought to 0 to 255."""
    plain = raw[..., 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw
    if plain.dtype != np.uint8:
        low, high = float(plain.min()), float(plain.max())
        plain = np.round(255 * (plain - low) / ((high - low) or 1.0)).astype(np.uint8)
    return plain


def png(pixels: np.ndarray, largest: int | None = 160) -> bytes:
    """A PNG file of uint8 ``(height, width)`` or ``(height, width, 3)``, brought to at most ``largest`` pixels."""
    from PIL import Image

    file = io.BytesIO()
    picture = Image.fromarray(pixels)
    if largest is not None:  # the size of a page does not grow with that of its pictures
        picture.thumbnail((largest, largest))
    picture.save(file, "png", optimize=True)
    return file.getvalue()


def uri(content: bytes) -> str:
    """A PNG file as an address of itself."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def sheet(pictures: list[np.ndarray], across: int) -> np.ndarray:
    """Pictures of one size beside and below each other, uint8 ``(height, width, 3)``, four pixels apart."""
    rgb = [np.repeat(one[..., None], 3, axis=2) if one.ndim == 2 else one for one in pictures]
    height, width = rgb[0].shape[:2]
    down = -(-len(rgb) // across)
    made = np.full((down * (height + 4), min(across, len(rgb)) * (width + 4), 3), 255, np.uint8)
    for place, one in enumerate(rgb):
        y, x = place // across * (height + 4), place % across * (width + 4)
        made[y : y + height, x : x + width] = one
    return made
