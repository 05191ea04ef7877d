"""reference.npz: rows with the model's own answers, kept in each export so that any runtime can be compared again."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np

from tfsoftmax.errors import InputError
from tfsoftmax.spec import ModelSpec

KEPT = 256  # data rows, at most
NOISE = 61  # noise rows; 64 hard rows with the three made by hand


@dataclasses.dataclass(frozen=True)
class Reference:
    """The arrays of ``reference.npz``, one member each, no pickles.

    Args:
        raw: ``(n, *spec.shape)`` of dtype ``spec.dtype``, raw inputs: up to 256 data rows, in turn one of each class
            where labels are known, then 64 hard rows (see :func:`hard_rows`).
        y: int64 ``(n,)``, labels; -1 where a row has none, as the hard rows.
        logits: float32 ``(n, classes)``, what the Keras model says of ``raw``.
        kernel: float32 ``(inputs, classes)``, the weights as trained: they apply to the preprocessed inputs
            ``(raw - spec.offset) * spec.scale``, flattened in C order.
        bias: float32 ``(classes,)``.
    """

    raw: np.ndarray
    y: np.ndarray
    logits: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray

    def write(self, folder: Path) -> None:
        """Write ``reference.npz``; the same arrays yield the same bytes (``numpy.savez`` stamps the time of day)."""
        with zipfile.ZipFile(folder / "reference.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for field in dataclasses.fields(self):
                member = io.BytesIO()
                np.lib.format.write_array(member, np.ascontiguousarray(getattr(self, field.name)), allow_pickle=False)
                info = zipfile.ZipInfo(f"{field.name}.npy", (1980, 1, 1, 0, 0, 0))
                info.external_attr = 0o644 << 16
                archive.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED)

    @classmethod
    def read(cls, folder: Path) -> Reference:
        """Read ``reference.npz`` of a version folder.

        Raises:
            InputError: it is missing or not such a file.
        """
        path = folder / "reference.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"cannot read the reference rows {str(path)!r}: {error}") from error


def choose(y: np.ndarray) -> np.ndarray:
    """Indices of up to 256 rows spread over the classes: the first row of each, then the second of each, …

    Args:
        y: labels ``(rows,)``.
    """
    by_class = np.argsort(y, kind="stable")
    ordered = y[by_class]
    turn = np.empty(len(y), np.int64)
    turn[by_class] = np.arange(len(y)) - np.searchsorted(ordered, ordered)
    return np.lexsort((y, turn))[:KEPT]


def hard_rows(spec: ModelSpec) -> np.ndarray:
    """64 raw inputs that are easy to get wrong: all lowest, all highest, one element alone, seeded noise."""
    if spec.columns:
        return _hard_table(spec)
    high = np.array(255 if spec.dtype == "uint8" else 1, spec.dtype)
    noise = np.random.default_rng(0).integers(0, 256, (NOISE, *spec.shape))
    rows = np.concatenate([np.zeros((3, *spec.shape)), noise]).astype(spec.dtype)
    if spec.dtype != "uint8":
        rows /= 255
    rows[1] = high
    rows[2].flat[rows[2].size // 2] = high
    return rows


def _hard_table(spec: ModelSpec) -> np.ndarray:
    """64 rows of a table: numbers around those of training, values in turn with unseen ones, gaps where they may be."""
    random, rows = np.random.default_rng(0), np.empty((NOISE + 3, len(spec.columns)), np.float32)
    for place, column in enumerate(spec.columns):
        if column.kind == "number":
            rows[:, place] = column.offset + random.uniform(-3, 3, len(rows)) / column.scale
        else:
            rows[:, place] = random.integers(-1, len(column.values), len(rows))
    if spec.missing == "impute":
        rows[random.random(rows.shape) < 0.1] = np.nan
        rows[0] = np.nan
    categories = [place for place, column in enumerate(spec.columns) if column.kind == "category"]
    rows[1, categories] = -1
    return rows
