"""Graphs of a table: one input per column, by its name, words as strings.

A number comes as float32 ``(batch,)`` and NaN where it is missing, a word as a string and ``""`` where it is missing, a
whole number that stands for a category as int64 and the smallest one where it is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tfsoftmax.columns import MISSING_INT, blocks, constants
from tfsoftmax.exporting.linear import Linear
from tfsoftmax.spec import OUTPUTS, Column, ModelSpec

if TYPE_CHECKING:
    import onnx
    import tensorflow as tf


def argument(place: int, column: Column) -> str:
    """What a column is called as an argument of a TensorFlow function: its name, where TensorFlow takes such names."""
    plain = column.name.isidentifier() and column.name.isascii() and not column.name.startswith(("_", "column_"))
    return column.name if plain and column.name not in ("self", "cls") else f"column_{place:05d}"


def tensor_spec(place: int, column: Column) -> tf.TensorSpec:
    """The TensorFlow argument of a column."""
    import tensorflow as tf

    dtype = tf.float32 if column.kind == "number" else tf.as_dtype(column.dtype)
    return tf.TensorSpec((None,), dtype, name=argument(place, column))


class Lookup:
    """The tables of a TensorFlow graph that find the code of each category; must be tracked by what is saved."""

    def __init__(self, spec: ModelSpec):
        import tensorflow as tf

        self.spec = spec
        self.tables: dict[str, tf.lookup.StaticHashTable] = {}
        for place, column in enumerate(spec.columns):
            if column.kind == "category" and column.values:
                keys = tf.constant(column.values)
                keys = keys if column.dtype == "string" else tf.strings.to_number(keys, tf.int64)
                codes = tf.range(len(column.values), dtype=tf.int64)
                initializer = tf.lookup.KeyValueTensorInitializer(keys, codes)
                self.tables[argument(place, column)] = tf.lookup.StaticHashTable(initializer, -1)

    def raw(self, given: dict[str, tf.Tensor]) -> tf.Tensor:
        """Raw rows float32 ``(batch, columns)`` of arguments by name."""
        import tensorflow as tf

        values = []
        for place, column in enumerate(self.spec.columns):
            x = given[argument(place, column)]
            if column.kind == "category":
                absent = tf.equal(x, "" if column.dtype == "string" else MISSING_INT)
                table = self.tables.get(argument(place, column))
                codes = tf.zeros_like(x, tf.int64) - 1 if table is None else table.lookup(x)
                x = tf.where(absent, np.float32(np.nan), tf.cast(codes, tf.float32))
            values.append(x)
        return tf.stack(values, axis=1)


def onnx_model(linear: Linear, opset: int, *, int8: bool) -> onnx.ModelProto:
    """The ONNX graph of a table; with ``int8`` the weights are stored in eight bits, one step per feature.

    A step per feature keeps the rounding small beside what the feature itself says, though its numbers may be large.

    Numbers go through a matrix product. Each category selects a row of the weights; a value that training did not see
    selects the last one, which is all zeros.
    """
    from onnx import TensorProto, helper, numpy_helper

    spec, inputs = linear.spec, []
    nodes: list[onnx.NodeProto] = []
    arrays: dict[str, np.ndarray] = {}
    count = sum(column.kind == "number" for column in spec.columns)
    taken = {*OUTPUTS, *(column.name for column in spec.columns)}

    def add(kind: str, given: list[str], made: str | None = None, **attributes: Any) -> str:
        name = made or f"value {len(nodes)}"
        while not made and name in taken:
            name += "_"
        nodes.append(helper.make_node(kind, given, [name], f"{kind.lower()}_{len(nodes)}", **attributes))
        return name

    def constant(array: Any) -> str:
        name = f"constant {len(arrays)}"
        while name in taken:
            name += "_"
        arrays[name] = np.asarray(array)
        return name

    def weights(rows: slice) -> str:
        """The given rows of the weights, followed by a row of zeros."""
        if not int8:
            return constant(padded[rows])
        step = np.abs(padded[rows]).max(axis=1, keepdims=True) / 127
        step = np.maximum(step, np.finfo(np.float32).tiny).astype(np.float32)
        whole = add("Cast", [constant((np.rint(padded[rows] / step) + 128).astype(np.uint8))], to=TensorProto.FLOAT)
        return add("Mul", [add("Sub", [whole, constant(np.float32(128))]), constant(step)])

    padded = np.concatenate([linear.kernel, np.zeros((1, linear.kernel.shape[1]), np.float32)])
    one, last = constant(np.array([1])), len(linear.kernel)
    inside = {block.column: block for block in blocks(spec.columns)}
    numbers, chosen = [], []
    for place, column in enumerate(spec.columns):
        kind = {"string": TensorProto.STRING, "int64": TensorProto.INT64}.get(column.dtype, TensorProto.FLOAT)
        inputs.append(helper.make_tensor_value_info(column.name, kind, ["batch"]))
        block = inside.get(place)
        if column.kind == "number":
            x = column.name
            if spec.missing == "impute":
                absent = add("IsNaN", [x])
                x = add("Where", [absent, constant(np.float32(column.fill)), x])
                if block:
                    chosen.append(add("Where", [absent, constant(block.begin), constant(last)]))
            numbers.append(add("Unsqueeze", [x, one]))
        elif block:  # else training saw no value, and none counts
            words = column.name if column.dtype == "string" else add("Cast", [column.name], to=TensorProto.STRING)
            places = {value: block.begin + k for k, value in enumerate(column.values)}
            if column.gaps:
                places["" if column.dtype == "string" else str(MISSING_INT)] = block.begin + block.size - 1
            chosen.append(
                add("LabelEncoder", [words], domain="ai.onnx.ml", keys_strings=list(places),
                    values_int64s=list(places.values()), default_int64=last)
            )  # fmt: skip
    terms = []
    if numbers:
        x = add("Concat", numbers, axis=1)
        if not linear.folded:
            offset, scale = (np.asarray(value, np.float32)[:count] for value in constants(spec))
            x = add("Mul", [add("Sub", [x, constant(offset)]), constant(scale)])
        terms.append(add("MatMul", [x, weights(slice(count))]))
    if chosen:
        places_ = add("Concat", [add("Unsqueeze", [name, one]) for name in chosen], axis=1)
        rows = add("Gather", [weights(slice(None)), places_], axis=0)
        terms.append(add("ReduceSum", [rows, one], keepdims=0))
    total = terms[0] if len(terms) == 1 else add("Add", terms)
    add("Add", [total, constant(linear.bias)], "logits")
    add("Softmax", ["logits"], "probabilities", axis=-1)
    add("ArgMax", ["logits"], "class_id", axis=1, keepdims=0)
    add("Gather", [constant(np.array(spec.classes, object)), "class_id"], "label")
    classes = len(spec.classes)
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes]),
        helper.make_tensor_value_info("class_id", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("label", TensorProto.STRING, ["batch"]),
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "softmax_regression", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)
