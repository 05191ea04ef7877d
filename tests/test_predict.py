import concurrent.futures
import io
import json
import multiprocessing
import pickle
import shutil

import numpy as np
import pytest
from conftest import CLASSES, SHAPE, idx_bytes
from PIL import Image

import tfsoftmax


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
        ("x.bmp", b"", "unknown file type of .*known endings are .png, .jpg"),
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


def test_no_export_there(tfsoftmax_cli, tmp_path):
    status, _, err = tfsoftmax_cli("predict", tmp_path, "x.png")
    assert status == 2
    assert "there is no export in" in err
