"""Runs of tables, on other data than their own."""

import numpy as np
import pandas as pd
import pytest

import tfsoftmax
from tfsoftmax.errors import InputError


def frame(words):
    return pd.DataFrame({"word": words, "kind": np.where(np.array(words) == "a", "left", "right")})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = tfsoftmax.load(frame(["a", "b", "c"] * 30), label="kind", val=0, test=30)
    return tfsoftmax.train(data, tfsoftmax.RunConfig(epochs=60, val=0, lr=2.0), tmp_path_factory.mktemp("runs") / "run")


def test_a_word_that_only_the_run_knows_counts(run):
    """The other data have no "a" among their training rows, but the run had."""
    x, y = pd.DataFrame({"word": ["b", "z"] * 20}), ["right", "left"] * 20
    x_test, y_test = pd.DataFrame({"more": [1, 2, 3], "word": ["a", "a", "c"]})[["word"]], ["left", "left", "right"]
    other = tfsoftmax.Data(x, y, x_test=x_test, y_test=y_test, val=0)
    assert run.evaluate(data=other)["accuracy"] == 1.0


def test_other_tables_are_refused(run):
    without = pd.DataFrame({"other": ["a", "b"] * 9, "kind": ["left", "right"] * 9})
    with pytest.raises(InputError, match="has no column 'word'; it has 'other'"):
        run.evaluate(data=tfsoftmax.load(without, label="kind"))
    arrays = tfsoftmax.Data(np.eye(4), ["left", "right"] * 2, x_test=np.eye(4), y_test=["left", "right"] * 2)
    with pytest.raises(InputError, match="takes rows of a table, and those of 'data' are not"):
        run.evaluate(data=arrays)
