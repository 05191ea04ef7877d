"""Predictor: an export folder answers through ONNX Runtime; TensorFlow is not imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tfsoftmax.errors import InputError
from tfsoftmax.spec import ModelSpec, read_json


def versions(folder: Path) -> list[int]:
    """The version numbers in an export folder, ascending; other names are skipped."""
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal() and entry.is_dir())


class Predictor:
    """Answers for raw inputs, by the newest version of an export folder.

    Args:
        path: an export folder, or one version folder in it.

    Attributes:
        folder: the version folder.
        spec: what the model takes and gives.

    Raises:
        InputError: nothing there that can be opened.
    """

    def __init__(self, path: str | os.PathLike[str]):
        import onnxruntime

        self.folder = Path(path)
        if found := versions(self.folder):
            self.folder = self.folder / str(found[-1])
        if not (self.folder / "manifest.json").is_file():
            raise InputError(f"there is no export in {str(path)!r}; `tfsoftmax export RUN --to {path}` makes one")
        manifest = read_json(self.folder / "manifest.json", "manifest")
        self.spec: ModelSpec = ModelSpec.from_dict(manifest.get("spec", {}), "the spec in the manifest")
        model = self.folder / "model.onnx"
        try:
            self._session = onnxruntime.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
        except OSError as error:
            raise InputError(f"cannot read {str(model)!r}: {error.strerror}") from error
        except Exception as error:  # ONNX Runtime's errors have no common base but Exception
            raise InputError(f"ONNX Runtime cannot open {str(model)!r}: {str(error).splitlines()[0]}") from error

    def answer(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        """Answer for raw inputs that are known to fit ``spec``; :meth:`__call__` checks them first.

        Args:
            raw: ``(n, *spec.shape)`` of dtype ``spec.dtype``.

        Returns:
            ``logits`` and ``probabilities``, float32 ``(n, classes)``; ``class_id``, int64 ``(n,)``; ``label``, strings
            ``(n,)``.
        """
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {self._session.get_inputs()[0].name: raw}), strict=True))

    def __call__(self, raw: Any) -> dict[str, np.ndarray]:
        """Answer for raw inputs ``(n, *spec.shape)``, or for one of shape ``spec.shape``; see :meth:`answer`.

        Raises:
            InputError: another shape, another type, or values out of range.
        """
        return self.answer(conform(raw, self.spec))


def conform(raw: Any, spec: ModelSpec, what: str = "the input") -> np.ndarray:
    """Raw inputs as an array ``(n, *spec.shape)`` of dtype ``spec.dtype``, or InputError that names ``what``."""
    try:
        array = np.asarray(raw)
    except ValueError as error:
        raise InputError(f"{what} is ragged; expected shape {_shape(spec)}") from error
    if array.shape == spec.shape:
        array = array[None]
    if array.shape[1:] != spec.shape:
        raise InputError(f"{what} has shape {array.shape}, expected {_shape(spec)}")
    if spec.dtype == "uint8":
        if array.dtype.kind not in "iu":
            raise InputError(f"{what} has values of type {array.dtype}, expected whole numbers from 0 to 255")
        if array.dtype != np.uint8 and array.size and (array.min() < 0 or array.max() > 255):
            raise InputError(f"{what} has values from {array.min()} to {array.max()}, expected 0 to 255")
    elif array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise InputError(f"{what} must hold finite numbers, got type {array.dtype}")
    return np.ascontiguousarray(array, spec.dtype)


def _shape(spec: ModelSpec) -> str:
    return f"(n, {', '.join(map(str, spec.shape))})"
