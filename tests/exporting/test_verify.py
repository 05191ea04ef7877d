import dataclasses
import json
import os
import shutil

import keras
import numpy as np
import onnx
import pytest
from conftest import CLASSES, SHAPE
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import tfsoftmax
from tfsoftmax.exporting import manifest
from tfsoftmax.exporting.manifest import verify_files
from tfsoftmax.exporting.reference import Reference
from tfsoftmax.predict import open_onnx


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the export folder of the finished run."""
    return shutil.copytree(finished[1].folder.parent, tmp_path / "tiny")


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def flipped(finished, tmp_path_factory):
    """A copy that each example changes and puts back."""
    return shutil.copytree(finished[1].folder.parent, tmp_path_factory.mktemp("flipped") / "tiny")


def test_a_whole_export_passes(finished, tfsoftmax_cli):
    folder = finished[1].folder.parent
    status, out, err = tfsoftmax_cli("verify", folder)
    assert (status, err) == (0, "")
    assert out.startswith(f"verified version 1: {folder / '1'}\n")
    assert out.count(" yes\n") == 5
    row, (kept, *_) = finished[1].parity[0], tfsoftmax.verify(folder)
    assert (
        "the 102 reference rows that the export keeps: 38 with labels, in turn one of each class, and 64 without" in out
    )
    assert f"on all labelled rows of the export the model had {row['model_accuracy']:.4f}." in out
    assert repr(kept).splitlines()[-2:] == out.splitlines()[-2:]
    assert kept.unlisted == []
    status, out, _ = tfsoftmax_cli("verify", folder / "1", "--json")
    (version,) = json.loads(out)["versions"]
    assert version["folder"] == str(folder / "1")
    assert [row["rows"] for row in version["parity"]] == [38 + 64] * 5


@given(st.data())
def test_each_flipped_bit_in_a_version_is_caught(flipped, data):
    path = data.draw(st.sampled_from(files_of(flipped / "1")))
    content = path.read_bytes()
    place = data.draw(st.integers(0, 8 * len(content) - 1))
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    try:
        path.write_bytes(changed)
        with pytest.raises(tfsoftmax.TfsoftmaxError) as failure:
            verify_files(flipped / "1")
        assert path.name in str(failure.value)
        assert "\n" not in str(failure.value)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["README.md", "config.pbtxt", "1/model.tflite", "1/manifest.json"])
def test_the_command_says_what_has_changed(copy, tfsoftmax_cli, name):
    content = bytearray((copy / name).read_bytes())
    content[-30] ^= 1
    (copy / name).write_bytes(content)
    status, out, err = tfsoftmax_cli("verify", copy)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert os.path.basename(name) in err
    assert "Export the run again" in err


def test_missing_and_foreign_files_are_named(copy, tfsoftmax_cli):
    strays = ["assets/.nfs0001", "assets/link", "._model.onnx", ".DS_Store", "Thumbs.db", "model.onnx~"]
    for name in strays:
        (copy / "1" / name).write_bytes(b"x") if name != "assets/link" else (copy / "1" / name).symlink_to("/nowhere")
    status, out, err = tfsoftmax_cli("verify", copy)
    assert (status, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("warning: ")] == [
        f"warning: {name} is not in the manifest" for name in sorted(strays)
    ]
    (copy / "1" / "model.onnx").unlink()
    os.mkfifo(copy / "1" / "model.onnx")  # would be read for ever
    (copy / "1" / "assets" / "labels.txt").unlink()
    status, _, err = tfsoftmax_cli("verify", copy)
    assert status == 1
    assert "as it was exported: assets/labels.txt is missing; model.onnx is missing. Export the run again" in err
    (copy / "README.md").unlink()
    shutil.rmtree(copy / "1")
    status, _, err = tfsoftmax_cli("verify", copy)
    assert status == 2
    assert "there is no export in" in err


def test_without_a_writable_temporary_folder(finished, tfsoftmax_cli, monkeypatch, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(SHAPE, np.uint8))
    for command in ("verify",), ("predict", tmp_path / "x.npy"):
        with monkeypatch.context() as patch:
            patch.setattr("tempfile.tempdir", "/nowhere")
            status, _, err = tfsoftmax_cli(command[0], finished[1].folder, *command[1:])
        assert (status, err) == (0, "")


def kubernetes(whole, to):
    """Lay a folder out as an atomic writer mounts a volume: each entry a link into ..data, a link to a dated folder."""
    shutil.copytree(whole, to / "..2026_01")
    (to / "..data").symlink_to("..2026_01")
    for name in os.listdir(whole):
        (to / name).symlink_to(f"..data/{name}")


def test_links_are_followed(finished, tfsoftmax_cli, tmp_path):
    whole = finished[1].folder.parent
    kubernetes(whole, tmp_path / "export")
    kubernetes(whole / "1", tmp_path / "version" / "1")
    for name in ("README.md", "config.pbtxt"):
        (tmp_path / "version" / name).symlink_to(whole / name)
    linked = shutil.copytree(whole, tmp_path / "linked")
    shutil.move(linked / "1" / "variables", tmp_path / "elsewhere")
    (linked / "1" / "variables").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "demo").symlink_to(linked)
    raw = np.zeros((1, *SHAPE), np.uint8)
    wanted = tfsoftmax.Predictor(whole)(raw)["logits"]
    for name in ("export", "version", "linked", "demo"):
        (one,) = tfsoftmax.verify(tmp_path / name)
        assert (one.folder, one.unlisted) == (tmp_path / name / "1", [])
        np.testing.assert_array_equal(tfsoftmax.Predictor(tmp_path / name)(raw)["logits"], wanted)
    (tmp_path / "elsewhere" / "variables.index").write_bytes(b"")
    status, _, err = tfsoftmax_cli("verify", tmp_path / "demo")
    assert status == 1
    assert f"error: {str(tmp_path / 'demo' / '1')!r} is not as it was exported: variables/variables.index has" in err


def test_a_file_that_would_be_opened_must_be_listed(copy):
    path = copy / "1" / "manifest.json"
    values = json.loads(path.read_text())
    del values["files"]["model.int8.tflite"]
    values["files"]["../README.md"] = {"sha256": manifest.digest((copy / "README.md").read_bytes())}
    values["sha256"] = "0" * 64
    text = json.dumps(values)
    path.write_text(text.replace("0" * 64, manifest.digest(text.encode())))
    with pytest.raises(tfsoftmax.ExportError) as failure:
        tfsoftmax.verify(copy)
    assert "../README.md is outside; model.int8.tflite is not in the manifest" in str(failure.value)


def resign(folder):
    """Write the manifest anew, so that all hashes fit."""
    values = json.loads((folder / "manifest.json").read_text())
    del values["files"], values["sha256"]
    manifest.write(folder, values)


def test_a_file_that_answers_otherwise_is_caught_though_hashes_fit(copy, tfsoftmax_cli):
    folder = copy / "1"
    kept = Reference.read(folder)
    dataclasses.replace(kept, logits=kept.logits + np.float32(0.5)).write(folder)
    resign(folder)
    verify_files(folder)
    status, _, err = tfsoftmax_cli("verify", copy)
    assert status == 1
    assert "saved_model, onnx, litert" in err
    assert "does not answer as the model did" in err


def save_onnx(path, nodes, initializers=(), domain="", functions=()):
    shape = ("batch", *SHAPE)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        initializers,
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)
    path.write_bytes(model.SerializeToString())


def external(name):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret")
    return tensor


def refused(folder, text):
    with pytest.raises(tfsoftmax.InputError, match=text):
        tfsoftmax.Predictor(folder)


def test_onnx_files_with_custom_operators_are_refused(copy):
    path = copy / "1" / "model.onnx"
    save_onnx(path, [helper.make_node("Gelu", ["image"], ["logits"], domain="com.microsoft")], domain="com.microsoft")
    refused(copy, r"has the operator 'Gelu' of domain 'com.microsoft'")
    inner = helper.make_graph([helper.make_node("Evil", [], ["y"], domain="evil")], "inner", [], [])
    node = helper.make_node("If", ["image"], ["logits"], then_branch=inner, else_branch=inner)
    save_onnx(path, [node])
    refused(copy, r"has the operator 'Evil' of domain 'evil'")


def test_onnx_files_that_read_other_files_are_refused(copy, monkeypatch):
    monkeypatch.chdir(copy)
    (copy / "secret").write_bytes(np.float32(1).tobytes())
    path = copy / "1" / "model.onnx"
    cast = helper.make_node("Cast", ["image"], ["x"], to=1)
    save_onnx(path, [cast, helper.make_node("Mul", ["x", "w"], ["logits"])], [external("w")])
    refused(copy, "keeps the tensor 'w' in another file")
    constant = helper.make_node("Constant", [], ["w"], value=external("hidden"))
    save_onnx(path, [constant, cast, helper.make_node("Mul", ["x", "w"], ["logits"])])
    refused(copy, "keeps the tensor 'hidden' in another file")
    path.write_bytes(b"not a model")
    refused(copy, "is not an ONNX file|cannot open")


def test_a_model_file_runs_no_code(finished, tfsoftmax_cli, tmp_path):
    run = shutil.copytree(finished[0].folder, tmp_path / "run")
    marker = tmp_path / "ran"
    evil = keras.layers.Lambda(eval(f"lambda x: [open({str(marker)!r}, 'w').close(), x][1]"))
    model = keras.Sequential([keras.Input(SHAPE), evil, keras.layers.Flatten(), keras.layers.Dense(len(CLASSES))])
    marker.unlink()  # building it has run it
    model.save(run / "model.keras")
    status, _, err = tfsoftmax_cli("export", run, "--to", tmp_path / "export")
    assert (status, err.count("\n")) == (2, 1)
    assert "cannot open the model" in err
    assert not marker.exists()
    assert not (tmp_path / "export").exists()


def test_onnx_helper_of_the_tests_can_be_opened(copy):
    """So that what the tests above see is a refusal, not a broken file."""
    path = copy / "1" / "model.onnx"
    save_onnx(path, [helper.make_node("Cast", ["image"], ["logits"], to=1)])
    onnx.checker.check_model(path)
    assert set(open_onnx(path)(np.zeros((1, *SHAPE), np.uint8))) == {"logits"}
    with pytest.raises(
        tfsoftmax.InputError, match=r"returns logits \[6, 5\], and the manifest beside it says .* \[3\]"
    ):
        tfsoftmax.Predictor(copy)
