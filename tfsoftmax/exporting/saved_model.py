"""The SavedModel: its graph, the signatures that TensorFlow Serving looks for, its labels and warm-up requests."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfsoftmax._files import write_text
from tfsoftmax.columns import MISSING_INT, named
from tfsoftmax.exporting import by_name
from tfsoftmax.exporting.linear import Linear
from tfsoftmax.exporting.reference import hard_rows
from tfsoftmax.spec import ModelSpec

if TYPE_CHECKING:
    import tensorflow as tf


def graph(linear: Linear, kernel: Any, bias: Any, *, strings: bool = True) -> tf.types.experimental.PolymorphicFunction:
    """The served graph: raw inputs in; ``logits``, ``probabilities``, ``class_id``, with ``strings`` ``label`` out.

    Args:
        linear: has the shapes and the preprocessing.
        kernel: its kernel as an array, which becomes a constant of the graph, or as a variable.
        bias: its bias, the same.
        strings: add the output ``label``.
    """
    import tensorflow as tf

    from tfsoftmax.columns import features
    from tfsoftmax.rows import preprocess

    spec = linear.spec

    def answer(raw: tf.Tensor) -> dict[str, tf.Tensor]:
        # constants are made in here: captured from outside, tf2onnx would turn them into inputs
        x = features(spec, raw) if linear.folded else preprocess(spec, raw)
        x = tf.reshape(x, (-1, linear.kernel.shape[0]))
        logits = tf.matmul(x, tf.convert_to_tensor(kernel)) + tf.convert_to_tensor(bias)
        class_id = tf.argmax(logits, axis=1, output_type=tf.int64)
        answers = {"logits": logits, "probabilities": tf.nn.softmax(logits), "class_id": class_id}
        return {**answers, "label": tf.gather(tf.constant(spec.classes), class_id)} if strings else answers

    signature = tf.TensorSpec((None, *spec.shape), spec.dtype, name=spec.input_name)
    return tf.function(answer, input_signature=[signature], autograph=False)


@contextlib.contextmanager
def plain(folder: Path) -> Iterator[str]:
    """A path of ``folder`` without the signs of patterns: TensorFlow looks for variables by pattern."""
    if not set(str(folder)) & set("*?[]\\"):
        yield str(folder)
        return
    with tempfile.TemporaryDirectory() as aside:
        link = Path(aside) / "model"
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield str(link)


def write(linear: Linear, folder: Path) -> None:
    """Write ``saved_model.pb``, ``variables/``, ``assets/labels.txt`` and ``assets.extra/``."""
    import tensorflow as tf

    spec = linear.spec
    module = tf.Module()
    module.kernel, module.bias = tf.Variable(linear.kernel, name="kernel"), tf.Variable(linear.bias, name="bias")
    module.answer = graph(linear, module.kernel, module.bias)
    if spec.columns:
        lookup = by_name.Lookup(spec)
        module.tables, of_rows = lookup.tables, module.answer
        module.answer = _by_name(of_rows, lookup)
    module.classify = _classify(module.answer, spec)
    signatures = {"serving_default": module.answer, "classify": module.classify}
    with plain(folder) as path:
        tf.saved_model.save(module, path, signatures=signatures)
        # TensorFlow 2 calls every signature a predict one; TensorFlow Serving classifies only with those called so
        updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(path)
        updater.replace_method_name("classify", "tensorflow/serving/classify", tags="serve")
        updater.save()
    _name_inputs(spec, folder / "saved_model.pb")
    (folder / "fingerprint.pb").unlink(missing_ok=True)  # optional, and of the file as it was before
    for name in ("assets", "assets.extra"):
        (folder / name).mkdir(exist_ok=True)
    write_text(folder / "assets" / "labels.txt", "".join(f"{name}\n" for name in spec.classes))
    _write_warmup(spec, folder)


def _by_name(of_rows: Any, lookup: by_name.Lookup) -> Any:
    """The graph of a table: one input per column."""
    import tensorflow as tf

    def answer(**given: tf.Tensor) -> dict[str, tf.Tensor]:
        answers: dict[str, tf.Tensor] = of_rows(lookup.raw(given))
        return answers

    specs = [by_name.tensor_spec(place, column) for place, column in enumerate(lookup.spec.columns)]
    return tf.function(answer, autograph=False).get_concrete_function(**{spec.name: spec for spec in specs})


def _name_inputs(spec: ModelSpec, path: Path) -> None:
    """Give the inputs of a table the names of their columns, where TensorFlow's functions cannot have them."""
    from tensorflow.core.protobuf import saved_model_pb2

    names = {by_name.argument(place, column): column.name for place, column in enumerate(spec.columns)}
    if all(name == argument for argument, name in names.items()):
        return
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    inputs = saved.meta_graphs[0].signature_def["serving_default"].inputs
    found = {names[argument]: inputs[argument] for argument in list(inputs)}
    tensors = {name: type(info).FromString(info.SerializeToString()) for name, info in found.items()}
    inputs.clear()
    for name, info in tensors.items():
        inputs[name].CopyFrom(info)
    path.write_bytes(saved.SerializeToString(deterministic=True))


def _classify(answer: Any, spec: ModelSpec) -> tf.types.experimental.PolymorphicFunction:
    """The signature for ``tf.Example``s: one feature named as the graph input, flattened; all classes with scores."""
    import tensorflow as tf

    pictures = spec.dtype == "uint8"
    impute = spec.missing == "impute"

    def columns(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        features = {}
        for place, column in enumerate(spec.columns):
            dtype = by_name.tensor_spec(place, column).dtype
            absent = {tf.float32: np.nan, tf.string: "", tf.int64: MISSING_INT}[dtype]
            features[column.name] = tf.io.FixedLenFeature((), dtype, absent if impute else None)
        parsed = tf.io.parse_example(inputs, features)
        return {by_name.argument(place, column): parsed[column.name] for place, column in enumerate(spec.columns)}

    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        if spec.columns:
            return scored(answer(**columns(inputs)))
        feature = tf.io.FixedLenFeature(spec.shape, tf.int64 if pictures else tf.float32)
        raw = tf.io.parse_example(inputs, {spec.input_name: feature})[spec.input_name]
        if pictures:  # a cast would wrap around
            tf.debugging.assert_non_negative(raw)
            tf.debugging.assert_less(raw, tf.constant(256, raw.dtype))
            raw = tf.cast(raw, tf.uint8)
        return scored(answer(raw))

    def scored(answers: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        scores = answers["probabilities"]
        names = tf.tile(tf.constant([spec.classes]), [tf.shape(scores)[0], 1])
        return {"classes": names, "scores": scores}

    return tf.function(classify, input_signature=[tf.TensorSpec((None,), tf.string, name="inputs")], autograph=False)


def _write_warmup(spec: ModelSpec, folder: Path) -> None:
    """Requests that TensorFlow Serving runs before it lets a version answer: ``PredictionLog`` records of a TFRecord.

    The messages are put together from their field numbers (``tensorflow_serving/apis/*.proto``), because the package
    that holds them is large and of no other use here.
    """
    import tensorflow as tf

    rows = hard_rows(spec)
    name = folder.resolve().parent.name.encode()
    records = []
    for count in (1, 32):
        given = named(spec, rows[:count]) if spec.columns else {spec.input_name: rows[:count]}
        tensors = [(key.encode(), tf.make_tensor_proto(value)) for key, value in given.items()]
        inputs = [_message((1, key), (2, value.SerializeToString(deterministic=True))) for key, value in tensors]
        request = _message((1, _message((1, name), (3, b"serving_default"))), *((2, one) for one in inputs))
        records.append(_message((6, _message((1, request)))))
    given = named(spec, rows[1:2]) if spec.columns else {spec.input_name: rows[1]}
    features = tf.train.Features(feature={key: _feature(value) for key, value in given.items()})
    example = tf.train.Example(features=features)
    examples = _message((1, _message((1, example.SerializeToString(deterministic=True)))))
    request = _message((1, _message((1, name), (3, b"classify"))), (2, examples))
    records.append(_message((2, _message((1, request)))))
    with tf.io.TFRecordWriter(str(folder / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for record in records:
            writer.write(record)


def _feature(values: np.ndarray) -> tf.train.Feature:
    import tensorflow as tf

    flat = values.ravel().tolist()
    if values.dtype == object:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode() for text in flat]))
    if values.dtype.kind in "iu":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=flat))
    return tf.train.Feature(float_list=tf.train.FloatList(value=flat))


def _message(*fields: tuple[int, bytes]) -> bytes:
    """A protocol buffer message of length-delimited fields ``(number, content)``."""

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    return b"".join(varint(number << 3 | 2) + varint(len(content)) + content for number, content in fields)


def read(folder: Path, spec: ModelSpec) -> Any:
    """Open the SavedModel in TensorFlow; returns the function that answers as ``Format.open`` says."""
    import tensorflow as tf

    with plain(folder) as path:
        loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]

    def inputs(raw: np.ndarray) -> dict[str, np.ndarray]:
        if not spec.columns:
            (name,) = serve.structured_input_signature[1]
            return {name: raw}
        given = named(spec, raw)
        return {by_name.argument(place, column): given[column.name] for place, column in enumerate(spec.columns)}

    def answer(raw: np.ndarray) -> dict[str, np.ndarray]:
        given = {name: tf.constant(values) for name, values in inputs(raw).items()}
        answers = {key: value.numpy() for key, value in serve(**given).items()}
        answers["label"] = np.array([label.decode() for label in answers["label"]], object)
        return answers

    answer.__dict__["keeps"] = loaded  # the signature alone does not hold the variables
    return answer
