"""export(): a trained model becomes files that servers take, each proved to answer as the model does."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfsoftmax.errors import ExportError, InputError
from tfsoftmax.predict import Predictor, conform, versions
from tfsoftmax.reference import Reference, choose, hard_rows
from tfsoftmax.spec import ModelSpec, write_text

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Answer = Callable[[np.ndarray], dict[str, np.ndarray]]

# Largest difference of a logit between a file and the model, for logits up to 100. Beyond, float32 itself has
# coarser steps, and the limit grows in proportion.
LOGIT_LIMIT = 1e-4


@dataclasses.dataclass(frozen=True)
class Format:
    """One export format.

    Args:
        file: what it is called in the version folder.
        runtime: what opens it, for people.
        write: writes the graph of (kernel, bias, spec) into the version folder.
        open: opens the version folder in the format's own runtime and gives the function that answers.
    """

    file: str
    runtime: str
    write: Callable[[np.ndarray, np.ndarray, ModelSpec, Path], None]
    open: Callable[[Path], Answer]


def _graph(kernel: Any, bias: Any, spec: ModelSpec) -> tf.types.experimental.PolymorphicFunction:
    """The served graph: raw inputs in; ``logits``, ``probabilities``, ``class_id`` and ``label`` out."""
    import tensorflow as tf

    from tfsoftmax.data import preprocess

    def answer(raw: tf.Tensor) -> dict[str, tf.Tensor]:
        # constants are made in here: captured from outside, tf2onnx would turn them into inputs
        x = tf.reshape(preprocess(spec, raw), (-1, kernel.shape[0]))
        logits = tf.matmul(x, tf.convert_to_tensor(kernel)) + tf.convert_to_tensor(bias)
        class_id = tf.argmax(logits, axis=1, output_type=tf.int64)
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(logits),
            "class_id": class_id,
            "label": tf.gather(tf.constant(spec.classes), class_id),
        }

    signature = tf.TensorSpec((None, *spec.shape), spec.dtype, name=spec.input_name)
    return tf.function(answer, input_signature=[signature], autograph=False)


def _write_saved_model(kernel: np.ndarray, bias: np.ndarray, spec: ModelSpec, folder: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.kernel, module.bias = tf.Variable(kernel, name="kernel"), tf.Variable(bias, name="bias")
    module.answer = _graph(module.kernel, module.bias, spec)
    assets = folder / "assets"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.answer})
    assets.mkdir(exist_ok=True)
    write_text(assets / "labels.txt", "".join(f"{name}\n" for name in spec.classes))


def _open_saved_model(folder: Path) -> Answer:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    serve = loaded.signatures["serving_default"]
    (name,) = serve.structured_input_signature[1]

    def answer(raw: np.ndarray) -> dict[str, np.ndarray]:
        answers = {key: value.numpy() for key, value in serve(**{name: tf.constant(raw)}).items()}
        answers["label"] = np.array([label.decode() for label in answers["label"]], object)
        return answers

    answer.keeps = loaded  # the signature alone does not hold the variables
    return answer


def _write_onnx(kernel: np.ndarray, bias: np.ndarray, spec: ModelSpec, folder: Path) -> None:
    import tf2onnx

    graph = _graph(kernel, bias, spec)
    tf2onnx.convert.from_function(
        graph, input_signature=graph.input_signature, opset=17, output_path=str(folder / "model.onnx")
    )


# name -> format, in the order in which they are written
EXPORTERS = {
    "saved_model": Format("saved_model.pb", "TensorFlow", _write_saved_model, _open_saved_model),
    "onnx": Format("model.onnx", "ONNX Runtime", _write_onnx, lambda folder: Predictor(folder).answer),
}


@dataclasses.dataclass(frozen=True)
class Export:
    """What :func:`export` made: the new version folder, and one parity row a format (see ``manifest.json``)."""

    folder: Path
    parity: list[dict[str, Any]]


def export(
    model: keras.Model,
    spec: ModelSpec,
    path: str | os.PathLike[str],
    *,
    rows: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    metrics: dict[str, Any] | None = None,
) -> Export:
    """Write the next version folder of the export folder ``path``, in every format.

    Each file is opened in its own runtime and compared with the model; only then the folder appears.

    Args:
        model: a ``Sequential`` of ``Flatten`` and ``Dense``, as ``SoftmaxRegression`` gives.
        spec: what it takes and gives: ``data.spec``.
        path: the export folder; made where it is not there. The name of the folder is the model's name for servers.
        rows: raw inputs ``(n, *spec.shape)`` to compare on, best unseen ones. Hard rows (all lowest, all highest, one
            element, noise) are always added.
        labels: of ``rows``, whole numbers ``(n,)``; without them accuracy is not known.
        metrics: kept in the manifest.

    Raises:
        InputError: the model is another one than ``spec`` says, or ``path`` cannot be written.
        ExportError: a file does not answer as the model does. No version folder is left.
    """
    import tensorflow as tf

    kernel, bias = _weights(model, spec)
    hard = hard_rows(spec)
    rows = hard[:0] if rows is None else conform(rows, spec, "rows")
    y = np.full(len(rows), -1) if labels is None else np.asarray(labels)
    if (
        y.shape != (len(rows),)
        or y.dtype.kind not in "iu"
        or (labels is not None and ((y < 0) | (y >= len(bias))).any())
    ):
        raise InputError(f"labels must be {len(rows)} whole numbers from 0 to {len(bias) - 1}, one for each of rows")
    kept = choose(y)
    raw, y = np.concatenate([rows, hard]), np.append(y, np.full(len(hard), -1)).astype(np.int64)
    expected = _model_logits(model, spec, raw)
    kept = np.append(kept, np.arange(len(rows), len(raw)))
    reference = Reference(raw[kept], y[kept], expected[kept], kernel, bias)
    rows = raw
    parent = Path(path)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".export-", dir=parent))
    except OSError as error:
        raise InputError(f"cannot write the export folder {str(parent)!r}: {error.strerror}") from error
    try:
        parity = []
        _write_manifest(aside, spec, metrics, parity)  # the Predictor that opens the ONNX file reads the spec here
        reference.write(aside)
        for name, entry in EXPORTERS.items():
            entry.write(kernel, bias, spec, aside)
            parity.append(
                {"format": name, "runtime": entry.runtime, **_compare(entry.open(aside), rows, expected, spec)}
            )
        if wrong := [row["format"] for row in parity if not row["ok"]]:
            raise ExportError(f"{', '.join(wrong)} does not answer as the model does:\n{parity_table(parity)}")
        _write_manifest(aside, spec, metrics, parity)
        aside.chmod(0o755)
        folder = _publish(aside, parent)
    except (OSError, tf.errors.OpError) as error:  # TensorFlow writes the SavedModel, and has errors of its own
        why = error.message if isinstance(error, tf.errors.OpError) else error.strerror or str(error)
        raise ExportError(f"cannot write into {str(parent)!r}: {why.splitlines()[0]}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Export(folder, parity)


def parity_table(parity: list[dict[str, Any]]) -> str:
    """The parity rows as text, one line a format."""
    lines = [
        f"{'format':<12} {'runtime':<13} {'rows':>6} {'logits differ':>13} {'probabilities':>13} {'classes':>7}  ok"
    ]
    lines += [
        f"{row['format']:<12} {row['runtime']:<13} {row['rows']:>6} {row['logits']:>13.2e} "
        f"{row['probabilities']:>13.2e} {row['classes']:>7}  {'yes' if row['ok'] else 'NO'}"
        for row in parity
    ]
    return "\n".join(lines)


def _weights(model: keras.Model, spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
    import keras

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
    kernel, bias = model.layers[1].get_weights()
    wanted = (int(np.prod(spec.shape)), len(spec.classes))
    if kernel.shape != wanted:
        raise InputError(
            f"the model's kernel has shape {kernel.shape} and the spec asks for {wanted}: give its own data.spec"
        )
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise InputError("the model's weights are not all finite; train it again with a smaller learning rate")
    return kernel, bias


def _model_logits(model: keras.Model, spec: ModelSpec, raw: np.ndarray) -> np.ndarray:
    from tfsoftmax.data import preprocess

    return np.concatenate([np.asarray(model(preprocess(spec, raw[i : i + 8192]))) for i in range(0, len(raw), 8192)])


def _compare(answer: Answer, raw: np.ndarray, expected: np.ndarray, spec: ModelSpec) -> dict[str, Any]:
    """Largest differences over all rows, with batches of 1, 7 and all that are left."""
    parts = [answer(part) for part in np.split(raw, [1, 8]) if len(part)]
    got = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    shifted = np.exp(expected.astype(np.float64) - expected.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    logits = float(np.abs(got["logits"] - expected).max())
    limit = LOGIT_LIMIT * max(1.0, float(np.abs(expected).max()) / 100)
    # two classes whose logits the limit cannot tell apart may change places
    chosen = np.take_along_axis(expected, got["class_id"][:, None], axis=1)[:, 0]
    changed = got["class_id"] != expected.argmax(axis=1)
    excused = expected.max(axis=1) - chosen <= 2 * limit
    names = np.array(spec.classes, object)[got["class_id"]]
    return {
        "rows": len(raw),
        "logits": logits,
        "limit": limit,
        "probabilities": float(np.abs(got["probabilities"] - probabilities).max()),
        "classes": int(changed.sum()),
        "ok": bool(logits <= limit and not (changed & ~excused).any() and (got["label"] == names).all()),
    }


def _write_manifest(
    folder: Path, spec: ModelSpec, metrics: dict[str, Any] | None, parity: list[dict[str, Any]]
) -> None:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "manifest.json")
    tools = ("tfsoftmax", "tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy")
    manifest = {
        "spec": dataclasses.asdict(spec),
        "metrics": metrics,
        "tools": {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in tools}},
        "files": {
            file.relative_to(folder).as_posix(): {
                "bytes": file.stat().st_size,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
            for file in files
        },
        "parity": parity,
    }
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def _publish(aside: Path, parent: Path) -> Path:
    """Rename ``aside`` to the next free version; a server that looks in between sees whole versions only."""
    while True:
        folder = parent / str(max(versions(parent), default=0) + 1)
        try:
            aside.rename(folder)
        except OSError:
            if folder.exists():  # another export took the number in the meantime
                continue
            raise
        return folder
