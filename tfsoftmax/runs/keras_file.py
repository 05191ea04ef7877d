"""The weights in a ``model.keras`` file, read without Keras, whose import takes seconds."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from tfsoftmax.spec import ModelSpec

_DAMAGED = (OSError, LookupError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)


def weights_of(path: Path, spec: ModelSpec) -> list[np.ndarray] | None:
    """Kernel ``(features, classes)`` and bias ``(classes,)``, float32.

    Returns ``None`` where the file is not what ``train`` writes in the layout of Keras 3, or does not fit ``spec``:
    Keras knows more, and says what is wrong.
    """
    import h5py

    try:
        with zipfile.ZipFile(path) as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
            content = io.BytesIO(archive.read("model.weights.h5"))
        names = [layer["class_name"] for layer in layers]
        if names != ["InputLayer", "Flatten", "Dense"] or layers[-1]["config"]["activation"] != "linear":
            return None
        with h5py.File(content) as file:
            found = [np.asarray(file["layers/dense/vars"][name]) for name in ("0", "1")]
    except _DAMAGED:
        return None
    features, classes = int(np.prod(spec.features)), len(spec.classes)
    kinds = [(array.shape, array.dtype.name) for array in found]
    fits = kinds == [((features, classes), "float32"), ((classes,), "float32")]
    return found if fits and tuple(layers[0]["config"]["batch_shape"][1:]) == spec.features else None
