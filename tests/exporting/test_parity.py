"""Files that answer otherwise than the model, and how far those in eight bits may."""

import dataclasses
import os

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import CLASSES, SHAPE

import tfsoftmax
from tfsoftmax.exporting.formats import EXPORTERS


@pytest.mark.parametrize(("shape", "dtype"), [(SHAPE, "uint8"), ((182, 182), "uint8"), ((40,), "float32")])
def test_onnx_int8_rounds_the_weights_and_nothing_else(tmp_path, shape, dtype):
    rng = np.random.default_rng(3)
    x = rng.integers(0, 256, (30, *shape)).astype(dtype)
    data = tfsoftmax.Data(tfsoftmax.Source("x", x, np.arange(30) % 3, x, np.arange(30) % 3, CLASSES), preprocess="unit")
    model = tfsoftmax.SoftmaxRegression(3)
    model.build((None, *shape))
    kernel = (rng.normal(size=(x[0].size, 3)) / np.sqrt(x[0].size)).astype(np.float32)
    model.layers[1].set_weights([kernel, np.zeros(3, np.float32)])
    folder = tfsoftmax.export(model, data.spec, tmp_path, rows=x).folder
    step = np.abs(kernel).max(axis=0) / 127
    wanted = (x.reshape(30, -1) * data.spec.scale) @ (np.rint(kernel / step) * step)
    session = onnxruntime.InferenceSession(folder / "model.int8.onnx")
    (logits,) = session.run(["logits"], {data.spec.input_name: x})
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-4)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "fused.onnx"), 3
    onnxruntime.InferenceSession(folder / "model.int8.onnx", options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert ("MatMulIntegerToFloat" in kinds) == (shape == SHAPE), "bytes are multiplied where 32 bits cannot overflow"


@pytest.mark.parametrize("name", list(EXPORTERS))
def test_a_mismatch_leaves_no_version(finished, tmp_path, monkeypatch, name):
    run, _ = finished
    good = EXPORTERS[name]

    def write(linear, folder):
        # a class that gains a lot: too much for any format
        good.write(dataclasses.replace(linear, bias=linear.bias + np.array([0, 9, 0], np.float32)), folder)

    monkeypatch.setitem(EXPORTERS, name, dataclasses.replace(good, write=write))
    with pytest.raises(tfsoftmax.ExportError, match=f"^{name} does not answer as the model does") as failure:
        tfsoftmax.export(run.model, run.spec, tmp_path)
    assert "NO" in str(failure.value)
    assert os.listdir(tmp_path) == []


def test_a_small_mismatch_of_floats_is_one(finished, tmp_path, monkeypatch):
    run, _ = finished
    good = EXPORTERS["onnx"]

    def write(linear, folder):
        good.write(dataclasses.replace(linear, bias=linear.bias + np.float32(1.1e-4)), folder)

    monkeypatch.setitem(EXPORTERS, "onnx", dataclasses.replace(good, write=write))
    with pytest.raises(tfsoftmax.ExportError, match=r"^onnx does not answer"):
        tfsoftmax.export(run.model, run.spec, tmp_path)


def test_int8_that_costs_accuracy_is_refused(finished, tmp_path, monkeypatch):
    run, _ = finished
    good, rows = EXPORTERS["onnx_int8"], run.data().train.rows

    def opened(folder, spec):
        def answer(raw):
            answers = good.open(folder, spec)(raw)
            wrong = np.arange(len(raw)) % 50 == 0  # two rows in a hundred
            answers["class_id"] = np.where(wrong, (answers["class_id"] + 1) % 3, answers["class_id"])
            answers["label"] = np.array(CLASSES, object)[answers["class_id"]]
            return answers

        return answer

    monkeypatch.setitem(EXPORTERS, "onnx_int8", dataclasses.replace(good, open=opened))
    with pytest.raises(tfsoftmax.ExportError, match=r"^onnx_int8 does not answer"):
        tfsoftmax.export(run.model, run.spec, tmp_path, rows=rows.x, labels=rows.y)
