import numpy as np
from conftest import CLASSES, SHAPE
from hypothesis import given
from hypothesis import strategies as st

from tfsoftmax import ModelSpec
from tfsoftmax.exporting.linear import Linear


def spec(offset, scale, dtype="uint8"):
    return ModelSpec("x", SHAPE, dtype, CLASSES, "standardize", offset, scale)


@given(
    st.integers(0, 2**32 - 1),
    st.one_of(st.floats(-255, 255), st.just("each")),
    st.one_of(st.floats(1e-3, 1), st.just("each")),
    st.floats(0, 3),
)
def test_folded_weights_give_the_same_logits(seed, offset, scale, size):
    rng = np.random.default_rng(seed)
    offset = tuple(rng.uniform(0, 255, 30).tolist()) if offset == "each" else offset
    scale = tuple(rng.uniform(1e-3, 0.1, 30).tolist()) if scale == "each" else scale
    kernel = (rng.normal(size=(30, 3)) * size).astype(np.float32)
    linear = Linear(kernel, rng.normal(size=3).astype(np.float32), spec(offset, scale))
    raw = rng.integers(0, 256, (20, 30)).astype(np.float64)
    exact = ((raw - np.array(offset)) * np.array(scale)) @ kernel.astype(np.float64) + linear.bias
    folded = linear.fold()
    assert folded is linear or folded.folded
    if folded.folded:
        got = raw.astype(np.float32) @ folded.kernel + folded.bias
        sums = np.abs(raw) @ np.abs(folded.kernel) + np.abs(folded.bias)
        assert (np.abs(got - exact) <= 1e-5 + 30 * 2.0**-24 * sums).all()


def test_far_from_zero_nothing_is_folded():
    kernel = np.ones((30, 3), np.float32)
    near, far = spec(0.5, 1.0, "float32"), spec(1e6, 1.0, "float32")
    assert Linear(kernel, np.zeros(3, np.float32), near).fold().folded
    assert not Linear(kernel, np.zeros(3, np.float32), far).fold().folded
