import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper

from tfsoftmax import quantization, sources
from tfsoftmax.errors import InputError
from tfsoftmax.exporting.formats import EXPORTERS
from tfsoftmax.exporting.linear import Linear
from tfsoftmax.spec import ModelSpec

BYTES = hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 9)))
FLOATS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-1e3, 1e3, width=16)
)


def session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def matmul_integer():
    """A graph of MatMulInteger alone."""
    names = {"a": [None, None], "b": [None, None], "a_zero": [], "b_zero": [None]}
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, shape) for name, shape in names.items()]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [None, None])
    graph = helper.make_graph([helper.make_node("MatMulInteger", [*names], ["y"])], "product", inputs, [output])
    return session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


@pytest.fixture(scope="module")
def images():
    return sources.read("fashion_mnist").x_test  # 10,000


def test_the_integer_product_is_matmulinteger_on_ten_thousand_rows(images):
    rng = np.random.default_rng(0)
    a = images.reshape(len(images), -1)
    b = rng.integers(0, 256, (784, 10), np.uint8)
    zeros = rng.integers(0, 256, 10, np.uint8)
    for a_zero, b_zero in ((0, np.full(10, 128, np.uint8)), (131, zeros)):
        (expected,) = matmul_integer().run(
            None, {"a": a, "b": b, "a_zero": np.array(a_zero, np.uint8), "b_zero": b_zero}
        )
        found = quantization.integer_product(a, b, a_zero, b_zero)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)


def test_the_integer_product_is_that_of_the_int8_export_on_ten_thousand_rows(images, tmp_path):
    rng = np.random.default_rng(1)
    spec = ModelSpec("images", (28, 28), "uint8", tuple("abcdefghij"), "unit", 0.0, 1 / 255)
    linear = Linear(rng.normal(0, 0.3, (784, 10)).astype(np.float32), rng.normal(size=10).astype(np.float32), spec)
    EXPORTERS["onnx_int8"].write(linear, tmp_path)
    model = onnx.load(tmp_path / "model.int8.onnx")
    has = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    assert has["kernel"].dtype == np.uint8
    assert has["kernel"].min() >= 1, "the chapter's numbers from 1 to 255"
    code = quantization.affine(linear.fold().kernel, symmetric=True, axis=1)
    np.testing.assert_array_equal(code.quantize(linear.fold().kernel), has["kernel"])
    sums = quantization.integer_product(images.reshape(len(images), -1), has["kernel"], 0, has["zero"])
    # `part` is a power of two, so that only the step's product and the sum with the bias are rounded
    expected = sums.astype(np.float32) * has["part"] * has["step"] + has["bias"]
    (logits,) = session(model).run(["logits"], {spec.input_name: images})
    np.testing.assert_array_equal(logits, expected)


@settings(deadline=None)
@given(data=st.data(), a=BYTES)
def test_the_integer_product_is_that_of_unbounded_integers(data, a):
    b = data.draw(hnp.arrays(data.draw(st.sampled_from([np.uint8, np.int8])), (a.shape[1], 4)))
    a_zero = data.draw(hnp.arrays(np.uint8, (len(a), 1)))
    b_zero = data.draw(hnp.arrays(np.uint8, 4))
    expected = (a.astype(object) - a_zero.astype(object)) @ (b.astype(object) - b_zero.astype(object))
    np.testing.assert_array_equal(quantization.integer_product(a, b, a_zero, b_zero), expected.astype(np.int64))


def test_sums_that_32_bits_do_not_hold_are_refused():
    a = np.full((1, 33_026), 255, np.uint8)
    with pytest.raises(InputError, match="at most 33,025 products of bytes, got 33,026"):
        quantization.integer_product(a, a.T)
    assert quantization.integer_product(a[:, 1:], a.T[1:]) == 255 * 255 * 33_025 < 2**31
    with pytest.raises(InputError, match="a must be int8 or uint8 codes, got float64"):
        quantization.integer_product(np.ones((1, 1)), a.T)


@settings(deadline=None)
@given(values=FLOATS, bits=st.integers(2, 8), symmetric=st.booleans(), axis=st.sampled_from([None, 0, 1, -1]))
def test_affine_codes_are_off_by_half_a_step_at_most(values, bits, symmetric, axis):
    code = quantization.affine(values, bits, symmetric=symmetric, axis=axis)
    codes = code.quantize(values)
    assert codes.dtype == np.uint8
    assert codes.max() < 2**bits
    # the zero point is rounded as well, which can push the ends of the window by another half
    error = abs(code.dequantize(codes) - values)
    assert (error <= code.scale * (0.5 if symmetric else 1.0) * (1 + 1e-5)).all()
    assert (code.dequantize(np.broadcast_to(code.zero_point, values.shape)) == 0).all()
    assert code.scale.size == (1 if axis is None else values.shape[axis])
    if symmetric:
        assert (code.dynamic_range() == 2 ** (bits - 1)).all()


def test_a_scale_a_class_gives_each_its_own_window():
    weights = np.array([[1000.0, 1.0], [-500.0, 0.25]])
    one, each = quantization.affine(weights, symmetric=True), quantization.affine(weights, symmetric=True, axis=1)
    np.testing.assert_array_equal(one.dequantize(one.quantize(weights))[:, 1], 0)
    np.testing.assert_allclose(each.dequantize(each.quantize(weights)), weights, rtol=0.01)


def test_codes_outside_the_window_are_held_at_its_end_and_sums_as_well():
    code = quantization.affine([-1.0, 2.0], 8)
    np.testing.assert_array_equal(code.quantize([-9.0, 9.0]), [0, 255])
    a, b = code.quantize([0.5, -0.5, 1.9]), code.quantize([0.25, -0.25, 1.9])
    np.testing.assert_allclose(code.dequantize(quantization.add(a, b, code)), [0.75, -0.75, 2.0], atol=2 * code.scale)
    assert ((a + b).astype(int) != a.astype(int) + b)[2]  # NumPy's own sum of bytes wraps around


@settings(deadline=None)
@given(values=hnp.arrays(np.float64, 8, elements=st.floats(2**-7, 1) | st.floats(-1, -(2**-7))), bits=st.integers(5, 8))
def test_products_of_logarithmic_codes_are_sums(values, bits):
    code = quantization.logarithmic([1.0], bits)
    a, b = code.quantize(values), code.quantize(values[::-1])
    half_a_step = 2 ** (0.5 / code.steps)
    ratio = code.dequantize(a) / values
    assert ((ratio <= half_a_step * 1.0001) & (ratio >= 0.9999 / half_a_step)).all()
    products = code.multiply(a, b)
    exact = code.dequantize(a).astype(np.float64) * code.dequantize(b)
    np.testing.assert_allclose(code.dequantize(products), np.where(products == 0, 0, exact), rtol=1e-5)
    assert code.multiply(a, np.zeros(8, np.int8)).tolist() == [0] * 8
    assert code.dynamic_range() == code.dequantize(code.last) / code.dequantize(1)


def test_wrong_arguments_are_named():
    for bits in (1, 9, 2.5):
        with pytest.raises(InputError, match="bits must be"):
            quantization.affine([1.0], bits)
    for values in ([], [np.nan]):
        with pytest.raises(InputError, match="finite numbers, at least one"):
            quantization.affine(values)
