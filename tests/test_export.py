import dataclasses
import hashlib
import json
import os
import stat

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from conftest import CLASSES, SHAPE

import tfsoftmax
from tfsoftmax.export import EXPORTERS, Format


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
    check(tfsoftmax.Predictor(done.folder.parent)(raw[:batch]), wanted)


def test_onnx_file_is_valid_and_named(finished):
    graph = onnx.load(finished[1].folder / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    (image,) = graph.graph.input
    assert image.name == "image"
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in image.type.tensor_type.shape.dim][1:] == list(SHAPE)
    assert image.type.tensor_type.shape.dim[0].dim_value == 0, "any batch"
    assert {output.name for output in graph.graph.output} == {"logits", "probabilities", "class_id", "label"}


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
    assert all(row["ok"] and row["logits"] <= 1e-4 and row["classes"] == 0 for row in manifest["parity"])
    assert stat.S_IMODE(done.folder.stat().st_mode) == 0o755, "a server under another user can read it"


def test_versions_count_up(finished, tmp_path):
    run, _ = finished
    for other in ("7", "notes", ".export-old", "x8"):
        (tmp_path / other).mkdir()
    assert tfsoftmax.export(run.model, run.spec, tmp_path).folder.name == "8"
    assert tfsoftmax.export(run.model, run.spec, tmp_path).folder.name == "9"
    assert tfsoftmax.Predictor(tmp_path).folder.name == "9"
    assert sorted(os.listdir(tmp_path)) == [".export-old", "7", "8", "9", "notes", "x8"]


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


def broken(name):
    """A format whose file answers with other logits than the model."""
    good = EXPORTERS["onnx"]

    def write(kernel, bias, spec, folder):
        good.write(kernel + (1e-3 if name == "onnx" else 0), bias, spec, folder)

    return Format(good.file, good.runtime, write, good.open)


def test_a_mismatch_leaves_no_version(finished, tmp_path, monkeypatch):
    run, _ = finished
    monkeypatch.setitem(EXPORTERS, "onnx", broken("onnx"))
    with pytest.raises(tfsoftmax.ExportError, match=r"^onnx does not answer as the model does") as failure:
        tfsoftmax.export(run.model, run.spec, tmp_path)
    assert "NO" in str(failure.value)
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
    with pytest.raises(tfsoftmax.InputError, match="cannot write the export folder"):
        tfsoftmax.export(run.model, run.spec, tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]
