"""The Open Inference Protocol's messages for gRPC: a serialized request in, a serialized answer out."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import numpy as np
from google.protobuf import json_format

from tfsoftmax._checks import shown
from tfsoftmax.errors import InputError
from tfsoftmax.serving import openinference, protos
from tfsoftmax.serving.effort import Effort
from tfsoftmax.serving.models import Version

# datatype -> the field of typed contents, and NumPy's type of its bytes; FP16 is sent in raw_input_contents alone
_CONTENTS = {
    "BOOL": ("bool_contents", "?"),
    "INT8": ("int_contents", "<i1"),
    "INT16": ("int_contents", "<i2"),
    "INT32": ("int_contents", "<i4"),
    "INT64": ("int64_contents", "<i8"),
    "UINT8": ("uint_contents", "<u1"),
    "UINT16": ("uint_contents", "<u2"),
    "UINT32": ("uint_contents", "<u4"),
    "UINT64": ("uint64_contents", "<u8"),
    "FP32": ("fp32_contents", "<f4"),
    "FP64": ("fp64_contents", "<f8"),
    "BYTES": ("bytes_contents", ""),
}
_INFER, _ANSWER = protos.message("inference.ModelInferRequest"), protos.message("inference.ModelInferResponse")


def infer(body: bytes, version: Version, effort: Effort) -> tuple[bytes, int, dict[str, int]]:
    """Answer ``ModelInfer``, in the form of the request: raw tensors or typed contents.

    Returns:
        The answer; the number of rows; how many values training did not see, by column.

    Raises:
        InputError: the request does not fit.
    """
    given = protos.parsed(_INFER, body)
    raw = len(given.raw_input_contents) > 0
    inputs, tail = _raw(given) if raw else _typed(given)
    outputs = [openinference.Output(item.name, _parameters(item.parameters)) for item in given.outputs]
    request = openinference.Request(inputs, given.id, outputs, _parameters(given.parameters))
    found = openinference.answered(request, tail, version, effort)
    answer = _ANSWER(id=given.id)
    head = version.name, str(version.number), tuple((output[0], output[1], output[2].shape) for output in found.outputs)
    if raw:
        answer.raw_output_contents.extend([openinference.as_bytes(output[2]) for output in found.outputs])
        return _head(*head) + answer.SerializeToString(), found.rows, found.unseen
    answer.MergeFromString(_head(*head))
    for output, (_, datatype, value, _) in zip(answer.outputs, found.outputs, strict=True):
        values = value.ravel().tolist()
        field = getattr(output.contents, _CONTENTS[datatype][0])
        field.extend([text.encode() for text in values] if datatype == "BYTES" else values)
    return answer.SerializeToString(), found.rows, found.unseen


@functools.lru_cache(256)
def _head(name: str, version: str, outputs: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    """What an answer says before its tensors; messages one after the other are one message."""
    described = [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in outputs]
    return bytes(_ANSWER(model_name=name, model_version=version, outputs=described).SerializeToString())


def message(name: str, content: bytes | dict[str, Any]) -> bytes:
    """A message with what HTTP answers in JSON."""
    value = content if isinstance(content, dict) else json.loads(content)
    built = json_format.ParseDict(value, protos.message(name)(), True, protos.POOL)
    return built.SerializeToString()


def _parameters(given: Any) -> dict[str, Any]:
    return {name: getattr(value, value.WhichOneof("parameter_choice") or "", None) for name, value in given.items()}


def _raw(given: Any) -> tuple[list[openinference.Input], bytes]:
    """The inputs, and their tensors one after the other."""
    contents = given.raw_input_contents
    if len(contents) != len(given.inputs):
        raise InputError(f"raw_input_contents has {len(contents)} tensors for {len(given.inputs)} inputs")
    inputs = []
    for item, content in zip(given.inputs, contents, strict=True):
        if item.HasField("contents"):
            raise InputError(f"input {shown(item.name)} has contents and raw_input_contents: give one of the two")
        inputs.append(_input(item, content))
    return inputs, contents[0] if len(contents) == 1 else b"".join(contents)


def _typed(given: Any) -> tuple[list[openinference.Input], bytes]:
    """The same from typed contents."""
    if not given.inputs:
        raise InputError("the request has no inputs")
    inputs, parts = [], []
    for item in given.inputs:
        field, dtype = _CONTENTS.get(item.datatype, ("", ""))
        if not field:
            wanted = ", ".join(_CONTENTS)
            raise InputError(f"input {shown(item.name)} has datatype {shown(item.datatype)}; typed are {wanted}")
        if other := [found.name for found, _ in item.contents.ListFields() if found.name != field]:
            raise InputError(f"input {shown(item.name)} of datatype {item.datatype} takes {field}, got {other[0]}")
        values = getattr(item.contents, field)
        parts.append(packed(item.name, values, dtype))
        inputs.append(_input(item, parts[-1]))
    return inputs, b"".join(parts)


def packed(name: str, values: Any, dtype: str) -> bytes:
    """Numbers or strings of a message as the bytes of a tensor; ``dtype`` is empty for strings. Raises InputError."""
    if not dtype:
        return b"".join(len(text).to_bytes(4, "little") + text for text in values)
    try:
        return np.array(list(values), dtype).tobytes()
    except OverflowError as error:
        limits = np.iinfo(dtype)
        raise InputError(f"{shown(name)} must hold whole numbers from {limits.min} to {limits.max}") from error


def _input(item: Any, content: bytes) -> openinference.Input:
    shape = list(item.shape)
    check_size(item.name, item.datatype, shape, len(content))
    parameters = {**_parameters(item.parameters), "binary_data_size": len(content)}
    return openinference.Input(item.name, shape, item.datatype, parameters=parameters)


def check_size(name: str, datatype: str, shape: list[int], size: int) -> None:
    """InputError unless a tensor of numbers has as many bytes as its shape says."""
    dtype = _CONTENTS.get(datatype, ("", ""))[1]
    if dtype and size != (wanted := math.prod(shape) * np.dtype(dtype).itemsize):
        raise InputError(f"input {shown(name)} of shape {shape} takes {wanted} bytes as {datatype}, got {size}")
