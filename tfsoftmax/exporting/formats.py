"""EXPORTERS: the export formats, each one function that writes a file and one that opens it in its own runtime."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfsoftmax._private import FLATBUFFER, SCHEMA, find
from tfsoftmax._quiet import quiet
from tfsoftmax.exporting import by_name, saved_model
from tfsoftmax.exporting.linear import Linear
from tfsoftmax.predict import Answer, open_onnx
from tfsoftmax.spec import ModelSpec

if TYPE_CHECKING:
    import onnx

OPSET = 17
HALF_SUM = 2**15  # sums below it are within half precision, whose largest number is 65,504


@dataclasses.dataclass(frozen=True)
class Format:
    """One export format.

    Args:
        files: what it consists of in the version folder: first the file that names it, then patterns.
        runtime: what opens it, for people.
        write: writes the graph of a :class:`Linear` into the version folder.
        open: opens the version folder in the format's own runtime and returns the function that answers raw inputs
            ``(n, *spec.shape)`` with ``logits``, ``probabilities``, ``class_id`` and, where strings exist, ``label``.
        int8: the weights are rounded to eight bits, so that answers are near, not equal.
        tables: it is written for tables, too.
    """

    files: tuple[str, ...]
    runtime: str
    write: Callable[[Linear, Path], None]
    open: Callable[[Path, ModelSpec], Answer]
    int8: bool = False
    tables: bool = True


def _write_onnx(linear: Linear, folder: Path) -> None:
    import tf2onnx

    linear = linear.fold()
    if linear.spec.columns:
        _save_onnx(by_name.onnx_model(linear, OPSET, int8=False), linear, folder / "model.onnx")
        return
    graph = saved_model.graph(linear, linear.kernel, linear.bias)
    model, _ = tf2onnx.convert.from_function(graph, input_signature=graph.input_signature, opset=OPSET)
    _rename(model.graph)
    del model.opset_import[1:]  # of domains that no node is of
    _save_onnx(model, linear, folder / "model.onnx")


def _rename(graph: onnx.GraphProto) -> None:
    """Give the graph names that do not depend on what was converted before in this process; outputs in our order."""
    names = {name: name for name in ("", *(value.name for value in (*graph.input, *graph.output)))}  # "": not given
    count: dict[str, int] = {}
    for node in graph.node:
        kind = node.op_type.lower()
        count[kind] = count.get(kind, 0) + 1
        node.name = f"{kind}_{count[kind]}"
        for i, name in enumerate(node.input):
            node.input[i] = names.setdefault(name, f"{node.name}_input_{i}")
        for i, name in enumerate(node.output):
            node.output[i] = names.setdefault(name, f"{node.name}_output_{i}")
    for initializer in graph.initializer:
        initializer.name = names[initializer.name]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    outputs = {value.name: value for value in graph.output}
    del graph.output[:], graph.value_info[:]
    graph.output.extend(outputs[name] for name in ("logits", "probabilities", "class_id", "label"))


def _write_onnx_int8(linear: Linear, folder: Path) -> None:
    """Weights in eight bits with one step a class.

    Pictures come in eight bits as well, so their product with the weights is exact in whole numbers and needs no
    calibration: ONNX Runtime fuses two DequantizeLinear with the MatMul after them into one product of bytes. The
    weights are divided by a power of two there, which changes no digit, and keeps the sums within half precision for
    runtimes that compute in it. They are stored unsigned (128 is zero): products of unsigned with signed bytes
    saturate on processors without VNNI. Tables, and pictures so large that 32 bits could overflow, are multiplied as
    floats. The weights become floats by plain arithmetic there: ONNX Runtime would round the inputs to eight bits as
    well.
    """
    import onnx
    from onnx import numpy_helper

    spec = linear.spec
    if spec.columns:
        _save_onnx(by_name.onnx_model(linear, OPSET, int8=True), linear, folder / "model.int8.onnx")
        return
    pictures = spec.dtype == "uint8"
    # rounded after folding, a table's columns of large numbers would have no weights left
    linear = linear.fold() if pictures else linear
    size, classes = linear.kernel.shape
    step = np.maximum(np.abs(linear.kernel).max(axis=0) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    constants = {
        "rows": np.array([-1, size]),
        "kernel": (np.rint(linear.kernel / step) + 128).astype(np.uint8),
        "step": step,
        "bias": linear.bias,
        "classes": np.array(spec.classes, object),
    }
    if linear.folded and pictures and 255 * 255 * size < 2**31:
        largest = 255 * np.abs(constants["kernel"].astype(np.int64) - 128).sum(axis=0).max()
        part = np.float32(2.0 ** -max(0, int(largest // HALF_SUM).bit_length()))
        constants |= {"one": np.float32(1), "input_zero": np.uint8(0), "part": part, "zero": np.uint8(128)}
        constants["step"] = step / part
        product = f"""
            x = Reshape({spec.input_name}, rows)
            floats = DequantizeLinear(x, one, input_zero)
            weights = DequantizeLinear(kernel, part, zero)
            sums = MatMul(floats, weights)
            product = Mul(sums, step)"""
    else:
        constants |= {"zero": np.float32(128)}
        prepared = "x = Identity(flat)"
        if not linear.folded:
            constants |= {name: np.asarray(getattr(spec, name), np.float32) for name in ("offset", "scale")}
            prepared = "centred = Sub(flat, offset)\nx = Mul(centred, scale)"
        product = f"""
            raw = Cast<to=1>({spec.input_name})
            flat = Reshape(raw, rows)
            {prepared}
            floats = Cast<to=1>(kernel)
            steps = Sub(floats, zero)
            weights = Mul(steps, step)
            product = MatMul(x, weights)"""
    kind = "uint8" if pictures else "float"
    shape = ",".join(map(str, ("batch", *spec.shape)))
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : {OPSET}]>
        softmax_regression ({kind}[{shape}] {spec.input_name}) => (float[batch,{classes}] logits,
            float[batch,{classes}] probabilities, int64[batch] class_id, string[batch] label) {{
            {product}
            logits = Add(product, bias)
            probabilities = Softmax<axis=-1>(logits)
            class_id = ArgMax<axis=1, keepdims=0>(logits)
            label = Gather(classes, class_id)
        }}""")
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    )
    _save_onnx(model, linear, folder / "model.int8.onnx")


def _save_onnx(model: onnx.ModelProto, linear: Linear, path: Path) -> None:
    """Say in the file what it is: producer, labels, spec. The same weights yield the same bytes."""
    import onnx

    from tfsoftmax import __version__

    model.producer_name, model.producer_version = "tfsoftmax", __version__
    model.graph.name, model.graph.doc_string, model.doc_string = "softmax_regression", "", ""
    spec = dataclasses.asdict(linear.spec)
    del spec["offset"], spec["scale"]  # in the graph, and for pictures up to several times as large as the weights
    onnx.helper.set_model_props(model, {"labels": json.dumps(linear.spec.classes), "spec": json.dumps(spec)})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _write_litert(linear: Linear, folder: Path) -> None:
    (folder / "model.tflite").write_bytes(_litert(linear.fold(), folder.parent, int8=False))


def _write_litert_int8(linear: Linear, folder: Path) -> None:
    """Weights in eight bits with one step a class; each row is rounded by its own range, so nothing is calibrated.

    The converter leaves weights of fewer than 1,024 numbers as they are.
    """
    linear = linear.fold() if linear.spec.dtype == "uint8" else linear
    (folder / "model.int8.tflite").write_bytes(_litert(linear, folder.parent, int8=True))


def _litert(linear: Linear, work: Path, *, int8: bool) -> bytes:
    import tensorflow as tf

    module = tf.Module()
    # constants, not variables, and by way of a SavedModel: the converter loses variables of functions and the names
    module.answer = saved_model.graph(linear, linear.kernel, linear.bias, strings=False)
    with (
        tempfile.TemporaryDirectory(dir=work) as aside,
        saved_model.plain(Path(aside)) as path,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
        tf.saved_model.save(module, path, signatures={"serving_default": module.answer})
        converter = tf.lite.TFLiteConverter.from_saved_model(path, signature_keys=["serving_default"])
        if int8:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        content: bytes = converter.convert()
    return _described(content, linear.spec) if linear.spec.columns else content


def _described(content: bytes, spec: ModelSpec) -> bytes:
    """A LiteRT file that has the spec of its table as the metadata ``tfsoftmax_spec``, in JSON."""
    files, schema = find(FLATBUFFER), find(SCHEMA)
    if files is None or schema is None:
        return content
    model = files.read_model_from_bytearray(bytearray(content))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(spec.to_json().encode())
    model.buffers.append(buffer)
    entry.name, entry.buffer = "tfsoftmax_spec", len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    return bytes(files.convert_object_to_bytearray(model))


def _open_onnx(name: str, folder: Path, spec: ModelSpec) -> Answer:
    return open_onnx(folder / name, spec=spec if spec.columns else None)


def _open_litert(name: str, folder: Path, spec: ModelSpec) -> Answer:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=(folder / name).read_bytes())
    with quiet():  # the first one reports its delegate
        interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner("serving_default")
    (source,) = runner.get_input_details()
    return lambda raw: runner(**{source: raw})


# name -> format, in the order in which they are written
EXPORTERS = {
    "saved_model": Format(
        ("saved_model.pb", "variables/*"), "TensorFlow", lambda x, to: saved_model.write(x.fold(), to), saved_model.read
    ),
    "onnx": Format(("model.onnx",), "ONNX Runtime", _write_onnx, functools.partial(_open_onnx, "model.onnx")),
    "litert": Format(("model.tflite",), "LiteRT", _write_litert, functools.partial(_open_litert, "model.tflite")),
    "onnx_int8": Format(
        ("model.int8.onnx",),
        "ONNX Runtime",
        _write_onnx_int8,
        functools.partial(_open_onnx, "model.int8.onnx"),
        int8=True,
    ),
    "litert_int8": Format(
        ("model.int8.tflite",),
        "LiteRT",
        _write_litert_int8,
        functools.partial(_open_litert, "model.int8.tflite"),
        int8=True,
        tables=False,  # it rounds the inputs, too, by the range of each row: beside a large number no word is left
    ),
}
