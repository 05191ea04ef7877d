import concurrent.futures
import dataclasses
import io
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
import serve
from conftest import CLASSES, SHAPE, idx_bytes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import tfsoftmax
from tfsoftmax import inputs, pictures


@pytest.fixture
def raw():
    return np.random.default_rng(6).integers(0, 256, (3, *SHAPE)).astype(np.uint8)


@pytest.fixture
def predicted(finished, tfsoftmax_cli):
    """What `tfsoftmax predict … --json` says of files, as (input, label, {label: probability})."""

    def call(*arguments):
        status, out, err = tfsoftmax_cli("predict", finished[1].folder.parent, *arguments, "--json")
        assert (status, err) == (0, "")
        rows = json.loads(out)["predictions"]
        return [(row["input"], row["label"], {x["label"]: x["probability"] for x in row["top"]}) for row in rows]

    return call


def check(rows, finished, raw):
    answers = tfsoftmax.Predictor(finished[1].folder)(raw)
    assert [row[1] for row in rows] == answers["label"].tolist()
    for row, probabilities in zip(rows, answers["probabilities"], strict=True):
        assert row[2] == pytest.approx(dict(zip(CLASSES, probabilities.tolist(), strict=True)))


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.idx", "x-ubyte", "x.idx.gz"])
def test_array_files(predicted, finished, raw, tmp_path, name):
    import gzip

    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, raw)
    elif name.endswith("npz"):
        np.savez(path, image=raw, other=np.zeros(3))
    else:
        path.write_bytes(gzip.compress(idx_bytes(raw)) if name.endswith("gz") else idx_bytes(raw))
    rows = predicted(path)
    assert [row[0] for row in rows] == [f"{path}[{i}]" for i in range(3)]
    check(rows, finished, raw)


def test_pictures_and_invert(predicted, finished, raw, tmp_path):
    Image.fromarray(raw[0]).save(tmp_path / "a.png")
    Image.fromarray(255 - raw[1]).save(tmp_path / "b.PNG")
    check(predicted(tmp_path / "a.png"), finished, raw[:1])
    check(predicted(tmp_path / "b.PNG", "--invert"), finished, raw[1:2])
    check(predicted(tmp_path / "a.png", tmp_path / "a.png"), finished, raw[[0, 0]])


def test_fit_converts_colour_size_and_transparency(predicted, finished, tmp_path):
    large = np.full((60, 50, 4), (200, 200, 200, 255), np.uint8)
    large[:, :10, 3] = 0  # transparent: taken as white
    Image.fromarray(large).save(tmp_path / "large.png")
    Image.fromarray(large[..., :3]).save(tmp_path / "large.jpg", quality=95)
    wanted = np.full((1, *SHAPE), 200, np.uint8)
    check(predicted(tmp_path / "large.jpg", "--fit"), finished, wanted)
    wanted[:, :, 0] = 255
    answers = tfsoftmax.Predictor(finished[1].folder)(wanted)
    (row,) = predicted(tmp_path / "large.png", "--fit")
    assert row[2] == pytest.approx(dict(zip(CLASSES, answers["probabilities"][0].tolist(), strict=True)), abs=0.15)


def light_above():
    """Large, light in its upper quarter; and as a camera writes it that is held the ways of EXIF's orientations."""
    upright = np.zeros((120, 100), np.uint8)
    upright[:30] = 255
    turned = {2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T, 6: upright.T[::-1]}
    return upright, {**turned, 7: upright.T[::-1, ::-1], 8: upright.T[:, ::-1]}


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff"])
def test_photographs_are_turned_upright(finished, tmp_path, ending):
    spec, (upright, turned) = finished[0].spec, light_above()
    Image.fromarray(upright).save(tmp_path / f"x.{ending}", quality=100)
    wanted = inputs.read(str(tmp_path / f"x.{ending}"), spec, fit=True)
    assert wanted[0, 0].min() > 240
    assert wanted[0, 3:].max() < 15
    for orientation, pixels in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"x.{ending}", exif=exif, quality=100)
        found = inputs.read(str(tmp_path / f"x.{ending}"), spec, fit=True)
        np.testing.assert_allclose(found.astype(int), wanted, atol=8, err_msg=str(orientation))


def test_turned_without_fit_and_with_broken_exif(finished, raw, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(raw[0]).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(inputs.read(str(tmp_path / "x.png"), finished[0].spec), raw[:1, ::-1, ::-1])
    Image.fromarray(raw[0]).save(tmp_path / "x.png", exif=b"Exif\0\0II*\0\xff\xff")
    np.testing.assert_array_equal(inputs.read(str(tmp_path / "x.png"), finished[0].spec), raw[:1])


@pytest.mark.parametrize("name", ["x.gif", "x.bmp", "x.tif", "x.TIFF", "x.webp", "x.jpeg"])
def test_picture_formats(predicted, finished, raw, tmp_path, name):
    lossless = {"lossless": True} if name == "x.webp" else {"quality": 100} if name == "x.jpeg" else {}
    Image.fromarray(raw[0]).save(tmp_path / name, **lossless)
    spec = finished[0].spec
    read = inputs.read(str(tmp_path / name), spec, fit=True)
    np.testing.assert_allclose(read.astype(int), raw[:1], atol=3 if name == "x.jpeg" else 0)
    check(predicted(tmp_path / name, "--fit"), finished, read)


def test_several_pictures_in_one_file_are_refused(finished, tmp_path, raw):
    first, *others = map(Image.fromarray, raw)
    for name in ("x.gif", "x.png", "x.webp", "x.tiff"):
        first.save(tmp_path / name, save_all=True, append_images=others)
        with pytest.raises(tfsoftmax.InputError, match="holds several pictures"):
            inputs.read(str(tmp_path / name), finished[0].spec, fit=True)
    # a telephone's photograph has its preview with it
    first.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=others)
    assert inputs.read(str(tmp_path / "x.jpg"), finished[0].spec).shape == (1, *SHAPE)


def test_sixteen_bits(finished, tmp_path):
    """Grey to the nearest of 256 steps; and what a PNG of 16 bits declares transparent is white."""
    values = np.random.default_rng(2).integers(0, 65_536, SHAPE).astype(np.uint16)
    values.flat[:6] = 0, 128, 129, 65_406, 65_407, 65_535
    for name in ("x.png", "x.tif"):
        Image.fromarray(values).save(tmp_path / name)
        with pytest.raises(tfsoftmax.InputError, match=r"is I;16 5x6, the model takes L 5x6; --fit converts"):
            inputs.read(str(tmp_path / name), finished[0].spec)
        found = inputs.read(str(tmp_path / name), finished[0].spec, fit=True)
        np.testing.assert_array_equal(found[0], np.rint(values / 257))
    Image.fromarray(values).save(tmp_path / "x.png", transparency=128)
    found = inputs.read(str(tmp_path / "x.png"), finished[0].spec, fit=True)
    np.testing.assert_array_equal(found[0], np.where(values == 128, 255, np.rint(values / 257)))
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(tfsoftmax.InputError, match="has 32 bits a channel"):
        inputs.read(str(tmp_path / "x.tif"), finished[0].spec, fit=True)


def test_pictures_for_a_model_with_a_channel(finished, raw, tmp_path):
    Image.fromarray(raw[0]).save(tmp_path / "x.png")
    spec = dataclasses.replace(finished[0].spec, shape=(*SHAPE, 1))
    for fit in (False, True):
        np.testing.assert_array_equal(inputs.read(str(tmp_path / "x.png"), spec, fit=fit), raw[:1, ..., None])
    np.save(tmp_path / "x.npy", raw)
    np.testing.assert_array_equal(inputs.read(str(tmp_path / "x.npy"), spec), raw[..., None])


@given(st.data())
def test_broken_pictures_are_one_line(damaged, data):
    spec, content = damaged[0], bytearray(data.draw(st.sampled_from(damaged[1])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = pictures.picture(io.BytesIO(content), spec, True, "it", most=10_000)
    except tfsoftmax.InputError:
        return
    assert (found.shape, found.dtype) == (SHAPE, np.uint8)


@pytest.fixture(scope="module")
def damaged(finished):
    """Small pictures of all formats, one and several in a file, with EXIF data."""
    exif, found = Image.Exif(), []
    exif[0x0112], exif[0x010E] = 6, "text"
    pixels = np.random.default_rng(1).integers(0, 256, (8, 7, 3)).astype(np.uint8)
    several = {"save_all": True, "append_images": [Image.fromarray(pixels[::-1].copy())]}
    kinds = [(kind, {}) for kind in pictures.PICTURES] + [(kind, several) for kind in ("GIF", "PNG", "TIFF", "WEBP")]
    for kind, more in kinds:
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, kind, exif=exif, **more)
        found.append(content.getvalue())
    return finished[0].spec, found


def test_json_on_standard_input(predicted, finished, raw, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(raw.tolist())))
    check(predicted("-"), finished, raw)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(raw[0].tolist())))
    check(predicted("-"), finished, raw[:1])


def test_table_and_csv(finished, tfsoftmax_cli, raw, tmp_path):
    np.save(tmp_path / "x.npy", raw)
    folder = finished[1].folder.parent
    status, out, _ = tfsoftmax_cli("predict", folder, tmp_path / "x.npy", "--top", "1", "--csv")
    lines = out.splitlines()
    assert (status, lines[0], len(lines)) == (0, "input,label,probability", 4)
    status, out, _ = tfsoftmax_cli("predict", folder, tmp_path / "x.npy", "--top", "99")
    assert status == 0
    assert all(line.count("%") == 3 for line in out.splitlines())


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("x.txt", b"", "unknown file type of .*known endings are .png, .jpg"),
        ("x.png", b"not a picture", "is not a picture that can be opened"),
        ("x.npy", b"not an array", "is not an NPY file of plain numbers"),
        ("x.npz", b"not an archive", "is not an NPZ file of plain numbers"),
        ("x.idx", b"\0\0\x08", "is not an IDX file"),
        ("x.png", None, "cannot read .*No such file"),
    ],
)
def test_files_that_cannot_be_read(finished, tfsoftmax_cli, tmp_path, name, content, text):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    status, out, err = tfsoftmax_cli("predict", finished[1].folder.parent, tmp_path / name)
    assert (status, out, err.count("\n")) == (2, "", 1)
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(err)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((2, 9, 9), np.uint8), r"has shape \(2, 9, 9\), expected \(n, 6, 5\)"),
        (np.zeros((2, *SHAPE)), "values of type float64, expected whole numbers from 0 to 255"),
        (np.full((2, *SHAPE), 256), "values from 256 to 256, expected 0 to 255"),
        (np.full((2, *SHAPE), -1), "values from -1 to -1, expected 0 to 255"),
        (np.array({"a": 1}, object), "not an NPY file of plain numbers"),
    ],
)
def test_arrays_that_do_not_fit(finished, tfsoftmax_cli, tmp_path, array, text):
    np.save(tmp_path / "x.npy", array)
    status, out, err = tfsoftmax_cli("predict", finished[1].folder.parent, tmp_path / "x.npy")
    assert (status, out) == (2, "")
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(err)


@pytest.mark.parametrize("text", ["", "{}", "[[1, 2], [3]]", "[", "[" * 100_000, '"x"', "[[null]]"])
def test_bad_json(finished, tfsoftmax_cli, monkeypatch, text):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    status, out, err = tfsoftmax_cli("predict", finished[1].folder.parent, "-")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: standard input")


@pytest.mark.parametrize("row", [[1e39, 0, 0, 0], [0, -1e300, 0, 0], [0, 0, np.inf, 0], [np.nan, 0, 0, 0]])
def test_numbers_that_float32_does_not_hold(predictor, tfsoftmax_cli, monkeypatch, served, row):
    with pytest.raises(tfsoftmax.InputError, match="must hold finite numbers within float32's range"):
        predictor["table"](np.array([[0.0] * 4, row]))
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps([row])))
    status, out, err = tfsoftmax_cli("predict", served / "table", "-", "--json")
    assert (status, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("names", [(), ("class_id",), ("probabilities", "logits")])
def test_sums_beyond_float32(predictor, served, names):
    """Whichever outputs are asked for: a class that comes of infinite logits is none."""
    table = predictor["table"]
    with np.load(served / "table" / "3" / "reference.npz") as kept:
        kernel = kept["kernel"].astype(np.float64)
    good = np.ones((1, 4), np.float32)
    assert set(table.answer(good, names)) == set(names or ("logits", "probabilities", "class_id", "label"))
    huge = (3e38 * np.sign(kernel[:, 1]))[None].astype(np.float32)
    assert np.isfinite(huge).all()
    assert huge.astype(np.float64) @ kernel[:, 1] > np.finfo(np.float32).max  # the scale is near 1
    with pytest.raises(tfsoftmax.InputError, match=r"row 1 of features has numbers so large that its logits"):
        table.answer(np.concatenate([good, huge]), names)


@pytest.mark.parametrize("rows", [None, {"image": [[0]]}, scipy.sparse.eye_array(4), iter([1])])
def test_what_is_no_array(predictor, rows):
    with pytest.raises(tfsoftmax.InputError, match=rf"must be an array of shape \(n, 4\), got {type(rows).__name__}"):
        predictor["table"](rows)


def test_pickles_for_the_processes_of_a_pool(finished, raw, tmp_path):
    folder = shutil.copytree(finished[1].folder, tmp_path / "1")
    predictor = tfsoftmax.Predictor(tmp_path, threads=1)
    shutil.rmtree(folder)  # the machine that gets it has no such folder
    wanted = predictor(raw)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(predictor, raw).result(60)
    copied = pickle.loads(pickle.dumps(predictor))
    assert (copied.folder, copied.spec) == (predictor.folder, predictor.spec)
    for answers in (found, copied(raw)):
        for name, value in wanted.items():
            np.testing.assert_array_equal(answers[name], value)


def test_a_last_dimension_of_one(finished, raw):
    """Grey pictures as convolutions take them, and as they come from a file."""
    predictor = tfsoftmax.Predictor(finished[1].folder)
    wanted = predictor(raw)["logits"]
    np.testing.assert_array_equal(predictor(raw[..., None])["logits"], wanted)
    np.testing.assert_array_equal(predictor(raw[0][..., None])["logits"], wanted[:1])
    with pytest.raises(tfsoftmax.InputError, match=r"shape \(3, 6, 5, 1, 1\), expected \(n, 6, 5\)"):
        predictor(raw[..., None, None])


def test_picture_of_another_size_is_refused_without_fit(finished, tfsoftmax_cli, tmp_path):
    Image.new("RGB", (50, 60)).save(tmp_path / "x.jpg")
    status, _, err = tfsoftmax_cli("predict", finished[1].folder.parent, tmp_path / "x.jpg")
    assert status == 2
    assert "is RGB 50x60, the model takes L 5x6; --fit converts" in err


def test_a_terminal_that_lacks_the_signs_of_a_class_name(tmp_path):
    """What is done does not fail for want of an encoding."""
    spec = tfsoftmax.ModelSpec("table", (2,), "float32", ("größe", "\N{SNOWMAN}"), "unit", 0.0, 1.0)
    serve.write_version(tmp_path, 1, spec, np.array([[1, 0], [0, 1]], np.float32), np.zeros(2, np.float32))
    command = [sys.executable, "-m", "tfsoftmax", "predict", tmp_path, "-", "--top", "2"]
    for encoding in ("ascii", "latin-1", "utf-8"):
        done = subprocess.run(
            command, input=b"[[3, 0]]", capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}
        )
        assert (done.returncode, done.stderr) == (0, b"")
        wanted = "-  größe 95.3%   \N{SNOWMAN} 4.7%\n".encode(encoding, "backslashreplace")
        assert done.stdout == wanted


def test_nothing_is_kept_for_telemetry(tmp_path):
    """ONNX Runtime writes what it will send into the home folder, unless it runs in CI."""
    home = tmp_path / "home"
    home.mkdir()
    serve.write_version(tmp_path / "export", 1, serve.SPEC, *serve.weights(1))
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    kept |= {"HOME": str(home), "XDG_CACHE_HOME": str(home)}
    command = [sys.executable, "-m", "tfsoftmax", "predict", tmp_path / "export", "-"]
    subprocess.run(command, input=str([serve.ROW]).encode(), env=kept, check=True, capture_output=True)
    assert not list(home.rglob("*"))


def test_no_export_there(tfsoftmax_cli, tmp_path):
    status, _, err = tfsoftmax_cli("predict", tmp_path, "x.png")
    assert status == 2
    assert "there is no export in" in err
