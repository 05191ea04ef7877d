"""Rows that stay in their files: read as NumPy indexes an array, checked, and told from others, in parts."""

import dataclasses
import os

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import tfsoftmax
from tfsoftmax import findings, sources
from tfsoftmax.errors import InputError
from tfsoftmax.inspection import inspect
from tfsoftmax.preprocessing import PREPROCESSORS
from tfsoftmax.sources import npy
from tfsoftmax.stored import Stored

X = np.random.default_rng(0).normal(size=(61, 4)).astype(np.float32)
Y = np.arange(61) % 3


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The rows in files of 20, 0 and 41, of two types."""
    folder = tmp_path_factory.mktemp("shards")
    for name, rows in {"a": X[:20], "b": X[20:20], "c": X[20:].astype(np.float64)}.items():
        np.save(folder / f"{name}.npy", rows)
    found = [npy.shard(folder / f"{name}.npy")[0] for name in "abc"]
    return Stored(found, (4,), 2**20), X


INDEX = st.integers(-61, 60)
SLICES = st.builds(slice, st.none() | INDEX, st.none() | INDEX, st.sampled_from([None, 1, 2, 7, 30]))


@given(rows=st.one_of(st.integers(0, 60), SLICES, st.lists(st.integers(0, 60)).map(lambda r: np.array(r, np.int32))))
def test_indexing_is_numpys(pair, rows):
    stored, x = pair
    np.testing.assert_array_equal(stored[rows], x[rows])
    assert stored[rows].dtype == np.float32


@given(
    rows=(st.lists(st.integers(0, 60)) | st.sets(st.integers(0, 60)).map(sorted)).map(lambda r: np.array(r, np.int32)),
    near=st.sampled_from([16, 128]),
    piece=st.sampled_from([1, 100, 2**18]),
)
def test_rows_in_any_order_come_where_they_belong(pair, rows, near, piece):
    """Read a few or all together, with the rows between or without."""
    stored, x = pair
    out = np.full((len(rows), 4), np.nan, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfsoftmax.stored._SEEK", near)
        patch.setattr("tfsoftmax.stored._PIECE", piece)
        stored.take(rows, out)
    np.testing.assert_array_equal(out, x[rows])


def folder_of(path, x=X, y=Y, **more):
    path.mkdir(exist_ok=True)
    for name, array in {"x": x, "y": y, **more}.items():
        np.save(path / f"{name}.npy", array)
    return f"npy:{path}"


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "int16"])
@pytest.mark.parametrize("preprocess", PREPROCESSORS)
def test_files_and_memory_give_the_same(tmp_path, dtype, preprocess):
    x = np.random.default_rng(1).integers(0, 256, (90, 5, 3)).astype(dtype)
    name = folder_of(tmp_path / "d", x, np.arange(90) % 4)
    memory, files = (
        tfsoftmax.load(name, memory=memory, preprocess=preprocess, class_weight="balanced") for memory in (None, 100)
    )
    assert isinstance(files.source.x_train, Stored)
    assert not isinstance(memory.source.x_train, Stored)
    assert files.fingerprint == memory.fingerprint
    assert files.spec == memory.spec
    assert (files.options, memory.options) == ({"memory": 100}, {})
    for split in ("train", "val", "test"):
        of_files, of_memory = (getattr(data, split).rows for data in (files, memory))
        for part in ("x", "y", "weight"):
            np.testing.assert_array_equal(getattr(of_files, part), getattr(of_memory, part))
    for split in ("val", "test"):
        for (x_file, y_file, *_), (x_memory, y_memory, *_) in zip(
            getattr(files, split), getattr(memory, split), strict=True
        ):
            np.testing.assert_array_equal(x_file, x_memory)
            np.testing.assert_array_equal(y_file, y_memory)


def test_moments_are_those_of_the_training_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("tfsoftmax.preprocessing._PART", 7 * 31)
    x = np.random.default_rng(2).integers(0, 256, (300, 7)).astype(np.uint8)
    x[:, 3] = 9
    for rows in (x, (x / 255 * 1e3 + 1e6).astype(np.float32)):
        data = tfsoftmax.load(folder_of(tmp_path / "d", rows, np.arange(300) % 2), memory=64, preprocess="standardize")
        train = rows[data.train.rows.index].astype(np.float64)
        np.testing.assert_allclose(data.spec.offset, train.mean(axis=0), rtol=1e-12)
        deviation = train.std(axis=0) + (0.05 * 255 if rows.dtype == np.uint8 else 0)
        deviation[3] = 12.75 if rows.dtype == np.uint8 else 1
        np.testing.assert_allclose(data.spec.scale, 1 / deviation, rtol=1e-9)


def test_own_splits(tmp_path):
    parts = {"val": slice(40, 50), "test": slice(50, 61)}
    arrays = {f"x_{split}": X[cut] for split, cut in parts.items()} | {
        f"y_{split}": Y[cut] for split, cut in parts.items()
    }
    name = folder_of(tmp_path / "d", X[:0], Y[:0], x_train=X[:40], y_train=Y[:40], **arrays)
    data = tfsoftmax.load(name, memory=100)
    for split, cut in {"train": slice(40), **parts}.items():
        np.testing.assert_array_equal(getattr(data, split).rows.x, X[cut])


def damage_removed(path):
    path.unlink()


def damage_truncated(path):
    os.truncate(path, path.stat().st_size - 8)


def damage_changed(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def damage_replaced_by_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [damage_removed, damage_truncated, damage_changed, damage_replaced_by_a_folder])
def test_a_file_that_is_not_what_it_was_is_named(tmp_path, damage):
    source = sources.read(folder_of(tmp_path / "d"), memory=100)
    damage(tmp_path / "d" / "x.npy")
    with pytest.raises(InputError, match=r"d/x\.npy'"):
        source.x_train[5:7]


def test_bad_values_are_found_before_training(tmp_path):
    x = X.copy()
    x[33, 2] = np.nan
    with pytest.raises(InputError, match="row 33 has a NaN or infinite value; 1 such rows"):
        sources.read(folder_of(tmp_path / "d", x), memory=100)
    with pytest.raises(InputError, match=r"row 0 has .*; 61 such rows"):
        sources.read(folder_of(tmp_path / "d", X.astype(np.float64) * 1e300), memory=100)
    with pytest.raises(InputError, match=r"x\.npy' is in Fortran order and larger than the memory"):
        sources.read(folder_of(tmp_path / "d", np.asfortranarray(X)), memory=100)
    with pytest.raises(InputError, match=r"does not take the option memory: parquet:PATH, .*, npy:X.npy,Y.npy, rows"):
        sources.read("fashion_mnist", memory=100)


def test_inspect(tmp_path, monkeypatch):
    x = np.random.default_rng(2).integers(0, 256, (300, 7)).astype(np.uint8)
    x[200:210] = x[100:110]
    name = folder_of(tmp_path / "d", x, np.arange(300) % 2)
    memory, files = (inspect(sources.read(name, memory=memory)) for memory in (None, 100))
    assert files.mixing["share"] == 1
    assert files == dataclasses.replace(memory, looked_at={"train": 300, "test": None}, mixing=files.mixing)
    monkeypatch.setattr("tfsoftmax.inspection._SOME", 150 * 7)
    some = inspect(sources.read(name, memory=100), np.arange(10))
    assert (some.rows, some.looked_at) == ({"train": 290, "test": 10}, {"train": 145, "test": 5})
    assert some.duplicates["train"]["first"] == [[row, row - 100] for row in range(200, 210, 2)]
    assert "5 of the 145 training rows that were looked at repeat an earlier one" in "\n".join(findings.text(some))
