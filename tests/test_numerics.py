import json
import math
from decimal import Context, Decimal, localcontext
from fractions import Fraction

import keras
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsoftmax import numerics
from tfsoftmax.errors import InputError

# format -> bits of the exponent, bits of the fraction, as the standards have them
BITS = {
    "float64": (11, 52),
    "float32": (8, 23),
    "tfloat32": (8, 10),
    "bfloat16": (8, 7),
    "float16": (5, 10),
    "float8_e5m2": (5, 2),
    "float8_e4m3fn": (4, 3),
}
WIDE = ("float16", "bfloat16", "float32", "float64")


def parameters(name):
    """(exponent of the largest numbers, of the smallest normal ones, bits of fraction)."""
    exponent, fraction = BITS[name]
    low = 2 - 2 ** (exponent - 1)
    return (8 if name == "float8_e4m3fn" else 1 - low), low, fraction  # e4m3fn has no infinity, hence one more


def spacing(name, value):
    """One unit in the last place at ``value``."""
    _, low, fraction = parameters(name)
    return 2.0 ** (max(math.floor(math.log2(abs(value))), low) - fraction)


@pytest.mark.parametrize("name", BITS)
def test_formats_are_those_of_the_standards(name):
    high, low, fraction = parameters(name)
    form = numerics.FORMATS[name]
    assert form.epsilon == 2.0**-fraction
    assert form.normal == 2.0**low
    assert form.smallest == Fraction(2) ** (low - fraction)
    # in e4m3fn the last code is NaN
    last = Fraction(2) ** -fraction * (2 if name == "float8_e4m3fn" else 1)
    assert form.largest == (2 - last) * Fraction(2) ** high


@pytest.mark.parametrize("name", BITS)
def test_limits_of_exp_are_logarithms_to_one_unit_in_the_last_place(name):
    high, low, fraction = parameters(name)
    with localcontext(Context(prec=80)):
        two = Decimal(2)
        last = two ** -(fraction + 1) * (3 if name == "float8_e4m3fn" else 1)  # half a step below or above the end
        expected = {
            "nonzero": (two ** (low - fraction - 1)).ln(),
            "normal": (two**low - two ** (low - fraction - 1)).ln(),
            "largest": ((2 - last) * two**high).ln(),
        }
    for limits in (numerics.exp_limits(name), numerics.closed_form(name)):
        for which, value in expected.items():
            found = getattr(limits, which)
            assert abs(Decimal(found) - value) <= Decimal(spacing(name, found)), which
    assert numerics.exp_limits(name) == numerics.closed_form(name)


def test_limits_of_int8():
    assert numerics.exp_limits("int8") == numerics.closed_form("int8") == numerics.Limits(0.0, 0.0, 4.0)
    assert [round(math.exp(x)) for x in (-1, 0, 4, 5)] == [0, 1, 55, 148]


@pytest.mark.parametrize("name", BITS)
def test_the_naive_loss_is_nan_one_number_beyond_the_limits(name):
    below, above = numerics.first_nan(name)
    limits = numerics.closed_form(name)
    assert below == pytest.approx(limits.nonzero - spacing(name, below), abs=0)
    assert above == pytest.approx(limits.largest + spacing(name, limits.largest), abs=0)
    for last, first, other in ((limits.nonzero, below, None), (limits.largest, above, 0.0)):
        for x, is_nan in ((last, False), (first, True)):
            logits = np.array([x, x if other is None else other])
            assert np.isnan(numerics.naive_cross_entropy(logits, 0, name)) == is_nan
            assert np.isfinite(numerics.cross_entropy(logits, 0, name))


def test_numpy_as_people_write_it_is_nan_there_too():
    _, above = numerics.first_nan("float32")
    for x, expected in ((np.nextafter(np.float32(above), np.float32(0)), False), (np.float32(above), True)):
        exps = np.array([x, 0], np.float32)
        with np.errstate(all="ignore"):
            exps = np.exp(exps)
            assert np.isnan(-np.log(exps[0] / exps.sum())) == expected


def logits_of(name, seed, share):
    """float ``(4000, 10)``: any finite numbers of the format, and a share of extreme ones."""
    form, rng = numerics.FORMATS[name], np.random.default_rng(seed)
    size, shape = np.dtype(form.dtype).itemsize, (4000, 10)
    values = np.frombuffer(rng.bytes(size * 40_000), form.dtype).reshape(shape)
    limits = numerics.exp_limits(name)
    edge = [form.largest, form.smallest, form.normal, 0.0, limits.largest, limits.nonzero, limits.normal]
    edge += [*numerics.first_nan(name), form.largest / 2, form.number(form.last - 1)]
    extreme = rng.choice([*edge, *np.negative(edge)], shape).astype(form.dtype)
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(values)
    values = np.where(finite & (rng.random(shape) >= share), values, extreme)
    equal = rng.random(4000) < share / 2  # rows of one number
    values[equal] = values[equal, :1]
    return values, rng.integers(0, 10, 4000)


@pytest.mark.parametrize("name", WIDE)
@settings(max_examples=25, deadline=None)  # 40,000 logits each: a million
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_ours_has_no_nan(name, seed, share):
    logits, labels = logits_of(name, seed, share)
    probabilities = numerics.softmax(logits, name).astype(np.float64)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert (abs(probabilities.sum(axis=1) - 1) <= 10 * numerics.FORMATS[name].epsilon).all()
    loss = numerics.cross_entropy(logits, labels, name)
    assert not np.isnan(loss).any()
    assert (loss >= 0).all()
    # infinite only where the loss itself is beyond the format
    wide, top = logits.astype(np.longdouble), numerics.FORMATS[name].largest
    needed = wide.max(axis=1) - wide[np.arange(len(labels)), labels]
    assert (np.isfinite(loss) | (needed >= top)).all()


@pytest.mark.parametrize("name", WIDE)
def test_the_loss_that_models_are_trained_with_has_no_nan(name):
    logits, labels = logits_of(name, 1, 0.5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None, dtype=name)
    assert not np.isnan(np.asarray(loss(labels, logits)).astype(np.float64)).any()


@pytest.mark.parametrize("name", BITS)
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.sampled_from([2, 3, 10]), scale=st.sampled_from([0.1, 1.0, 5.0]))
def test_values_are_those_of_exact_arithmetic(name, seed, width, scale):
    form, rng = numerics.FORMATS[name], np.random.default_rng(seed)
    logits = form.rounded(rng.normal(0, scale, width))
    label = int(rng.integers(width))
    with localcontext(Context(prec=50)):
        exps = [Decimal(float(z)).exp() for z in logits]
        exact = [float(e / sum(exps)) for e in exps]
        loss = float(-(exps[label] / sum(exps)).ln())
    # a sum of `width` terms, exp, log and division: each half an epsilon; the shift is an error of the argument
    allowed = form.epsilon * (width + 2 * np.ptp(logits.astype(np.float64)) + 2)
    np.testing.assert_allclose(numerics.softmax(logits, name).astype(float), exact, atol=allowed * max(exact))
    assert abs(float(numerics.cross_entropy(logits, label, name)) - loss) <= allowed * (1 + loss)


@settings(max_examples=300, deadline=None)
@given(value=st.floats(width=32, allow_nan=False))
def test_tfloat32_is_the_nearest_number_of_ten_bits(value):
    found = float(numerics.FORMATS["tfloat32"].rounded(value))
    if not math.isfinite(value) or abs(value) >= (2 - 2.0**-11) * 2.0**127:
        assert found == math.copysign(math.inf, value)
        return
    exponent = max(math.frexp(value)[1] - 1, -126) if value else 0
    step = Fraction(2) ** (exponent - 10)
    assert Fraction(found) == round(Fraction(value) / step) * step  # round is to even


@pytest.mark.parametrize("name", BITS)
def test_classes_that_can_be_counted(name):
    assert numerics.counts_to(name) == 2 / numerics.FORMATS[name].epsilon
    allowed = numerics.sums_within(name, 0.01)
    assert (allowed - 1) * numerics.FORMATS[name].epsilon / 2 <= 0.01 < allowed * numerics.FORMATS[name].epsilon / 2


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn])
def test_sums_of_ones_stop_there(dtype):
    total = np.add.accumulate(np.ones(5000, dtype)).astype(np.float64)
    assert total.max() == numerics.counts_to(np.dtype(dtype).name)


def test_the_table_and_its_json(tfsoftmax_cli):
    status, out, _ = tfsoftmax_cli("numbers")
    assert status == 0
    (line,) = [line for line in out.splitlines() if line.startswith("float16 ") and "2,048" in line]
    assert line.split()[1:4] == ["-17.328125", "-9.703125", "11.085938"]
    status, out, _ = tfsoftmax_cli("numbers", "--json")
    found = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert status == 0
    assert list(found) == list(numerics.FORMATS)
    for name in BITS:
        rows = {row["case"]: row for row in found[name]["edges"]}
        assert rows["one number more"]["naive"] == rows["one number less"]["naive"] == "nan"
        assert all(row["log-sum-exp"] != "nan" for row in rows.values())
        assert rows["one number less"]["log-sum-exp"] == pytest.approx(math.log(2), rel=0.1)
    assert "edges" not in found["int8"]


def test_what_cannot_be_computed_is_named():
    with pytest.raises(InputError, match=r"format must be one of .*bfloat16.*got 'float12'"):
        numerics.exp_limits("float12")
    with pytest.raises(InputError, match="got 'int8'"):
        numerics.softmax([0.0, 1.0], "int8")
    for value in (math.nan, math.inf, 70_000.0):
        with pytest.raises(InputError, match="finite numbers of the format"):
            numerics.cross_entropy([0.0, value], 0, "float16")
