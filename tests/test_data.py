import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

import tfsoftmax
from tfsoftmax.preprocessing import PREPROCESSORS


def batches(dataset):
    return [(x.numpy(), y.numpy()) for x, y in dataset]


def numbered(rows):
    """Rows whose single input is their own number, so that each can be followed."""
    x = np.arange(rows, dtype=np.float32)[:, None]
    return tfsoftmax.Source("numbered", x, np.arange(rows) % 2, x, np.arange(rows) % 2, ("even", "odd"))


def order(dataset):
    return np.concatenate([x[:, 0] for x, _ in batches(dataset)]).astype(int).tolist()


def test_batches_are_as_documented(source):
    import tensorflow as tf

    data = tfsoftmax.Data(source, batch_size=32, val=50)
    for dataset, rows in [(data.train, 180), (data.val, 50), (data.test, 50)]:
        assert isinstance(dataset, tf.data.Dataset)
        assert dataset.cardinality() == -(-rows // 32)
        assert dataset.element_spec[0].shape.as_list() == [None, 6, 5]
        sizes = [len(y) for _, y in batches(dataset)]
        assert sizes == [32] * (rows // 32) + [rows % 32]
        x, y = next(iter(dataset))
        assert x.dtype == tf.float32
        assert y.dtype == tf.int32
    assert data.classes == ("round", "square", "flat")
    x, y = batches(data.test)[0]
    np.testing.assert_allclose(x, source.x_test[:32] / 255, rtol=1e-6)
    np.testing.assert_array_equal(y, source.y_test[:32])
    assert data.train.map(lambda x, y: y).take(1).cardinality() == 1


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(2, 40), batch_size=st.integers(1, 45), seed=st.integers(0, 2**31), share=st.floats(0.01, 0.99))
def test_split_and_order(rows, batch_size, seed, share):
    val = max(1, min(rows - 1, int(rows * share)))
    data = tfsoftmax.Data(numbered(rows), preprocess="unit", batch_size=batch_size, val=val, seed=seed)
    first, second, held_out = order(data.train), order(data.train), order(data.val)
    assert len(held_out) == val
    assert sorted(first + held_out) == list(range(rows)), "each row is in exactly one split, once an epoch"
    assert sorted(second) == sorted(first)
    again = tfsoftmax.Data(numbered(rows), preprocess="unit", batch_size=batch_size, val=val, seed=seed)
    assert (order(again.train), order(again.train), order(again.val)) == (first, second, held_out)


def test_epochs_and_seeds_differ():
    data = tfsoftmax.Data(numbered(200), preprocess="unit", seed=1)
    other = tfsoftmax.Data(numbered(200), preprocess="unit", seed=2)
    assert len({tuple(order(dataset)) for dataset in (data.train, data.train, other.train)}) == 3
    assert order(data.val) != order(other.val)
    assert order(data.test) == list(range(200))


def test_val_can_be_the_test_split_or_nothing(source):
    book = tfsoftmax.Data(source, val="test")
    assert len(book.train.rows) == 230
    np.testing.assert_array_equal(book.val.rows.x, source.x_test)
    refit = tfsoftmax.Data(source, val=50, refit=True)
    assert len(refit.train.rows) == 230
    assert refit.val is None
    assert len(tfsoftmax.Data(source).val.rows) == 230 // 6
    none = tfsoftmax.Data(source, val=0)
    assert len(none.train.rows) == 230
    assert none.val is None


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_preprocessing_constants(source, dtype):
    full = 255 if dtype == np.uint8 else 1
    floats = tfsoftmax.Source(
        "same", source.x_train.astype(dtype), source.y_train, source.x_test.astype(dtype), source.y_test, source.classes
    )
    for name in PREPROCESSORS:
        data = tfsoftmax.Data(floats, val=50, preprocess=name, batch_size=500)
        raw = data.train.rows.x.astype(np.float64) / full  # the constants come from training rows alone
        x = data.test.rows.x / full
        expected = {
            "unit": x,
            "center": x - raw.mean(axis=0),
            "standardize": (x - raw.mean(axis=0)) / (raw.std(axis=0) + (0.05 if dtype == np.uint8 else 0)),
        }[name]
        np.testing.assert_allclose(batches(data.test)[0][0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e-20, 1e30])
def test_standardize_in_any_unit(unit):
    rng = np.random.default_rng(0)
    table = rng.normal(3, 2, (300, 4))
    table[:, 1], table[:, 2], table[:, 3] = 0.1, 0, 1e-42 / unit * (table[:, 3] > 3)  # constant, zero, denormal
    x, y = (table * unit).astype(np.float32), rng.integers(0, 2, 300)
    data = tfsoftmax.Data(tfsoftmax.Source("table", x, y, x, y, "ab"), val=0, preprocess="standardize", batch_size=300)
    found = np.sort(batches(data.train)[0][0], axis=0)
    np.testing.assert_allclose(found[:, 0], np.sort(StandardScaler().fit_transform(x[:, :1]), axis=0)[:, 0], atol=1e-5)
    np.testing.assert_array_equal(found[:, 1:] * 1.0, np.zeros((300, 3)), strict=False)


def test_numpy_numbers_are_settings(source):
    data = tfsoftmax.Data(source, batch_size=np.int64(16), val=np.uint8(10), seed=np.int32(3))
    plain = tfsoftmax.Data(source, batch_size=16, val=10, seed=3)
    assert repr(data) == repr(plain)
    config = tfsoftmax.RunConfig(epochs=np.int64(3), lr=np.float32(0.5), refit=False, momentum=np.float64(0.9))
    assert config.to_json() == tfsoftmax.RunConfig(epochs=3, lr=0.5, momentum=0.9).to_json()
    assert tfsoftmax.SoftmaxRegression(np.int64(3), lr=np.float32(0.5), decay_steps=np.int64(3)).layers[1].units == 3
    for wrong in (np.float64(2.5), np.array([3]), np.True_, 10**400):
        with pytest.raises(tfsoftmax.InputError, match="batch_size must be a whole number"):
            tfsoftmax.Data(source, batch_size=wrong)


def test_spec_goes_through_json(source, tmp_path):
    spec = tfsoftmax.Data(source, preprocess="standardize").spec
    (tmp_path / "spec.json").write_text(spec.to_json())
    assert tfsoftmax.ModelSpec.load(tmp_path / "spec.json", "spec") == spec


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"val": 230}, "val=230 leaves no training row of 230"),
        ({"val": -1}, "val must be a whole number of at least 0, got -1"),
        (
            {"val": (np.zeros((9, 9)), [1])},
            "val must be a number of rows, a share of them such as 0.2, or 'test', got [^\n]*; rows of your own go to",
        ),
        ({"val": "train"}, "val must be a number of rows, a share of them such as 0.2, or 'test'"),
        ({"seed": -1}, "seed must be"),
        ({"preprocess": "whiten"}, "preprocess must be one of center, standardize, unit, got 'whiten'"),
    ],
)
def test_bad_settings(source, setting, text):
    with pytest.raises(tfsoftmax.InputError, match=text):
        tfsoftmax.Data(source, **setting)
