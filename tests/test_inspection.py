"""What inspect finds, against figures by hand."""

import json
import math

import numpy as np
import pytest

import tfsoftmax
from tfsoftmax import sources
from tfsoftmax.findings import first_lines, text, warnings
from tfsoftmax.inspection import inspect
from tfsoftmax.spec import Column

NAN = math.nan
PETS = ("cat", "dog")
EMPTY = {"rows": 0, "differing": 0, "first": []}


def table(columns, y, classes=PETS, **more):
    """A source of one column per entry: name -> (values, their words; of numbers none)."""
    x = np.stack([np.asarray(values, np.float32) for values, _ in columns.values()], axis=1)
    made = tuple(
        Column(name, "category", "string", words) if words else Column(name, "number", "float32")
        for name, (_, words) in columns.items()
    )
    return tfsoftmax.Source("pets", x, np.asarray(y), classes=classes, columns=made, **more)


def noise(rows, seed=0):
    return np.random.default_rng(seed).normal(size=rows)


def test_columns_by_hand():
    columns = {"age": ([1, 5, NAN, 1, 3], ()), "job": ([0, 1, 1, NAN, 1], ("clerk", "smith", "cook"))}
    source = table(columns, [0, 1, 1, 1, 1], x_test=np.array([[2, 0], [NAN, 2]], np.float32), y_test=[0, 1])
    found = inspect(source)
    assert (found.rows, found.shape, found.dtype) == ({"train": 5, "test": 2}, (2,), "float32")
    assert found.columns == [
        {
            **{"name": "age", "kind": "number", "dtype": "float32", "missing": {"train": 1, "test": 1}},
            **{"distinct": 3, "min": 1.0, "max": 5.0, "mean": 2.5},
        },
        {
            **{"name": "job", "kind": "category", "dtype": "string", "missing": {"train": 1, "test": 0}},
            **{"distinct": 2, "frequent": [["smith", 3], ["clerk", 1]], "unseen_in_test": 1},
        },
    ]
    assert found.values is None
    assert found.classes == [{"name": "cat", "train": 1, "test": 1}, {"name": "dog", "train": 4, "test": 1}]
    assert found.baseline == {"class": "dog", "train": 0.8, "test": 0.5}
    assert not found.constant
    lines = text(found)
    assert lines[0] == "pets: 5 training and 2 test rows of 2 columns, 2 classes"
    assert "age     number float32     1 + 1         3  1 to 5, mean 2.5" in lines
    assert "job     category string        1         2  smith 3, clerk 1; 1 test rows have others" in lines
    assert "always dog: right for 0.800 of the training rows and 0.500 of the test rows" in lines


def test_values_by_hand():
    x = np.array([[[0, 7], [1, 2]], [[4, 7], [1, 3]], [[9, 7], [1, 2]]], np.uint8)
    found = inspect(tfsoftmax.Source("tiny", x, [0, 1, 1], x[:1], [1], PETS))
    assert found.values == {"elements": 4, "min": 0.0, "max": 9.0, "mean": 44 / 12, "constant": 2}
    assert not found.columns
    assert "4 numbers a row, 0 to 9, mean 3.66667; 2 are the same in all training rows" in text(found)


def test_rows_that_stand_twice():
    x = np.array([[1, 2], [3, 4], [1, 2], [5, 6], [1, 2]], np.float32)
    x_test = np.array([[7, 7], [3, 4], [7, 7], [5, 6], [6, 5]], np.float32)
    found = inspect(tfsoftmax.Source("twice", x, [0, 1, 0, 1, 1], x_test, [0, 1, 1, 0, 0], PETS)).duplicates
    assert found == {
        "train": {"rows": 2, "differing": 1, "first": [[2, 0], [4, 0]]},
        "test": {"rows": 1, "differing": 1, "first": [[2, 0]]},
        "test_in_train": {"rows": 2, "differing": 1, "first": [[1, 1], [3, 3]]},
    }


def test_rows_drawn_for_a_test_keep_their_places():
    x = np.array([[1, 2], [3, 4], [1, 2], [5, 6], [5, 6], [3, 4]], np.float32)
    source = tfsoftmax.Source("drawn", x, [0, 1, 1, 0, 0, 1], classes=PETS)
    found = inspect(source, np.array([2, 4], np.int32))
    assert found.rows == {"train": 4, "test": 2}
    assert text(found)[0].endswith("2 classes; the test rows are drawn from all")
    assert found.duplicates == {
        "train": {"rows": 1, "differing": 0, "first": [[5, 1]]},
        "test": EMPTY,
        "test_in_train": {"rows": 2, "differing": 1, "first": [[2, 0], [4, 3]]},
    }
    assert found.values == {"elements": 2, "min": 1.0, "max": 6.0, "mean": 28 / 8, "constant": 0}
    assert warnings(found) == [
        "2 of the 2 test rows repeat a training row byte for byte, 1 with another label (row 2 repeats row 0, row 4 "
        "repeats row 3): the test figures are not those of new rows"
    ]


def test_without_a_test_split():
    found = inspect(table({"age": ([1, 1, 2], ())}, [0, 0, 1]))
    assert found.rows == {"train": 3, "test": None}
    assert set(found.duplicates) == {"train"}
    assert text(found)[0] == "pets: 3 rows of 1 column, 2 classes; no test split"


def test_fashion_mnist_has_no_row_twice_and_a_planted_one_is_found():
    source = sources.read("fashion_mnist")
    found = inspect(source)
    assert found.duplicates == {"train": EMPTY, "test": EMPTY, "test_in_train": EMPTY}
    assert first_lines(found) == [
        "fashion_mnist: 60,000 training and 10,000 test rows of 28x28 uint8 values, 10 classes"
    ]
    assert (found.values["elements"], found.values["max"]) == (784, 255.0)
    assert round(found.values["mean"] / 255, 4) == 0.2860  # the mean that is published for it
    source.x_train[59_999], source.x_test[77] = source.x_train[3], source.x_train[5]
    found = inspect(source)
    assert found.duplicates["train"]["first"] == [[59_999, 3]]
    assert found.duplicates["test_in_train"]["first"] == [[77, 5]]
    assert found.duplicates["test"] == EMPTY


Y = np.arange(300) % 3


@pytest.mark.parametrize(
    ("values", "words", "told"),
    [
        (Y, ("x", "y", "z"), {"share": 1.0, "by": "value"}),
        (np.where(np.arange(300) < 2, 0, Y), ("x", "y", "z"), {"share": 299 / 300, "by": "value"}),
        (np.where(np.arange(300) < 20, 0, Y), ("x", "y", "z"), None),  # 13 of 300 wrong
        (np.where(Y == 0, NAN, Y), ("x", "y", "z"), {"share": 1.0, "by": "value"}),
        (np.arange(300), tuple(map(str, range(300))), None),  # identifiers
        (np.arange(300) // 2, tuple(map(str, range(150))), None),
        ([5] * 300, (), None),
        (np.array([5.0, -1.0, 9.0])[Y] + noise(300) / 10, (), {"share": 1.0, "by": "range"}),
        (
            np.where(np.arange(300) < 2, 50, np.array([5.0, -1.0, 9.0])[Y] + noise(300) / 10),
            (),
            {"share": 298 / 300, "by": "range"},
        ),
        (np.array([0.0, 1.0, 2.0])[Y] + noise(300) / 2, (), None),
        (noise(300), (), None),
        (np.array([7, 4, 9])[Y], (), {"share": 1.0, "by": "value"}),
        (np.where(Y == 1, NAN, np.array([5.0, 0.0, 9.0])[Y] + noise(300) / 10), (), {"share": 1.0, "by": "range"}),
    ],
)
def test_a_column_that_alone_tells_the_label(values, words, told):
    source = table({"other": (noise(300, 1), ()), "leak": (values, words)}, Y, ("a", "b", "c"))
    assert inspect(source).telling == ([{"column": "leak", **told}] if told else [])


def test_naming_the_most_frequent_class_tells_nothing():
    y = np.r_[np.ones(10), np.zeros(1990)].astype(int)  # 0.995 without looking
    columns = {"coin": (np.arange(2000) % 2, ("heads", "tails")), "noise": (noise(2000), ())}
    assert not inspect(table(columns, y)).telling
    assert [told["column"] for told in inspect(table({**columns, "leak": (y, ("no", "yes"))}, y)).telling] == ["leak"]


def test_an_element_of_a_vector_and_few_rows():
    y = np.arange(40) % 2
    x = np.stack([noise(40), y * 3 + noise(40, 1) / 10], axis=1)
    found = inspect(tfsoftmax.Source("vectors", x, y, x[:1] + 1, y[:1], PETS))
    assert warnings(found) == ["element 1 alone tells the label for all rows: is it known when predicting?"]
    assert not inspect(tfsoftmax.Source("few", x[:10], y[:10], x[:1], y[:1], PETS)).telling


def test_constant_columns_and_warnings():
    columns = {
        "same": ([3] * 300, ()),
        "none": ([NAN] * 300, ()),
        "leak": (Y, ("x", "y", "z")),
        "half": ([1, NAN] * 150, ()),
    }
    found = inspect(table(columns, Y, ("a", "b", "c")))
    assert found.constant == ["same", "none"]
    assert first_lines(found)[1:] == [
        "warning: column leak alone tells the label for all rows: is it known when predicting?",
        "warning: the same value in all training rows, of no use to a model: same, none",
    ]


def test_names_are_text():
    name, wide = "\x1b[31m<b>\u202eevil\n", "w" * 1000
    columns = {name: ([0, 1, 1], (name, wide)), wide: ([1, 2, 3], ())}
    columns |= {f"c{k}": ([0, 1, 2], ()) for k in range(50)}
    lines = text(inspect(table(columns, [0, 1, 1], tuple(f"class {k} {wide}" for k in range(40)))))
    assert all(line.isprintable() and len(line) <= 100 for line in lines)
    assert any(r"\x1b[31m<b>\u202eevil\n" in line for line in lines)
    assert [line for line in lines if line.startswith("and ")] == ["and 22 more", "and 10 more"]


ROWS = "species,island,ring\n" + "".join(
    f"{('owl', 'tit')[k % 2]},{k % 7},{('red', 'blue')[k % 2]}\n" for k in range(40)
)


def test_the_verb(tfsoftmax_cli, tmp_path):
    path = tmp_path / "birds.csv"
    path.write_text(ROWS)
    status, out, err = tfsoftmax_cli("inspect", path, "--label", "species", "--category", "island")
    assert (status, err) == (0, "")
    assert out.startswith("birds: 40 rows of 2 columns, 2 classes; no test split\n")
    assert "island  category int64         0         7  0 6, 1 6, 2 6, 3 6, 4 6" in out
    assert "warning: column ring alone tells the label for all rows" in out
    status, out, err = tfsoftmax_cli("inspect", path, "--label", "species", "--drop", "ring", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert [column["name"] for column in found["columns"]] == ["island"]
    assert (found["telling"], found["warnings"]) == ([], [])
    status, out, err = tfsoftmax_cli("inspect", path, "--label", "kind")
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_training_begins_with_the_warnings(tfsoftmax_cli, tmp_path):
    path = tmp_path / "birds.csv"
    path.write_text(ROWS)
    arguments = ["--label", "species", "--test", 10, "--epochs", 1, "--json", "--out", tmp_path / "run"]
    status, out, err = tfsoftmax_cli("train", "--data", path, *arguments)
    assert status == 0
    assert isinstance(json.loads(out), dict)
    lines = err.splitlines()
    assert lines[0] == ("birds: 30 training and 10 test rows of 2 columns, 2 classes; the test rows are drawn from all")
    assert lines[1].startswith("warning: 10 of the 10 test rows repeat a training row byte for byte (row ")
    assert lines[2] == "warning: column ring alone tells the label for all rows: is it known when predicting?"
    assert lines[3].startswith("learning rate ")
    assert lines[4].startswith("epoch 1/1")
