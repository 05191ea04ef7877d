"""Tables from files and frames: what is read, and one clear line for what cannot be."""

import datetime
import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

import tfsoftmax
from tfsoftmax.errors import InputError
from tfsoftmax.inspection import inspect
from tfsoftmax.sources import tables
from tfsoftmax.sources.columns import Choices

ROWS = {"age": [31.5, 40.0, 22.0], "job": ["clerk", "cook", "clerk"], "kind": ["a", "b", "a"]}


def read(path, kind="csv", **choices):
    """The rows as training and as test split."""
    table = tables.read_table(path, kind)
    return tables.source("t", table, Choices(**{"label": "kind", **choices}), table)


def write(folder, content, name="t.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_every_way_in_gives_the_same_rows(tmp_path):
    frame = pd.DataFrame(ROWS)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "t.parquet")
    crlf = (tmp_path / "t.csv").read_bytes().replace(b"\n", b"\r\n")
    write(tmp_path, b"\xef\xbb\xbf" + crlf, "bom.csv")
    sources = [read(tmp_path / f"t.{kind}", kind) for kind in ("csv", "tsv", "parquet")]
    sources.append(read(tmp_path / "bom.csv"))
    for made in (frame, frame.assign(job=frame["job"].astype("category")), pa.table(ROWS)):
        table = tables.of_frame(made)
        sources.append(tables.source("t", table, Choices("kind"), table))
    for source in sources:
        np.testing.assert_array_equal(source.x_train, np.array([[31.5, 0], [40, 1], [22, 0]], np.float32))
        assert [(c.name, c.kind, c.dtype, c.values) for c in source.columns] == [
            ("age", "number", "float32", ()),
            ("job", "category", "string", ("clerk", "cook")),
        ]
        assert (source.y_train.tolist(), source.classes) == ([0, 1, 0], ("a", "b"))


def test_types_of_columns(tmp_path):
    frame = pd.DataFrame(
        {
            "zip": [1, 10, 9],
            "on": [True, False, True],
            "day": [datetime.date(1970, 1, 2), datetime.date(1970, 1, 1), None],
            "n": pd.array([1, None, 3], dtype="Int8"),
            "label": [30, -1, 4],
        }
    )
    table = tables.of_frame(frame)
    source = tables.source("t", table, Choices(category=("zip", "on"), number=("day",)), table)
    assert [(c.name, c.kind, c.dtype, c.values) for c in source.columns] == [
        ("zip", "category", "int64", ("1", "9", "10")),
        ("on", "category", "string", ("false", "true")),
        ("day", "number", "float32", ()),
        ("n", "number", "float32", ()),
    ]
    expected = [[0, 1, 86400, 1], [2, 0, 0, np.nan], [1, 1, np.nan, 3]]
    np.testing.assert_array_equal(source.x_train, np.array(expected, np.float32))
    assert source.classes == ("-1", "4", "30")  # in numerical order


def test_what_is_left_out_is_said(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    rows = 30
    frame = pd.DataFrame(
        {
            "id": [f"id {k}" for k in range(rows)],
            "day": pd.date_range("2020-01-01", periods=rows),
            "same": 7,
            "none": [None] * rows,
            "x": np.arange(rows),
            "y": np.arange(rows) % 2,
        }
    )
    table = tables.of_frame(frame)
    source = tables.source("t", table, Choices(), table)
    assert [column.name for column in source.columns] == ["x"]
    assert [record.getMessage() for record in caplog.records] == [
        "'t': column 'id' is left out: 30 of 30 words differ (--category keeps it)",
        "'t': column 'day' is left out: it holds dates or times (--number takes them as seconds since 1970, "
        "--category as words)",
        "'t': column 'same' is left out: all its values are 7 (--category keeps it)",
        "'t': column 'none' is left out: all its values are missing",
    ]
    assert list(inspect(source).left_out.items())[3] == ("none", "all its values are missing")
    kept = tables.source("t", table, Choices(drop=("day", "none"), category=("id", "same")), table)
    assert [len(column.values) for column in kept.columns] == [30, 1, 0]


def test_embeddings(tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    table = pa.table({"e": pa.array(list(x)), "kind": ["a", "b", "a", "b"]})
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet")
    source = read(tmp_path / "e.parquet", "parquet")
    np.testing.assert_array_equal(source.x_train, x)
    assert source.columns == ()
    with pytest.raises(InputError, match=r"the list column 'e' and others \('n'\): an embedding is alone"):
        tables.source("t", more := table.append_column("n", pa.array([1, 2, 3, 4])), Choices("kind"), more)
    ragged = pa.table({"e": [[1.0], [1.0, 2.0]], "kind": ["a", "b"]})
    with pytest.raises(InputError, match="the lists of column 'e' have the lengths"):
        tables.source("t", ragged, Choices("kind"), ragged)


HOSTILE = {
    "ragged": ("a,kind\n1,x\n2\n3,y\n", r"cannot read '.*t\.csv' as CSV: .* Row #3: Expected 2 columns, got 1"),
    "twice": ("a,a,kind\n1,2,x\n", "has two columns called 'a'; rename one"),
    "empty": ("", "cannot read '.*': it is empty"),
    "header": ("a,kind\n", r"has no rows, only the columns 'a, kind'"),
    "utf-16": ("a,kind\n1,x\n".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
    "latin-1": ("a,kind\n1,é\n2,x\n".encode("latin-1"), "column 'kind' is not text in UTF-8"),
    "quote": ('a,kind\n1,"x\n2,y\n3,z\n', "a quote is not closed: the last value begins with"),
    "word": ("a,kind\n" + "1,x\n" * 20 + "many,y\n", "column 'a' holds numbers, and 2 of 42 values are none, the first "
             "'many' in row 20: correct them, or pass --category a"),
    "word among numbers that all differ": (
        "a,kind\n" + "".join(f"{k},{'xy'[k % 2]}\n" for k in range(40)) + "many,y\n", "2 of 82 values are none"),
    "infinite": ("a,kind\n1,x\ninf,y\n", "column 'a' has inf in row 1, expected numbers that a float32 can hold"),
    "large": ("a,kind\n1,x\n1e39,y\n", r"column 'a' has 1e\+39 in row 1"),
    "no label": ("a,b\n1,x\n", "has no column 'kind' for the labels; it has 'a, b'"),
    "one class": ("a,kind\n1,x\n2,x\n", "needs at least 2 classes, got 1"),
    "label alone": ("kind\nx\ny\n", "has no column to learn from"),
    "an output": ("logits,kind\n1,x\n2,y\n", "a column is called 'logits', as an output of every export is"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(tmp_path, case):
    content, expected = HOSTILE[case]
    with pytest.raises(InputError, match=expected) as caught:
        tfsoftmax.Data(read(write(tmp_path, content)))
    assert "\n" not in str(caught.value)


def test_many_columns(tmp_path):
    names = ",".join(map(str, range(1_000_000)))
    with pytest.raises(InputError, match="it has 1,000,000 columns; a table may have 100,000"):
        read(write(tmp_path, f"{names}\n{names}\n"))


def test_accepted(tmp_path):
    source = read(write(tmp_path, 'a,"b ""c""",kind\n1,"two\nlines",x\n2,"=cmd",y\n'))
    assert source.columns[1].name == 'b "c"'
    assert source.columns[1].values == ("=cmd", "two\nlines")
    # types are those of the whole file, not of its beginning
    late = read(write(tmp_path, "a,kind\n" + "1,x\n" * 300_000 + "1.5,y\n"))
    assert late.x_train[-1, 0] == 1.5


def test_parquet_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"cannot read '.*' as PARQUET: .*"):
        read(write(tmp_path, b"PAR1 and then nothing", "t.parquet"), "parquet")
    nested = pa.table({"s": [{"a": 1}, {"a": 2}], "kind": ["x", "y"]})
    with pytest.raises(
        InputError, match="column 's' holds struct<a: int64>, expected numbers, words or true and false"
    ):
        tables.source("t", nested, Choices("kind"), nested)
    with pytest.raises(InputError, match="a data frame is one of pandas, Polars or Arrow, got"):
        tables.of_frame([1, 2])


def test_folders_and_patterns(tmp_path):
    for name in ("test", "train"):
        pd.DataFrame(ROWS).to_csv(tmp_path / f"{name}.csv", index=False)
    source = tables.read_files("csv", str(tmp_path), Choices("kind"))
    assert (len(source.x_train), len(source.x_test)) == (3, 3)
    with pytest.raises(InputError, match=r"there is no file \*\.tsv in the folder"):
        tables.read_files("tsv", str(tmp_path), Choices("kind"))
    pd.DataFrame(ROWS).drop(columns="age").to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(InputError, match=r"the test rows of .* have no column 'age', which the training rows have"):
        tables.read_files("csv", str(tmp_path), Choices("kind"))


def test_class_names_that_are_numbers_are_in_their_order():
    frame = pd.DataFrame({"x": range(4), "kind": ["10", "9", "-1", "10"]})
    arrays = tfsoftmax.Data(frame[["x"]].to_numpy(float), frame["kind"].to_numpy(str), val=0, test=1)
    table = tfsoftmax.load(frame, label="kind", val=0, test=1)
    assert table.classes == arrays.classes == ("-1", "9", "10")
    np.testing.assert_array_equal(table.source.y_train, arrays.source.y_train)
