"""Labels as people hold them, and arrays and frames beside sources."""

import numpy as np
import pandas as pd
import pytest

import tfsoftmax
from tfsoftmax.errors import InputError

X = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
KINDS = {
    "text": (["b", "a", "c"], ("a", "b", "c"), [1, 0, 2]),
    "bytes": (np.array([b"b", b"a", "ü".encode()]), ("a", "b", "ü"), [1, 0, 2]),
    "booleans": ([True, False, True], ("false", "true"), [1, 0, 1]),
    "gaps": ([10, -1, 9], ("-1", "9", "10"), [2, 0, 1]),
    "unsigned": (np.array([3, 1, 200], np.uint8), ("1", "3", "200"), [1, 0, 2]),
    "floats": ([2.0, 1.0, 30.0], ("1", "2", "30"), [1, 0, 2]),
    "column": (np.array([[2], [1], [3]]), ("1", "2", "3"), [1, 0, 2]),
    "one-hot": (np.eye(3, dtype=np.float32)[[1, 0, 2]], ("0", "1", "2"), [1, 0, 2]),
    "numbers as text": (["10", "9", "-2"], ("-2", "9", "10"), [2, 1, 0]),
    "objects": (np.array(["b", "a", "c"], object), ("a", "b", "c"), [1, 0, 2]),
    "pandas text": (pd.Series(["b", "a", "c"]), ("a", "b", "c"), [1, 0, 2]),
    "pandas categories": (pd.Series(["b", "a", "c"], dtype="category"), ("a", "b", "c"), [1, 0, 2]),
    "nullable": (pd.array([7, 1, 8], dtype="Int8"), ("1", "7", "8"), [1, 0, 2]),
    "nullable booleans": (pd.array([True, False, True], dtype="boolean"), ("false", "true"), [1, 0, 1]),
    "masked in name alone": (np.ma.masked_array([2, 1, 3]), ("1", "2", "3"), [1, 0, 2]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_any_kind(kind):
    y, classes, codes = KINDS[kind]
    y = np.concatenate([y, y])
    made = tfsoftmax.Source("rows", X, y)
    assert made.classes == classes
    assert made.y_train.dtype == np.int32
    assert made.y_train.tolist() == codes * 2
    data = tfsoftmax.Data(X, y, test=1, val=0)
    assert data.classes == data.spec.classes == classes


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_labels_are_looked_at_in_parts(kind, monkeypatch):
    monkeypatch.setattr("tfsoftmax.sources.labels._PART", 7)
    y, y_test = np.random.default_rng(0).integers(0, 1000, 50), np.array([3, 2000])
    y[:2] = y_test
    if kind == "text":
        y, y_test = (np.char.add("n", one.astype(str)) for one in (y, y_test))
    x = np.zeros((50, 2), np.float32)
    made = tfsoftmax.Source("rows", x, y, x[:2], y_test)
    names, codes = np.unique(y, return_inverse=True)
    assert made.classes == tuple(map(str, names))
    np.testing.assert_array_equal(made.y_train, codes)
    np.testing.assert_array_equal(made.y_test, codes[:2])


def test_names_and_positions_where_classes_are_given():
    for y in (["no", "yes"] * 3, [0, 1] * 3, [False, True] * 3, np.eye(2)[[0, 1] * 3]):
        assert tfsoftmax.Source("rows", X, y, classes=("no", "yes")).y_train.tolist() == [0, 1] * 3
        assert tfsoftmax.Data(X, y, classes=["no", "yes"], test=2).classes == ("no", "yes")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"y_train": ["a"] * 6, "y_test": ["a"] * 2},
            "data set 'rows' needs at least 2 classes, got 1: all labels are 'a'",
        ),
        (
            {"y_test": ["a", "c"]},
            "1 test rows have the label 'c', and no training row has it, so no model can learn it",
        ),
        ({"y_test": [1, 2]}, "training labels are such as 'a', test labels such as 1; they must be alike"),
        ({"y_train": pd.array([1, None, 2, 1, 1, 2], dtype="Int64")}, "1 labels are missing, the first in row 1"),
        ({"y_train": [None] * 3 + ["a"] * 3}, "3 labels are missing, the first in row 0"),
        ({"y_train": [0.5] * 6}, "labels must be whole numbers, got 0.5 in row 0"),
        ({"y_train": np.array([b"\xff"] * 6)}, "labels must be text in UTF-8"),
        ({"y_test": None}, "a test split has both, x_test and y_test"),
    ],
)
def test_labels_that_cannot_be_trained(fields, text):
    good = {"x_train": X, "y_train": ["a", "b"] * 3, "x_test": X[:2], "y_test": ["a", "b"]}
    with pytest.raises(InputError, match=text) as caught:
        tfsoftmax.Source("rows", **{**good, **fields})
    assert "\n" not in str(caught.value)


def test_a_class_of_one_row_is_said(caplog):
    tfsoftmax.Source("rows", X, ["a", "b", "a", "c", "a", "a"])
    assert caplog.messages == ["'rows': classes with a single training row: 2 ('b', 'c')"]


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "uint64", "float16", "float64", "O"])
def test_inputs_of_any_type(dtype):
    x = np.abs(X * 3).astype(int).astype(dtype)
    made = tfsoftmax.Source("rows", x, [0, 1] * 3)
    assert made.x_train.dtype == np.float32
    np.testing.assert_array_equal(made.x_train, x.astype(np.float32))


def test_frames_beside_labels():
    """Columns of the test rows are put in order by name; others are refused."""
    frame = pd.get_dummies(pd.DataFrame({"a": X[:, 0], "word": ["x", "y"] * 3}))
    assert frame.dtypes.astype(str).tolist() == ["float32", "bool", "bool"]
    y = ["no", "yes"] * 3
    data = tfsoftmax.Data(frame, y, x_test=frame[frame.columns[::-1]], y_test=y, val=0)
    assert [column.name for column in data.spec.columns] == ["a", "word_x", "word_y"]
    np.testing.assert_array_equal(data.test.rows.x, data.source.x_train)
    with pytest.raises(InputError, match="the test rows of 'data' have no column 'a', which the training rows have"):
        tfsoftmax.Data(frame, y, x_test=frame.drop(columns="a"), y_test=y)
    with pytest.raises(InputError, match="the test rows of 'data' have the column 'b', which the training rows do not"):
        tfsoftmax.Data(frame, y, x_test=frame.assign(b=1.0), y_test=y)
    with pytest.raises(InputError, match="'data' has 6 inputs and 5 labels; the counts must be equal"):
        tfsoftmax.Data(frame, y[1:])


def test_a_source_has_its_labels():
    source = tfsoftmax.Source("rows", X, [0, 1] * 3)
    with pytest.raises(InputError, match=r"a tfsoftmax\.Source has rows and labels already: leave y out"):
        tfsoftmax.Data(source, [0, 1] * 3)
    with pytest.raises(
        InputError, match=r"source must be a tfsoftmax\.Source, or inputs before their labels, got array"
    ):
        tfsoftmax.Data(X)
