"""What the fingerprint of data tells apart, and what it does not."""

import dataclasses

import numpy as np
import pytest
from conftest import write_idx_folder

import tfsoftmax
from tfsoftmax.sources.fingerprint import changes


def changed(source, **arrays):
    fields = {field.name: getattr(source, field.name) for field in dataclasses.fields(source) if field.init}
    return tfsoftmax.Source(**{**fields, **arrays}).fingerprint


def test_the_same_rows_have_the_same(source, tmp_path):
    first = tfsoftmax.Data(source, batch_size=8, seed=1).fingerprint
    folder = write_idx_folder(tmp_path / "other name", source)
    assert tfsoftmax.load(f"idx:{folder}", val=0, preprocess="center").fingerprint == first
    copied = np.asfortranarray(source.x_train.copy())
    assert changed(source, x_train=copied, y_train=source.y_train.astype(np.int64)) == first


def test_each_change_is_named(source):
    x, y = source.x_train.copy(), source.y_train.copy()
    x[-1, -1, -1] ^= 1
    y[0] = (y[0] + 1) % 3
    cases = {
        "training rows": {"x_train": x},
        "labels of the training rows": {"y_train": y},
        "training rows (230 then, 229 now)": {"x_train": source.x_train[1:], "y_train": source.y_train[1:]},
        "test rows": {"x_test": source.x_test[::-1]},
        "order of the class names": {"classes": ("square", "round", "flat")},
        "class names": {"classes": ("round", "square", "even")},
        "class names (3 then, 4 now)": {"classes": ("round", "square", "flat", "new")},
    }
    for text, arrays in cases.items():
        assert changes(source.fingerprint, changed(source, **arrays)) == [text]


@pytest.mark.parametrize("text", ["", "x", "train:1", "train:1:2:3 order:::", "\0"])
def test_another_form_is_a_change(source, text):
    assert changes(text, source.fingerprint)


def test_of_many_rows_some_are_read(source, monkeypatch):
    from tfsoftmax.sources import fingerprint

    monkeypatch.setattr(fingerprint, "_WHOLE", 230 * 30 // 3)
    x, y = source.x_train.copy(), source.y_train.copy()
    x[1] ^= 1  # between the rows that are read
    assert changed(source, x_train=x) == source.fingerprint
    y[1] = (y[1] + 1) % 3
    assert changes(source.fingerprint, changed(source, y_train=y)) == ["labels of the training rows"]
    assert changes(source.fingerprint, changed(source, x_train=x[:-1], y_train=source.y_train[:-1]))
