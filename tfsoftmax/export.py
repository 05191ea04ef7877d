"""export(): a trained model becomes files that servers take, each proved to answer as the model does."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfsoftmax._checks import number
from tfsoftmax._files import write_text
from tfsoftmax._kinds import EXPORT, kind, not_a
from tfsoftmax.errors import ExportError, InputError
from tfsoftmax.exporting import card, manifest, parity, versions
from tfsoftmax.exporting.formats import EXPORTERS
from tfsoftmax.exporting.linear import Linear
from tfsoftmax.exporting.reference import Reference, choose, hard_rows
from tfsoftmax.predict import conform
from tfsoftmax.runs.evaluation import checked
from tfsoftmax.spec import ModelSpec, RunConfig

if TYPE_CHECKING:
    import keras

_TOOLS = ("tfsoftmax", "tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "ai-edge-litert", "numpy")


@dataclasses.dataclass(frozen=True)
class Export:
    """What :func:`export` made.

    Args:
        folder: the new version folder.
        parity: one row a format, see :func:`tfsoftmax.exporting.parity.compare`.
        removed: the versions that ``keep`` removed.
    """

    folder: Path
    parity: list[dict[str, Any]]
    removed: list[int]

    def __repr__(self) -> str:
        lines = [f"exported version {self.folder.name}: {self.folder}", parity.table(self.parity)]
        if self.removed:
            lines.append(f"removed version {', '.join(map(str, self.removed))}")
        return "\n".join(lines)


def export(
    model: keras.Model,
    spec: ModelSpec,
    path: str | os.PathLike[str],
    *,
    rows: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    metrics: dict[str, Any] | None = None,
    config: RunConfig | None = None,
    version: int | None = None,
    keep: int | None = None,
) -> Export:
    """Write a version folder of the export folder ``path``, in every format, with a model card and Triton's file.

    Each file is opened in its own runtime and compared with the model; only then does the folder appear. The next
    export into the same folder waits until this one is done.

    Args:
        model: a ``Sequential`` of ``Flatten`` and ``Dense``, as ``SoftmaxRegression`` returns. Where it computes in
            another type (mixed precision), the files are compared with its weights in float32, in which they compute.
        spec: what it takes and returns: ``data.spec``.
        path: the export folder; created if missing. Servers use the name of the folder as the model's name.
        rows: raw inputs ``(n, *spec.shape)`` to compare on, preferably unseen ones. Hard rows (all lowest, all highest,
            one element, noise) are always added.
        labels: of ``rows``, whole numbers ``(n,)``; without them the accuracy of the files is not known.
        metrics: of the run, for the manifest and the model card.
        config: settings of the run, for the same.
        version: number of the version, at least 1; ``None``: the next one.
        keep: number of versions to keep, at least 1; older ones are removed once the new one is in place. ``None``:
            all.

    Raises:
        InputError: the model does not match ``spec``, an argument is out of range, ``version`` exists or ``path``
            cannot be written.
        ExportError: a file does not answer as the model does. No version folder is left.
    """
    import tfsoftmax._tensorflow  # noqa: F401 - before TensorFlow

    # isort: split
    import tensorflow as tf

    if version is not None:
        version = number("version", version, 1, whole=True)
    if keep is not None:
        keep = number("keep", keep, 1, whole=True)
    if not isinstance(spec, ModelSpec):
        raise InputError(f"spec must be a ModelSpec such as data.spec, got {type(spec).__name__}")
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"path must be the export folder's, got {path!r}")
    if labels is not None and rows is None:
        raise InputError("labels without rows: pass their rows as well")
    if metrics is not None:
        metrics = checked(metrics)
    linear = Linear(*_weights(model, spec), spec)
    expected = _expected(model, linear, rows, labels)
    parent = Path(path)
    if (there := kind(parent)) and there[0] != EXPORT:
        raise not_a(EXPORT, parent, "")
    try:
        with versions.work(parent) as work:
            _check_beside(parent)
            # laid out as it will be: the version folder in a folder named after the model
            aside = work / Path(os.path.abspath(parent)).name / str(versions.choose(parent, version))
            aside.mkdir(parents=True)
            found = _write(aside, linear, expected, metrics, config)
            if wrong := [row["format"] for row in found if not row["ok"]]:
                raise ExportError(f"{', '.join(wrong)} does not answer as the model does:\n{parity.table(found)}")
            beside = [aside.parent / name for name in card.FILES]
            folder = versions.publish(aside, beside, parent)
            removed = [] if keep is None else versions.keep(parent, int(folder.name), keep, work)
    except (OSError, tf.errors.OpError) as error:  # TensorFlow writes the SavedModel, and has errors of its own
        why = error.message if isinstance(error, tf.errors.OpError) else error.strerror or str(error)
        why = re.sub(r"^\{\{.*?\}\} | \[Op:\w+\]$", "", why.splitlines()[0])  # the operation that failed
        raise ExportError(f"cannot write into {str(parent)!r}: {why}") from error
    return Export(folder, found, removed)


def _check_beside(parent: Path) -> None:
    """Raise InputError where an export would replace a file of others."""
    for name in card.FILES:
        path = parent / name
        if not path.exists() or card.is_ours(name, content := path.read_bytes()):
            continue
        folders = [parent / str(number) for number in versions.versions(parent)]
        if manifest.digest(content) not in [manifest.beside(folder).get(name) for folder in folders]:  # not signed once
            raise InputError(f"{str(path)!r} was not written by export, or has been changed since: move it away")


def _write(
    folder: Path, linear: Linear, rows: parity.Expected, metrics: dict[str, Any] | None, config: RunConfig | None
) -> list[dict[str, Any]]:
    """Write all files of a version folder and those that go beside it; return the parity rows."""
    raw, y, logits = (array[rows.few] for array in (rows.raw, rows.y, rows.logits))
    Reference(raw, y, logits, linear.kernel, linear.bias).write(folder)
    found = []
    for name, entry in EXPORTERS.items():
        if linear.spec.columns and not entry.tables:
            continue
        entry.write(linear, folder)
        found.append(parity.compare(name, entry, folder, linear.spec, rows))
    values = {
        "spec": dataclasses.asdict(linear.spec),
        "config": config and dataclasses.asdict(config),
        "metrics": metrics,
        "tools": {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in _TOOLS}},
        "parity": found,
    }
    number = int(folder.name)
    texts = {name: card.signed(name, text(folder.parent.name, number, values)) for name, text in card.FILES.items()}
    values["beside"] = {name: manifest.digest(text.encode()) for name, text in texts.items()}
    for name, text in texts.items():
        write_text(folder.parent / name, text)
    manifest.write(folder, values)
    return found


def _expected(
    model: keras.Model, linear: Linear, rows: np.ndarray | None, labels: np.ndarray | None
) -> parity.Expected:
    """The rows to compare on; ``few`` are those that the export keeps."""
    spec = linear.spec
    hard, count = hard_rows(spec), len(spec.classes)
    rows = hard[:0] if rows is None else conform(rows, spec, "rows")
    y = np.full(len(rows), -1) if labels is None else np.asarray(labels)
    fits = y.shape == (len(rows),) and y.dtype.kind in "iu"
    if not fits or (labels is not None and ((y < 0) | (y >= count)).any()):
        raise InputError(f"labels must be {len(rows)} whole numbers from 0 to {count - 1}, one for each of rows")
    few = np.append(choose(y), np.arange(len(rows), len(rows) + len(hard)))
    raw, y = np.concatenate([rows, hard]), np.append(y, np.full(len(hard), -1)).astype(np.int64)
    return parity.Expected(raw, y, _model_logits(model, linear, raw), few)


def _weights(model: keras.Model, spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias in float32, zeros where the Dense has no bias."""
    import keras

    if not isinstance(model, keras.Model):
        raise InputError(f"model must be a Keras model such as SoftmaxRegression returns, got {type(model).__name__}")
    kinds = [type(layer) for layer in model.layers]
    if (
        kinds != [keras.layers.Flatten, keras.layers.Dense]
        or model.layers[1].activation is not keras.activations.linear
    ):
        raise InputError(
            f"export takes a Sequential of Flatten and a linear Dense, got {[kind.__name__ for kind in kinds]}"
        )
    if not model.built:
        raise InputError("the model has no weights yet: call fit (or build) before export")
    dense = model.layers[1]
    if mode := dense.quantization_mode:
        raise InputError(
            f"the model is quantized ({mode}); export takes the one with float weights, of which it writes int8 files"
        )
    kernel = np.asarray(keras.ops.convert_to_numpy(dense.kernel), np.float32)
    wanted = (int(np.prod(spec.features)), len(spec.classes))
    if kernel.shape != wanted:
        raise InputError(
            f"the model's kernel has shape {kernel.shape} and the spec asks for {wanted}: give its own data.spec"
        )
    bias = np.zeros(wanted[1]) if dense.bias is None else keras.ops.convert_to_numpy(dense.bias)
    bias = np.asarray(bias, np.float32)
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise InputError("the model's weights are not all finite; train it again with a smaller learning rate")
    if spec.dtype == "uint8":
        ends = [np.abs((end - np.ravel(spec.offset)) * np.ravel(spec.scale)) for end in (0.0, 255.0)]
        most = np.broadcast_to(np.maximum(*ends), wanted[:1]) @ np.abs(kernel, dtype=np.float64) + np.abs(bias)
        if not (most <= np.finfo(np.float32).max).all():
            raise InputError(
                "the model's weights are so large that a picture's logits can be beyond float32; train it again with a "
                "smaller learning rate"
            )
    return kernel, bias


def _model_logits(model: keras.Model, linear: Linear, raw: np.ndarray) -> np.ndarray:
    """The model's logits in float32: by a model of the same weights where this one computes in another type."""
    import keras

    from tfsoftmax.rows import preprocess

    spec = linear.spec
    if any(part.compute_dtype != "float32" for part in (model, *model.layers)):
        dense = keras.layers.Dense(len(spec.classes), dtype="float32")
        model = keras.Sequential([keras.Input(spec.features), keras.layers.Flatten(dtype="float32"), dense])
        dense.set_weights([linear.kernel, linear.bias])
    return np.concatenate([np.asarray(model(preprocess(spec, raw[i : i + 8192]))) for i in range(0, len(raw), 8192)])
