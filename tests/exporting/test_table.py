"""Exports of a table: each file takes columns by name, as text, in the runtime that will read it."""

import dataclasses
import json

import keras
import made
import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

import tfsoftmax
from tfsoftmax.exporting.verify import verify
from tfsoftmax.spec import Column, ModelSpec

ODD = '=größe "<b>" /1'  # no name of a variable
COLUMNS = (
    Column("age", "number", "float32", offset=40, scale=0.1, fill=41.0, gaps=True),
    Column("job", "category", "string", values=("clerk", "cook", "größe"), gaps=True),
    Column(ODD, "category", "int64", values=("3", "200")),
    Column("self", "number", "bool", offset=0.5, scale=2, fill=0.25),
    Column("never", "category", "string"),
)
SPEC = ModelSpec("t", (5,), "float32", ("a", "b,", 'c"<i>'), "standardize", 0, 1, COLUMNS, "impute")
# as users have them: None is missing; "pilot" and 77 were not seen in training
ROWS = {
    "age": [31.0, None, 50.5, 44.0, 28.0, 90.0],
    "job": ["cook", "größe", None, "pilot", "clerk", ""],
    ODD: [3, 200, 77, None, 3, 200],
    "self": [1.0, 0.0, None, 1.0, 0.0, 1.0],
    "never": ["x", None, "", "y", "z", "x"],
}


def by_hand(kernel, bias):
    """Logits of ROWS, feature by feature: numbers, then the blocks of age, job and the odd one."""
    logits = []
    for age, job, odd, self_, _ in zip(*ROWS.values(), strict=True):
        x = [((41.0 if age is None else age) - 40) * 0.1, ((0.25 if self_ is None else self_) - 0.5) * 2]
        x += [age is None, *(job == value for value in COLUMNS[1].values), job in (None, ""), odd == 3, odd == 200]
        logits.append(np.array(x, float) @ kernel + bias)
    return np.array(logits)


def given():
    """ROWS as the graphs take them."""
    return {
        "age": np.array([np.nan if v is None else v for v in ROWS["age"]], np.float32),
        "job": np.array([v or "" for v in ROWS["job"]], object),
        ODD: np.array([-(2**63) if v is None else v for v in ROWS[ODD]], np.int64),
        "self": np.array([np.nan if v is None else v for v in ROWS["self"]], np.float32),
        "never": np.array([v or "" for v in ROWS["never"]], object),
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = made.model_of(SPEC)
    path = tmp_path_factory.mktemp("table") / "people"
    return tfsoftmax.export(model, SPEC, path), by_hand(*model.get_weights())


def check(answers, logits):
    np.testing.assert_allclose(answers["logits"], logits, atol=1e-5)
    np.testing.assert_array_equal(answers["class_id"], logits.argmax(axis=1))
    labels = [label.decode() if isinstance(label, bytes) else label for label in np.asarray(answers["label"]).tolist()]
    assert labels == [SPEC.classes[k] for k in logits.argmax(axis=1)]
    np.testing.assert_allclose(np.asarray(answers["probabilities"]).sum(axis=1), 1, atol=1e-6)


def test_parity(exported):
    assert SPEC.features == (9,)
    assert [row["format"] for row in exported[0].parity if row["classes"]] == []
    (again,) = verify(exported[0].folder)
    assert all(row["ok"] for row in again.parity)


@pytest.mark.parametrize("runtime", ["ONNX Runtime", "onnx.reference"])
@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_onnx(exported, runtime, file):
    (_done, logits), path = exported, exported[0].folder / file
    if runtime == "ONNX Runtime":
        session = onnxruntime.InferenceSession(path)
    else:
        session = onnx.reference.ReferenceEvaluator(str(path))
    outputs = ["logits", "probabilities", "class_id", "label"]
    answers = dict(zip(outputs, session.run(outputs, given()), strict=True))
    if "int8" in file:
        assert np.abs(answers["logits"] - logits).max() < 0.02 * np.ptp(logits)
    else:
        check(answers, logits)
    assert {value.name for value in onnx.load(path).graph.input} == set(ROWS)


def test_saved_model_as_tensorflow_serving_reads_it(exported):
    done, logits = exported
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(done.folder))
        signature = loaded.signature_def["serving_default"]
        assert set(signature.inputs) == set(ROWS)
        feed = {signature.inputs[name].name: values for name, values in given().items()}
        check(session.run({name: info.name for name, info in signature.outputs.items()}, feed), logits)


def test_examples(exported):
    done, logits = exported
    examples = []
    for k in range(6):
        row = {name: values[k] for name, values in ROWS.items() if values[k] is not None}
        examples.append(tf.train.Example(features=tf.train.Features(feature={n: feature(v) for n, v in row.items()})))
    classify = tf.saved_model.load(str(done.folder)).signatures["classify"]
    answers = classify(inputs=tf.constant([example.SerializeToString() for example in examples]))
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers["scores"], expected, atol=1e-6)


def feature(value):
    if isinstance(value, str):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
    if isinstance(value, int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))


def test_triton_configuration(exported):
    text = (exported[0].folder.parent / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    types = {given.name: model_config_pb2.DataType.Name(given.data_type) for given in config.input}
    assert types == {
        "age": "TYPE_FP32", "job": "TYPE_STRING", ODD: "TYPE_INT64", "self": "TYPE_FP32", "never": "TYPE_STRING"
    }  # fmt: skip
    assert all(given.dims == [1] and given.reshape.shape == [] for given in config.input)


def test_all_words_and_all_numbers(tmp_path, capfd):
    for kind, columns in (("words", COLUMNS[1:3]), ("numbers", COLUMNS[3:4])):
        spec = dataclasses.replace(SPEC, shape=(len(columns),), columns=columns, missing="refuse")
        model = keras.Sequential([keras.Input(spec.features), keras.layers.Flatten(), keras.layers.Dense(3)])
        done = tfsoftmax.export(model, spec, tmp_path / kind)
        assert [row["format"] for row in done.parity] == ["saved_model", "onnx", "litert", "onnx_int8"]
    assert "onnxruntime" not in capfd.readouterr().err  # it warns of constants that nothing uses


def test_large_numbers_do_not_cost_the_words_their_bits(tmp_path):
    """A column of incomes, some of them 200 deviations from the mean, whose weight is small."""
    spec = dataclasses.replace(SPEC, shape=(3,), columns=COLUMNS[:3], missing="impute")
    model = tfsoftmax.SoftmaxRegression(3)
    model.build((None, *spec.features))
    kernel = np.random.default_rng(1).normal(size=(*spec.features, 3)).astype(np.float32)
    kernel[0] *= 0.01
    model.set_weights([kernel, np.zeros(3, np.float32)])
    rng = np.random.default_rng(2)
    rows = np.stack([40 + 10 * rng.standard_t(1, 500), rng.integers(-1, 3, 500), rng.integers(-1, 2, 500)], axis=1)
    done = tfsoftmax.export(model, spec, tmp_path, rows=rows.astype(np.float32))
    assert all(row["ok"] for row in done.parity)


def test_how_a_row_is_encoded_is_said(exported):
    from tensorflow.lite.python import schema_py_generated as schema

    folder = exported[0].folder
    model = schema.ModelT.InitFromPackedBuf((folder / "model.tflite").read_bytes(), 0)
    (buffer,) = [entry.buffer for entry in model.metadata if entry.name == b"tfsoftmax_spec"]
    told = ModelSpec.from_dict(json.loads(bytes(model.buffers[buffer].data)), "metadata")
    assert told == SPEC
    card = (folder.parent / "README.md").read_text()
    assert '| =größe "&lt;b>" /1 | int64 | 2 values: 3, 200 |' in card
    assert "A missing value is NaN, the empty string, or the smallest int64." in card
