"""Parquet embeddings and TFRecord files that are larger than memory: row files by convert, or in train --cache."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import tfsoftmax
from tfsoftmax import cache, sources
from tfsoftmax.errors import InputError
from tfsoftmax.sources.converted import convert
from tfsoftmax.sources.large import Large
from tfsoftmax.spec import RunConfig
from tfsoftmax.stored import Stored

rng = np.random.default_rng(0)
X = rng.normal(size=(200, 8)).astype(np.float32)
Y = np.array(["ox", "ape", "cat", "dog"])[np.arange(200) // 50]
MEMORY = 1000


def embedding(x, fixed=False):
    if fixed:
        return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    return pa.array(list(x), pa.list_(pa.float32()))


@pytest.fixture
def parts(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, begin in enumerate(range(0, 200, 60)):
        rows = slice(begin, begin + 60)
        columns = {
            "id": np.arange(200)[rows],
            "e": embedding(X[rows]),
            "label": Y[rows],
            "who": np.arange(200)[rows] // 5,
        }
        pa.parquet.write_table(pa.table(columns), folder / f"train-{number}.parquet", row_group_size=25)
    return folder


def test_parquet(parts, tmp_path):
    options = {"drop": ["id"], "group": "who"}
    whole = sources.read(parts, **options)
    assert isinstance(sources.opened(parts, memory=MEMORY, **options), Large)
    convert(sources.opened(parts, memory=MEMORY, **options), tmp_path / "rows", None)
    made = sources.read(tmp_path / "rows", memory=MEMORY)
    assert isinstance(made.x_train, Stored)
    assert made.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(made.x_train[:], X)
    assert [made.classes[label] for label in made.y_train] == Y.tolist()
    convert(sources.opened(parts, memory=MEMORY, **options), tmp_path / "mixed", 3)
    order = np.random.default_rng(3).permutation(200)
    mixed = sources.read(tmp_path / "mixed")
    np.testing.assert_array_equal(mixed.x_train, X[order])
    np.testing.assert_array_equal(mixed.groups, order // 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed", "parts", "rows"]
    assert not list((tmp_path / "mixed").glob("*.part"))


def test_splits_fixed_lists_and_whole_numbers(parts, tmp_path):
    whole = np.arange(40, dtype=np.int16).reshape(5, 8)
    for path in parts.iterdir():
        path.unlink()
    labels = {"train": [7, 7, 30, 30, 7], "test": [30, 7, 7, 7, 7]}
    for split, y in labels.items():
        pa.parquet.write_table(pa.table({"e": embedding(whole, True), "y": y}), parts / f"{split}-0.parquet")
    convert(sources.opened(parts, memory=10), tmp_path / "rows", None)
    made = sources.read(tmp_path / "rows")
    np.testing.assert_array_equal(made.x_test, whole.astype(np.float32))
    assert (made.classes, made.y_test.tolist()) == (("7", "30"), [1, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"e": embedding(X[:20, :7])}, "1.parquet.*has 7 numbers, others 8; they must be alike"),
        (
            {"e": pa.array([[1.0] * 8] * 19 + [[1.0]])},
            r"1.parquet.*row group 0: the lists of column 'e' have the lengths",
        ),
        ({"e": embedding(np.full((20, 8), np.nan, np.float32))}, "row 60 has a NaN or infinite value; 20 such rows"),
        ({"e": embedding(X[:20]), "label": pa.array(["ox"] * 19 + [None])}, "1 missing values, the first in row 79"),
        ({"e": embedding(X[:20]), "more": pa.array(range(20))}, "do not have the same columns"),
    ],
)
def test_parquet_that_is_refused(parts, tmp_path, columns, match):
    table = pa.table({"id": pa.array(range(20)), "e": None, "label": ["ox"] * 20, "who": pa.array(range(20))} | columns)
    pa.parquet.write_table(table, parts / "train-1.parquet")
    with pytest.raises(InputError, match=match):
        convert(sources.opened(parts, memory=MEMORY, drop=["id", "who"]), tmp_path / "rows")
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_larger_than_memory_says_what_to_type(parts, tfsoftmax_cli):
    with pytest.raises(
        InputError, match=r"more memory than the 1,000 bytes .* convert DATA --to FOLDER.* --cache FOLDER"
    ):
        tfsoftmax.load(parts, memory=MEMORY, drop=["id", "who"])
    with pytest.raises(InputError, match="has no column 'nose'"):
        tfsoftmax.load(parts, memory=MEMORY, drop=["id", "who", "nose"])


def test_memory_of_a_conversion_does_not_grow_with_the_rows(tmp_path):
    peaks = []
    for count in (2, 16):
        x = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(10_000 * 256, np.float32)), 256)
        with pa.parquet.ParquetWriter(
            tmp_path / f"{count}.parquet", pa.table({"e": x, "y": [0] * 10_000}).schema
        ) as file:
            for number in range(count):
                file.write_table(pa.table({"e": x, "y": [number] * 10_000}))
        program = (
            "import resource, sys; from tfsoftmax import sources; from tfsoftmax.sources import converted; "
            "converted._SHARD = converted._PART = 2**22; "
            "converted.convert(sources.opened(sys.argv[1], memory=2**20), sys.argv[2]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        command = [sys.executable, "-c", program, tmp_path / f"{count}.parquet", tmp_path / f"{count}"]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024)
    assert peaks[1] < peaks[0] + 50, peaks  # of 137 MiB more


def settings(data, **more):
    return RunConfig(data=str(data), memory=MEMORY, batch_size=32, **more)


def test_the_cache_converts_once(parts, tmp_path):
    said = []
    given = settings(parts, drop=("id", "who"))
    first = cache.prepared(given, tmp_path / "cache", said.append)
    again = cache.prepared(given, tmp_path / "cache", said.append)
    assert first == again
    assert (first.label, first.drop, first.memory) == (None, None, MEMORY)
    assert "more memory than the 1,000 bytes" in said[0]
    assert ["writing row files" in line for line in said] == [True, False]
    assert len(tfsoftmax.load(first.data, memory=MEMORY).source.x_train) == 200
    assert cache.prepared(first, tmp_path / "cache", said.append) == first  # a run of the run's own settings
    pa.parquet.write_table(pa.parquet.read_table(parts / "train-0.parquet").slice(1), parts / "train-0.parquet")
    changed = cache.prepared(given, tmp_path / "cache", said.append)
    assert len(tfsoftmax.load(changed.data, memory=MEMORY).source.x_train) == 199
    fits = RunConfig(data=str(parts), drop=("id", "who"))
    assert cache.prepared(fits, tmp_path / "cache", said.append) == fits


def test_sorted_files_are_mixed_in_the_cache(parts, tmp_path, tfsoftmax_cli, monkeypatch):
    monkeypatch.setattr("tfsoftmax.windows._BLOCK", 32 * 8)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    command = ["train", "--data", f"npy:{tmp_path}", "--memory", 2048, "--batch-size", 32, "--epochs", 1]
    status, _, error = tfsoftmax_cli(*command, "--cache", tmp_path / "cache", "--out", tmp_path / "run")
    assert status == 0, error
    assert "is sorted by class" in error
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["mixing"]["share"] > 0.9
    assert tfsoftmax_cli("evaluate", tmp_path / "run")[0] == 0


def test_two_at_once_write_the_cache_once(parts, tmp_path):
    program = (
        "import sys, pathlib; from tfsoftmax import cache; from tfsoftmax.spec import RunConfig; "
        "settings = RunConfig(data=sys.argv[1], memory=1000, drop=('id', 'who')); "
        "print(cache.prepared(settings, pathlib.Path(sys.argv[2]), lambda line: None).data)"
    )
    command = [sys.executable, "-c", program, str(parts), str(tmp_path / "cache")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({one.communicate()[0] for one in both}) == 1
    assert [one.returncode for one in both] == [0, 0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 1
