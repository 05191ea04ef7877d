import concurrent.futures
import dataclasses
import errno
import hashlib
import importlib
import json
import os
import shutil
import stat

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from conftest import CLASSES, SHAPE

import tfsoftmax
from tfsoftmax.exporting.formats import EXPORTERS
from tfsoftmax.exporting.manifest import verify_files


@pytest.fixture(scope="module")
def raw():
    return np.random.default_rng(5).integers(0, 256, (40, *SHAPE)).astype(np.uint8)


def expected(run, raw):
    """The answers, computed by NumPy from the weights."""
    kernel, bias = run.model.get_weights()
    logits = (raw.reshape(len(raw), -1) / 255.0) @ kernel + bias
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    class_id = logits.argmax(axis=1)
    return {
        "logits": logits,
        "probabilities": exps / exps.sum(axis=1, keepdims=True),
        "class_id": class_id,
        "label": [CLASSES[i] for i in class_id],
    }


def check(answers, wanted):
    assert set(answers) == set(wanted)
    np.testing.assert_allclose(answers["logits"], wanted["logits"], atol=1e-5)
    np.testing.assert_allclose(answers["probabilities"], wanted["probabilities"], atol=1e-5)
    np.testing.assert_array_equal(answers["class_id"], wanted["class_id"])
    assert answers["class_id"].dtype == np.int64
    if "label" in wanted:
        assert [label.decode() if isinstance(label, bytes) else label for label in answers["label"]] == wanted["label"]


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_files_answer_as_numpy_does(finished, raw, batch):
    run, done = finished
    wanted = expected(run, raw[:batch])
    serve = tf.saved_model.load(str(done.folder)).signatures["serving_default"]
    check({name: value.numpy() for name, value in serve(image=tf.constant(raw[:batch])).items()}, wanted)
    session = onnxruntime.InferenceSession(done.folder / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    check(dict(zip(names, session.run(None, {"image": raw[:batch]}), strict=True)), wanted)
    litert = Interpreter(str(done.folder / "model.tflite")).get_signature_runner("serving_default")
    check(litert(image=raw[:batch]), {name: wanted[name] for name in ("logits", "probabilities", "class_id")})
    check(tfsoftmax.Predictor(done.folder.parent)(raw[:batch]), wanted)


def test_onnx_file_is_valid_and_named(finished):
    graph = onnx.load(finished[1].folder / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    (image,) = graph.graph.input
    assert image.name == "image"
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in image.type.tensor_type.shape.dim][1:] == list(SHAPE)
    assert image.type.tensor_type.shape.dim[0].dim_value == 0, "any batch"
    assert [output.name for output in graph.graph.output] == ["logits", "probabilities", "class_id", "label"]
    assert graph.producer_name == "tfsoftmax"
    said = {entry.key: json.loads(entry.value) for entry in graph.metadata_props}
    assert said["labels"] == list(CLASSES)
    assert said["spec"]["shape"] == list(SHAPE)
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds == ["Cast", "Reshape", "MatMul", "Add", "Softmax", "ArgMax", "Gather"], "the scale is in the weights"


def test_folder_and_manifest(finished):
    run, done = finished
    assert (done.folder / "assets" / "labels.txt").read_text().splitlines() == list(CLASSES)
    manifest = json.loads((done.folder / "manifest.json").read_text())
    files = {
        path.relative_to(done.folder).as_posix(): path
        for path in done.folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert {"saved_model.pb", "model.onnx", "assets/labels.txt"} <= set(files) == set(manifest["files"])
    for name, path in files.items():
        content = path.read_bytes()
        assert manifest["files"][name] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert manifest["metrics"] == run.metrics
    assert manifest["spec"]["classes"] == list(CLASSES)
    assert [row["format"] for row in manifest["parity"]] == list(EXPORTERS)
    for row in manifest["parity"]:
        assert row["ok"]
        assert EXPORTERS[row["format"]].int8 or (row["logits"] <= 1e-4 and row["classes"] == 0)
    assert verify_files(done.folder) == manifest
    assert stat.S_IMODE(done.folder.stat().st_mode) == 0o755, "a server under another user can read it"


def test_versions_count_up_and_what_others_wrote_stays(finished, tmp_path):
    run, _ = finished
    (tmp_path / "7" / "variables").mkdir(parents=True)
    for other in ("notes", ".export-mine", ".tfsoftmax-export-mine", ".tfsoftmax-export-00left00", "x8", "010"):
        (tmp_path / other).mkdir()
    (tmp_path / "8").write_text("a file")
    (tmp_path / "README.md").write_text("# My project\n")
    with pytest.raises(tfsoftmax.InputError, match=r"README.md' was not written by export, .*: move it away"):
        tfsoftmax.export(run.model, run.spec, tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My project\n"
    (tmp_path / "README.md").unlink()
    assert tfsoftmax.export(run.model, run.spec, tmp_path).folder.name == "9"
    assert tfsoftmax.export(run.model, run.spec, tmp_path).folder.name == "10"
    assert tfsoftmax.Predictor(tmp_path).folder.name == "10"
    others = [".export-mine", ".tfsoftmax-export-mine", "010", "7", "8", "notes", "x8"]
    beside = ["README.md", "config.pbtxt", *others]
    assert sorted(os.listdir(tmp_path)) == sorted(["9", "10", *beside]), "what was left by a killed one is gone"
    with pytest.raises(tfsoftmax.InputError, match=r"version 9 is in .* already"):
        tfsoftmax.export(run.model, run.spec, tmp_path, version=9)
    written = (tmp_path / "config.pbtxt").read_text()
    (tmp_path / "config.pbtxt").write_text(written.replace("1024", "8"))
    with pytest.raises(tfsoftmax.InputError, match=r"config.pbtxt' .* has been changed since: move it away"):
        tfsoftmax.export(run.model, run.spec, tmp_path)
    (tmp_path / "config.pbtxt").write_text(written)
    shutil.rmtree(tmp_path / "10")  # as one rolls back; what stands beside is of no version now
    (tmp_path / "9" / "notes.txt").write_text("mine")
    done = tfsoftmax.export(run.model, run.spec, tmp_path, version=12, keep=1)
    assert (done.folder.name, done.removed) == ("12", []), "a version with a file of others stays"
    (tmp_path / "9" / "notes.txt").unlink()
    done = tfsoftmax.export(run.model, run.spec, tmp_path, version=11, keep=1)
    assert (done.folder.name, done.removed) == ("11", [9]), "a newer one stays"
    assert sorted(os.listdir(tmp_path)) == sorted(["11", "12", *beside])
    for name in ("version", "keep"):
        with pytest.raises(tfsoftmax.InputError, match=f"{name} must be a whole number of at least 1, got 0"):
            tfsoftmax.export(run.model, run.spec, tmp_path, **{name: 0})


def test_two_exports_at_once_take_two_versions(finished, tmp_path):
    run, _ = finished
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: tfsoftmax.export(run.model, run.spec, tmp_path), range(2)))
    assert sorted(one.folder.name for one in done) == ["1", "2"]
    assert sorted(os.listdir(tmp_path)) == ["1", "2", "README.md", "config.pbtxt"]


def test_the_same_run_gives_the_same_files(finished, tmp_path):
    run, done = finished
    val = run.data().val.rows
    again = tfsoftmax.export(run.model, run.spec, tmp_path / "tiny", rows=val.x, labels=val.y).folder
    for name in ("model.onnx", "model.int8.onnx", "model.tflite", "model.int8.tflite", "reference.npz"):
        assert (again / name).read_bytes() == (done.folder / name).read_bytes()
    warmup = "assets.extra/tf_serving_warmup_requests"
    assert (again / warmup).read_bytes() == (done.folder / warmup).read_bytes()
    one, two = (tf.saved_model.load(str(folder)) for folder in (again, done.folder))
    for name in ("serving_default", "classify"):
        one_graph, two_graph = (loaded.signatures[name].graph.as_graph_def() for loaded in (one, two))
        assert [(node.op, node.attr["dtype"]) for node in one_graph.node] == [
            (node.op, node.attr["dtype"]) for node in two_graph.node
        ]
    for name in ("kernel", "bias"):
        assert (getattr(one, name).numpy() == getattr(two, name).numpy()).all()


def test_model_card(finished, source):
    run, done = finished
    card = (done.folder.parent / "README.md").read_text()
    metrics = run.metrics["test"]
    assert f"| test | 50 | {metrics['loss']:.4f} | {metrics['accuracy']:.4f} |" in card
    assert "{:.4f} to {:.4f}".format(*metrics["accuracy_95"]) in card
    for figures in metrics["classes"]:
        assert f"| {figures['name']} | {figures['count']} |" in card
    assert "38 validation rows, drawn from the training split by seed 0" in card
    for server in ("tensorflow_model_server", "tritonserver", "KServe", "ONNX Runtime", "LiteRT", "tfsoftmax serve"):
        assert server in card
    for row in done.parity:
        assert f"| `{row['file']}` | {row['runtime']} | {row['bytes']:,} |" in card


def test_a_card_without_figures(finished, tmp_path):
    """Into a folder that is reached by a link: the name as given."""
    run, _ = finished
    (tmp_path / "real").mkdir()
    (tmp_path / "demo").symlink_to("real")
    done = tfsoftmax.export(run.model, run.spec, tmp_path / "demo")
    card = (tmp_path / "demo" / "README.md").read_text()
    assert card.startswith("# demo\n")
    assert "--model_name=demo" in card
    assert "Not measured" in card
    assert repr(done).splitlines()[0] == f"exported version 1: {tmp_path / 'demo' / '1'}"
    assert [line.split()[0] for line in repr(done).splitlines()[1:]] == ["format", *EXPORTERS]


@pytest.mark.parametrize("preprocess", ["center", "standardize"])
def test_preprocessing_is_inside(source, raw, tmp_path, preprocess):
    data = tfsoftmax.Data(source, batch_size=32, preprocess=preprocess)
    model = tfsoftmax.SoftmaxRegression(3, lr=0.05)
    model.fit(data.train, verbose=0)
    tfsoftmax.export(model, data.spec, tmp_path, rows=data.val.rows.x)
    x = (raw - np.reshape(data.spec.offset, SHAPE)) * np.reshape(
        data.spec.scale, SHAPE if preprocess != "center" else ()
    )
    np.testing.assert_allclose(tfsoftmax.Predictor(tmp_path)(raw)["logits"], model(x.astype(np.float32)), atol=1e-5)


def test_tables_of_floats(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 4)).astype(np.float32), rng.integers(0, 2, 90)
    data = tfsoftmax.Data(tfsoftmax.Source("table", x, y, x, y, ("no", "yes")), preprocess="standardize")
    model = tfsoftmax.SoftmaxRegression(2)
    model.fit(data.train, verbose=0)
    tfsoftmax.export(model, data.spec, tmp_path)
    answers = tfsoftmax.Predictor(tmp_path)(x)
    standard = (x - np.array(data.spec.offset, np.float32)) * np.array(data.spec.scale, np.float32)
    np.testing.assert_allclose(answers["logits"], model(standard), atol=1e-5)
    classify = tf.saved_model.load(str(tmp_path / "1")).signatures["classify"]
    features = tf.train.Feature(float_list=tf.train.FloatList(value=x[0].tolist()))
    example = tf.train.Example(features=tf.train.Features(feature={"features": features})).SerializeToString()
    np.testing.assert_allclose(classify(tf.constant([example]))["scores"], answers["probabilities"][:1], atol=1e-5)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "{{function_node a}} No space left on device [Op:SaveV2]"),
    ],
)
def test_a_full_disk_leaves_what_was_there(finished, tmp_path, monkeypatch, error):
    run, _ = finished
    tfsoftmax.export(run.model, run.spec, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_):
        raise error

    monkeypatch.setattr("tfsoftmax.exporting.manifest.write_text", full)
    with pytest.raises(tfsoftmax.ExportError, match=r"cannot write into '[^']*': No space left on device$"):
        tfsoftmax.export(run.model, run.spec, tmp_path, keep=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_tables_far_from_zero_in_different_units(tmp_path):
    """Folded in, such offsets would cost float32 most of its digits: so they are not."""
    rng = np.random.default_rng(1)
    centre, width = rng.uniform(-1e5, 1e5, 60), 10.0 ** rng.uniform(-1, 3, 60)
    z = rng.normal(size=(300, 60))
    y = (z[:, :20] + 0.5 * rng.normal(size=(300, 20))).argmax(axis=1)
    x = (centre + width * z).astype(np.float32)
    data = tfsoftmax.Data(
        tfsoftmax.Source("units", x, y, x, y, tuple(f"größe {i}" for i in range(20))), preprocess="standardize"
    )
    model = tfsoftmax.SoftmaxRegression(20, lr=0.5)
    model.fit(data.train, epochs=20, verbose=0)
    done = tfsoftmax.export(model, data.spec, tmp_path, rows=x, labels=y)
    rows = {row["format"]: row for row in done.parity}
    assert rows["onnx"]["accuracy"] > 0.5
    answers = onnxruntime.InferenceSession(done.folder / "model.onnx").run(["logits"], {"features": x})[0]
    offset, scale = (np.float32(value).astype(np.float64) for value in (data.spec.offset, data.spec.scale))
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(answers, ((x - offset) * scale) @ kernel + bias, atol=1e-4)
    for name in ("onnx", "litert"):
        assert rows[f"{name}_int8"]["bytes"] < rows[name]["bytes"]
    kinds = [node.op_type for node in onnx.load(done.folder / "model.onnx").graph.node]
    assert kinds[:3] == ["Cast", "Sub", "Mul"] or kinds[:2] == ["Sub", "Mul"]
    assert (done.folder / "assets" / "labels.txt").read_text(encoding="utf-8").splitlines() == list(data.classes)
    assert tfsoftmax.Predictor(tmp_path)(x[:1])["label"][0].startswith("größe ")
    assert [one.folder for one in tfsoftmax.verify(tmp_path)] == [done.folder]


def only_onnx(monkeypatch):
    """What the other formats do is seen elsewhere, and takes seconds."""
    module = importlib.import_module("tfsoftmax.export")  # the package's attribute of this name is the function
    monkeypatch.setattr(module, "EXPORTERS", {"onnx": EXPORTERS["onnx"]})


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_keras_precision_policies(source, raw, tmp_path, monkeypatch, policy):
    """Ours is float32 under each of them; one that Keras makes computes in it, and its files in float32."""
    only_onnx(monkeypatch)
    before, weights = keras.config.dtype_policy(), []
    try:
        for name in ("float32", policy):
            keras.config.set_dtype_policy(name)
            data = tfsoftmax.Data(source, batch_size=32)
            model = tfsoftmax.SoftmaxRegression(3, 0.5)
            model.fit(data.train, epochs=2, verbose=0)
            weights.append(model.get_weights())
        tfsoftmax.export(model, data.spec, tmp_path / "ours")
        plain = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(3)])
        plain.set_weights(weights[0])
        tfsoftmax.export(plain, data.spec, tmp_path / "plain")
    finally:
        keras.config.set_dtype_policy(before)
    np.testing.assert_array_equal(weights[1][0], weights[0][0])
    (kernel, bias) = (array.astype(np.float64) for array in weights[0])
    wanted = (raw.reshape(len(raw), -1) / 255) @ kernel + bias
    for name in ("ours", "plain"):
        np.testing.assert_allclose(tfsoftmax.Predictor(tmp_path / name)(raw)["logits"], wanted, atol=1e-5)


def test_a_dense_without_bias(finished, raw, tmp_path, monkeypatch):
    only_onnx(monkeypatch)
    dense = keras.layers.Dense(3, use_bias=False, kernel_initializer=keras.initializers.RandomNormal(seed=1))
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), dense])
    tfsoftmax.export(model, finished[0].spec, tmp_path)
    wanted = (raw.reshape(len(raw), -1) / 255) @ dense.get_weights()[0].astype(np.float64)
    np.testing.assert_allclose(tfsoftmax.Predictor(tmp_path)(raw)["logits"], wanted, atol=1e-5)


def test_a_path_that_looks_like_a_pattern(finished, tmp_path):
    """TensorFlow takes the paths of variables for patterns, by which they match nothing, or another folder."""
    run, _ = finished
    folder = tmp_path / "[a]\\*?" / "x[1]"
    done = tfsoftmax.export(run.model, run.spec, folder)
    assert done.folder == folder / "1"
    (kept,) = tfsoftmax.verify(folder)
    assert kept.unlisted == []
    assert (folder / "README.md").read_text().startswith("# x[1]\n")
    assert not list(folder.glob(".export-*"))


def test_arguments_that_are_refused(finished, source, tmp_path):
    run, _ = finished
    for arguments, text in [
        ((run.model, None, tmp_path), "spec must be a ModelSpec such as data.spec, got NoneType"),
        ((run.model, source, tmp_path), "got Source"),
        ((None, run.spec, tmp_path), "model must be a Keras model such as .* got NoneType"),
        ((run.model, run.spec, None), "path must be the export folder's, got None"),
    ]:
        with pytest.raises(tfsoftmax.InputError, match=text):
            tfsoftmax.export(*arguments)
    with pytest.raises(tfsoftmax.InputError, match="labels without rows"):
        tfsoftmax.export(run.model, run.spec, tmp_path, labels=source.y_test)
    for mode in ("int8", "float8"):
        model = keras.models.clone_model(run.model)
        model.layers[-1].quantize(mode)
        with pytest.raises(tfsoftmax.InputError, match=rf"the model is quantized \({mode}\)"):
            tfsoftmax.export(model, run.spec, tmp_path)
    huge = keras.models.clone_model(run.model)
    huge.set_weights([np.full((30, 3), 2e37), np.zeros(3)])  # 30 of them, for a picture all white: 6e38
    with pytest.raises(tfsoftmax.InputError, match="a picture's logits can be beyond float32"):
        tfsoftmax.export(huge, run.spec, tmp_path)
    assert os.listdir(tmp_path) == []


def test_models_that_are_refused(finished, tmp_path):
    run, _ = finished
    for model, spec, text in [
        (tfsoftmax.SoftmaxRegression(3), run.spec, "no weights yet"),
        (keras.Sequential([keras.layers.Input(SHAPE), keras.layers.Flatten()]), run.spec, "Flatten and a linear Dense"),
        (run.model, dataclasses.replace(run.spec, classes=("a", "b")), r"kernel has shape \(30, 3\)"),
    ]:
        with pytest.raises(tfsoftmax.InputError, match=text):
            tfsoftmax.export(model, spec, tmp_path)
    bad = keras.models.clone_model(run.model)
    bad.set_weights([np.full((30, 3), np.nan), np.zeros(3)])
    with pytest.raises(tfsoftmax.InputError, match="not all finite"):
        tfsoftmax.export(bad, run.spec, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(tfsoftmax.InputError, match="is a file, not an export folder"):
        tfsoftmax.export(run.model, run.spec, tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]
