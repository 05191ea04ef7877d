"""One export of Fashion-MNIST, opened by the runtimes and checked against the protos of the servers of others."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from forked import Program
from onnx.reference import ReferenceEvaluator

import tfsoftmax

ROWS = 1000
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def exported(program, tmp_path_factory):
    """The program's model, exported with the 10,000 test images."""
    _, data, model = program
    test = data.test.rows
    return tfsoftmax.export(
        model, data.spec, tmp_path_factory.mktemp("interop") / "fashion", rows=test.x, labels=test.y
    )


@pytest.fixture(scope="module")
def images(program):
    return np.ascontiguousarray(program[1].test.rows.x[:ROWS])


@pytest.fixture(scope="module")
def logits(program, images):
    """By NumPy, in float64."""
    kernel, bias = program[2].get_weights()
    return (images.reshape(ROWS, -1) / 255.0) @ kernel.astype(np.float64) + bias


@pytest.fixture(scope="module")
def class_id(logits):
    return logits.argmax(axis=1)


def quiet():
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


def test_parity_on_the_test_images(exported, program):
    _, data, model = program
    test = data.test.rows
    kernel, bias = model.get_weights()
    right = ((test.x.reshape(len(test), -1) / 255.0 @ kernel + bias).argmax(axis=1) == test.y).mean()
    rows = {row["format"]: row for row in exported.parity}
    assert list(rows) == ["saved_model", "onnx", "litert", "onnx_int8", "litert_int8"]
    for name, row in rows.items():
        assert row["ok"]
        assert row["rows"] == 10_064, "all test images and the hard rows"
        assert row["model_accuracy"] == pytest.approx(right)
        if name.endswith("int8"):
            assert abs(row["accuracy"] - right) <= 0.005
            assert row["bytes"] <= 0.4 * rows[name.removesuffix("_int8")]["bytes"]
            assert row["classes"] > 0, "eight bits are not the same: else the file is not int8"
        else:
            assert row["logits"] <= 1e-4
            assert (row["classes"], row["accuracy"]) == (0, row["model_accuracy"])
        assert all(value > 0 for value in row["microseconds"].values())


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_onnx_checker(exported, file):
    onnx.checker.check_model(exported.folder / file, full_check=True)


def test_saved_model_cli(exported, images, class_id, tmp_path):
    np.save(tmp_path / "images.npy", images)

    def cli(*arguments):
        program, log = "from tensorflow.python.tools.saved_model_cli import main\nmain()", tmp_path / arguments[0]
        assert Program("-c", program, *arguments, log=log).wait(120) == 0, log.read_text()
        return log.read_text()

    shown = cli("show", "--dir", exported.folder, "--all")
    for text in (
        "inputs['image'] tensor_info:\n        dtype: DT_UINT8\n        shape: (-1, 28, 28)",
        "outputs['logits'] tensor_info:\n        dtype: DT_FLOAT\n        shape: (-1, 10)",
        "outputs['probabilities'] tensor_info:\n        dtype: DT_FLOAT\n        shape: (-1, 10)",
        "outputs['class_id'] tensor_info:\n        dtype: DT_INT64\n        shape: (-1)",
        "outputs['label'] tensor_info:\n        dtype: DT_STRING\n        shape: (-1)",
        "Method name is: tensorflow/serving/predict",
        "Method name is: tensorflow/serving/classify",
    ):
        assert text in shown
    signature = ("--tag_set", "serve", "--signature_def", "serving_default")
    inputs = f"image={tmp_path / 'images.npy'}"
    cli("run", "--dir", exported.folder, *signature, "--inputs", inputs, "--outdir", tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "class_id.npy"), class_id)


def test_tensorflow_c_library(exported, images, class_id, tmp_path):
    np.save(tmp_path / "images.npy", images)
    signature = signatures(exported)["serving_default"]
    source = signature.inputs["image"].name.split(":")[0]
    target = signature.outputs["class_id"].name.split(":")
    (library,) = Path(tf.__file__).parent.glob("libtensorflow_cc.*")
    command = [sys.executable, HERE / "runtimes" / "c_library.py", library, exported.folder, source, *target]
    done = subprocess.run(
        [*command, tmp_path / "images.npy", tmp_path / "ids.npy"], capture_output=True, text=True, env=quiet()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", "no TensorFlow for Python in that process"
    np.testing.assert_array_equal(np.load(tmp_path / "ids.npy"), class_id)


@pytest.mark.parametrize("path", [".", "model.onnx"])
def test_openvino(exported, images, logits, class_id, path):
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    model = core.compile_model(core.read_model(exported.folder / path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = model(images)
    np.testing.assert_array_equal(answers["class_id"], class_id)
    np.testing.assert_allclose(answers["logits"], logits, rtol=0, atol=1e-4)
    assert answers["label"].tolist() == [program_label(exported, i) for i in class_id]


def test_openvino_in_half_precision(exported, images, class_id):
    """Where the processor has none, OpenVINO takes bfloat16; the next test has half precision on every machine."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    for file in ("model.onnx", "model.int8.onnx"):
        model = core.read_model(exported.folder / file)
        answers = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f16"})(images)
        assert np.isfinite(answers["logits"]).all()
        assert (answers["class_id"] != class_id).mean() < 0.01


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_every_float_of_sixteen_bits(exported, images, logits, class_id, file):
    """The graph with float16 in place of float32, in ONNX's own evaluator, which rounds the result of every node."""
    model = onnx.load(exported.folder / file)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", onnx.TensorProto.FLOAT):
                attribute.i = onnx.TensorProto.FLOAT16
    for value in model.graph.output:
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    model.opset_import[0].version, model.ir_version = 21, 10  # DequantizeLinear to float16
    onnx.checker.check_model(model, full_check=True)
    evaluator = ReferenceEvaluator(model)
    answers = dict(zip(evaluator.output_names, evaluator.run(None, {"image": images}), strict=True))
    assert answers["logits"].dtype == np.float16
    np.testing.assert_allclose(answers["logits"], logits, rtol=0, atol=0.02 * np.ptp(logits))
    assert (answers["class_id"] != class_id).mean() < 0.01


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_onnx_runtime_web(exported, images, logits, class_id, tmp_path, file):
    modules = Path(sys.prefix) / "node_modules"
    if shutil.which("node") is None or not (modules / "onnxruntime-web").is_dir():
        pytest.skip(f"needs Node, and onnxruntime-web in {modules}: scripts/test installs it where there is npm")
    (tmp_path / "images").write_bytes(images.tobytes())
    command = ["node", HERE / "runtimes" / "ort_web.mjs", modules, exported.folder / file, tmp_path / "images"]
    done = subprocess.run([*command, str(ROWS)], capture_output=True, text=True, check=True)
    answers = json.loads(done.stdout)
    if file == "model.int8.onnx":  # whole numbers: the same in every runtime
        native = onnxruntime.InferenceSession(exported.folder / file).run(["class_id", "logits"], {"image": images})
        class_id, logits = native
    assert answers["class_id"] == class_id.tolist()
    np.testing.assert_allclose(np.reshape(answers["logits"], (ROWS, 10)), logits, rtol=0, atol=1e-4)
    assert answers["label"] == [program_label(exported, i) for i in class_id]


def program_label(exported, index):
    return (exported.folder / "assets" / "labels.txt").read_text().splitlines()[index]


def signatures(exported):
    from tensorflow.core.protobuf import saved_model_pb2

    content = (exported.folder / "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].signature_def


def test_classify_signature(exported, images, class_id, program):
    serve = tf.saved_model.load(str(exported.folder)).signatures["classify"]

    def example(values):
        feature = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        return tf.train.Example(features=tf.train.Features(feature={"image": feature})).SerializeToString()

    answers = serve(tf.constant([example(image.ravel().tolist()) for image in images[:20]]))
    assert answers["classes"].shape == answers["scores"].shape == (20, 10)
    names = [label.decode() for label in answers["classes"].numpy()[0]]
    assert names == list(program[1].classes)
    np.testing.assert_array_equal(answers["scores"].numpy().argmax(axis=1), class_id[:20])
    for value in (-1, 256):  # no wrapping around
        with pytest.raises(tf.errors.InvalidArgumentError):
            serve(tf.constant([example([value] * 784)]))


def test_warmup_requests_against_tensorflow_servings_protos(exported):
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    path = exported.folder / "assets.extra" / "tf_serving_warmup_requests"
    logs = [apis.PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    assert [log.WhichOneof("log_type") for log in logs] == ["predict_log", "predict_log", "classify_log"]
    served = tf.saved_model.load(str(exported.folder)).signatures
    for log in logs:
        request = getattr(log, log.WhichOneof("log_type")).request
        assert request.model_spec.name == "fashion"
        if log.HasField("predict_log"):
            assert request.model_spec.signature_name == "serving_default"
            assert list(request.inputs) == ["image"]
            rows = tf.make_ndarray(request.inputs["image"])
            assert len(served["serving_default"](image=tf.constant(rows))["class_id"]) == len(rows)
        else:
            assert request.model_spec.signature_name == "classify"
            examples = [example.SerializeToString() for example in request.input.example_list.examples]
            assert len(served["classify"](tf.constant(examples))["scores"]) == 1
        assert not request.FindInitializationErrors()


def test_triton_configuration_against_tritons_protos(exported):
    protos = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    text = (exported.folder.parent / "config.pbtxt").read_text()
    config = text_format.Parse(text, protos.ModelConfig())
    assert config.backend == "onnxruntime"
    assert config.max_batch_size >= 1
    assert config.HasField("dynamic_batching")
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx")
    kinds = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}
    kinds["tensor(string)"] = "TYPE_STRING"
    for described, real in [(config.input, session.get_inputs()), (config.output, session.get_outputs())]:
        assert [entry.name for entry in described] == [value.name for value in real]
        for entry, value in zip(described, real, strict=True):
            assert protos.DataType.Name(entry.data_type) == kinds[value.type]
            assert value.shape[0] == "batch"
            # what the model gives for a row, and what Triton shows for it
            inner = list(entry.reshape.shape) if entry.HasField("reshape") else list(entry.dims)
            assert inner == value.shape[1:]
            assert np.prod(entry.dims) == np.prod(inner)
    labels = {entry.name: entry.label_filename for entry in config.output}
    assert labels == {"logits": labels["logits"], "probabilities": labels["logits"], "class_id": "", "label": ""}
    lines = (exported.folder.parent / labels["logits"]).read_text().splitlines()
    manifest = json.loads((exported.folder / "manifest.json").read_text())
    assert lines == manifest["spec"]["classes"], "Triton names classes by the lines of this file"
