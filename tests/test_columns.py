"""Tables: raw rows of named columns as features, in TensorFlow, NumPy and the compiled step."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import tfsoftmax
from tfsoftmax import columns
from tfsoftmax.errors import InputError
from tfsoftmax.sources import tables
from tfsoftmax.spec import Column, ModelSpec

WORDS = ["red", "green", "blue", "=cmd", "größe"]


def frame(rows, seed, gaps=False):
    """A mixed table: numbers, whole numbers, booleans, words; with gaps where asked for; the label depends on all."""
    rng = np.random.default_rng(seed)
    made = pd.DataFrame(
        {
            "size": rng.normal(50, 20, rows),
            "color": rng.choice(WORDS[:3] if seed == 0 else WORDS, rows),
            "count": rng.integers(0, 9, rows),
            "new": rng.random(rows) < 0.4,
            "shop": rng.choice([3, 11, 200], rows),
        }
    )
    score = made["size"] / 20 + 2 * (made["color"] == "red") + made["new"] - (made["shop"] == 200)
    made["kind"] = np.digitize(score, [2.5, 4]).astype(str)
    if gaps:
        made.loc[rng.random(rows) < 0.1, "size"] = np.nan
        made.loc[rng.random(rows) < 0.1, "color"] = None
    return made


def read(train, test, **choices):
    choices = tables.Choices(label="kind", category=("shop",), **choices)
    return tables.source("mixed", tables.of_frame(train), choices, tables.of_frame(test))


@pytest.fixture(scope="module")
def mixed():
    return tfsoftmax.Data(read(frame(500, 0), frame(200, 1)), batch_size=32, preprocess="standardize", seed=2)


def test_features_are_those_of_scikit_learn(mixed):
    train, names = frame(500, 0), ["size", "count", "new"]
    rows = mixed.train.rows
    encoder = make_column_transformer(
        (StandardScaler(), names), (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["color", "shop"])
    ).fit(train.iloc[rows.index])
    assert columns.feature_names(mixed.spec.columns) == [
        *names, "color=blue", "color=green", "color=red", "shop=3", "shop=11", "shop=200"
    ]  # fmt: skip
    for expected, data in ((train.iloc[rows.index], mixed.train), (frame(200, 1), mixed.test)):
        got = np.asarray(tfsoftmax.rows.preprocess(mixed.spec, data.rows.x))
        np.testing.assert_allclose(got, encoder.transform(expected), atol=2e-6)
    batch = next(iter(mixed.test))[0]
    assert batch.dtype == tf.float32
    assert batch.shape == (32, 9)


def test_the_compiled_epoch_is_keras_own(mixed):
    settings = {"epochs": 5, "verbose": 0, "class_weight": {0: 1.0, 1: 2.0, 2: 0.5}}
    ours = tfsoftmax.SoftmaxRegression(3, lr=0.3, momentum=0.5, l2=1e-3)
    history = ours.fit(mixed.train, validation_data=mixed.val, **settings).history
    regularizer = keras.regularizers.L2(1e-3)
    dense = keras.layers.Dense(3, kernel_initializer="zeros", kernel_regularizer=regularizer)
    plain = keras.Sequential([keras.layers.Flatten(), dense])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(keras.optimizers.SGD(0.3, momentum=0.5), loss, metrics=["accuracy"])
    mixed.train.rows.epoch.assign(0)
    expected = plain.fit(mixed.train, validation_data=mixed.val, shuffle=False, **settings).history
    for name in expected:
        np.testing.assert_allclose(history[name], expected[name], atol=1e-5)
    for a, b in zip(ours.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert ours.evaluate(mixed.test, verbose=0) == pytest.approx(plain.evaluate(mixed.test, verbose=0), abs=1e-5)


@st.composite
def tables_and_rows(draw):
    """A spec of any columns, and raw rows that fit it."""
    impute = draw(st.booleans())
    made = []
    for place in range(draw(st.integers(1, 5))):
        gaps = impute and draw(st.booleans())
        if draw(st.booleans()):
            fill = draw(st.floats(-9, 9, width=32))
            made.append(Column(f"c{place}", "number", "float32", offset=fill / 2, scale=0.5, fill=fill, gaps=gaps))
        else:
            count = draw(st.integers(0, 4))
            values = tuple(map(str, range(count)))
            made.append(Column(f"c{place}", "category", "string", values=values, gaps=gaps))
    if not any(column.features for column in made):
        made.append(Column("last", "number", "float32"))
    spec = ModelSpec(
        "t", (len(made),), "float32", ("a", "b"), "standardize", 0, 1, tuple(made), "impute" if impute else "refuse"
    )
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    rows = np.stack(
        [rng.normal(size=7) if column.kind == "number" else rng.integers(-1, len(column.values), 7) for column in made],
        axis=1,
    ).astype(np.float32)
    if impute:
        rows[rng.random(rows.shape) < 0.3] = np.nan
    return spec, rows


def by_hand(spec, row):
    """The features of one row, written down column by column."""
    numbers, rest = [], []
    for column, value in zip(spec.columns, row, strict=True):
        if column.kind == "number":
            numbers.append(column.fill if np.isnan(value) else value)
        else:
            rest += [float(value == k) for k in range(len(column.values))]
        if column.gaps:
            rest.append(float(np.isnan(value)))
    return numbers + rest


@settings(max_examples=60, deadline=None)
@given(tables_and_rows())
def test_features_of_any_table(case):
    spec, rows = case
    expected = np.array([by_hand(spec, row) for row in rows], np.float32)
    np.testing.assert_array_equal(columns.dense(spec, rows), expected)
    np.testing.assert_array_equal(columns.features(spec, tf.constant(rows)), expected)
    assert ModelSpec.from_dict(__import__("json").loads(spec.to_json()), "spec") == spec
    assert len(columns.feature_names(spec.columns)) == len(columns.column_of_feature(spec.columns)) == spec.features[0]


def test_missing_values_are_refused_or_imputed():
    source = read(frame(500, 0, gaps=True), frame(200, 1, gaps=True))
    with pytest.raises(
        InputError, match=r"'mixed' \(training rows\) has missing values in 'size' \(\d+ of 500\), 'color'.*impute"
    ):
        tfsoftmax.Data(source)
    data = tfsoftmax.Data(source, preprocess="standardize", missing="impute")
    size, color = data.spec.columns[0], data.spec.columns[1]
    assert (size.gaps, color.gaps) == (True, True)
    assert not data.spec.columns[2].gaps
    seen = frame(500, 0, gaps=True).iloc[data.train.rows.index]
    assert size.fill == pytest.approx(seen["size"].mean(), rel=1e-6)
    features = columns.dense(data.spec, data.train.rows.x)
    names = columns.feature_names(data.spec.columns)
    np.testing.assert_array_equal(features[:, names.index("size is missing")], seen["size"].isna())
    np.testing.assert_array_equal(features[:, names.index("color is missing")], seen["color"].isna())


def test_what_only_other_rows_have_speaks_for_no_class(mixed):
    test = frame(200, 1)
    found = columns.unseen(mixed.test.rows.x, mixed.spec.columns)
    assert found == {"color": int(test["color"].isin(WORDS[3:]).sum())}
    rows = columns.dense(mixed.spec, mixed.test.rows.x)[test["color"].isin(WORDS[3:])]
    assert not rows[:, 3:6].any()


def test_columns_of_other_data_are_found_by_name(mixed):
    test = frame(200, 1)
    shuffled = read(frame(500, 0), test[["shop", "kind", "new", "color", "size", "count"]].assign(more=1.0))
    x = columns.recode(shuffled.x_test, shuffled.columns, mixed.spec.columns)
    np.testing.assert_array_equal(x, mixed.test.rows.x)
    without = read(frame(500, 0).drop(columns="size"), test)
    with pytest.raises(InputError, match="has no column 'size'"):
        columns.recode(without.x_test, without.columns, mixed.spec.columns)
    words = read(frame(500, 0).assign(count=WORDS * 100), test.assign(count="red"))
    with pytest.raises(InputError, match="column 'count' must be a number, as in training, and is a category"):
        columns.recode(words.x_test, words.columns, mixed.spec.columns)
