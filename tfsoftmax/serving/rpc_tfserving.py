"""TensorFlow Serving's messages for gRPC: a serialized request in, a serialized answer out."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import msgspec
import numpy as np
from google.protobuf import json_format

from tfsoftmax._checks import shown
from tfsoftmax.errors import InputError
from tfsoftmax.serving import openinference, protos, rpc_openinference, tensors, tfserving
from tfsoftmax.serving.effort import Effort
from tfsoftmax.serving.models import Version
from tfsoftmax.serving.pictures import Convert

# TensorFlow's type -> that of the Open Inference Protocol, the field of its values, and NumPy's type of its bytes
_DTYPES = {
    "DT_FLOAT": ("FP32", "float_val", "<f4"),
    "DT_DOUBLE": ("FP64", "double_val", "<f8"),
    "DT_UINT8": ("UINT8", "int_val", "<u1"),
    "DT_INT8": ("INT8", "int_val", "<i1"),
    "DT_UINT16": ("UINT16", "int_val", "<u2"),
    "DT_INT16": ("INT16", "int_val", "<i2"),
    "DT_INT32": ("INT32", "int_val", "<i4"),
    "DT_INT64": ("INT64", "int64_val", "<i8"),
    "DT_UINT32": ("UINT32", "uint32_val", "<u4"),
    "DT_UINT64": ("UINT64", "uint64_val", "<u8"),
    "DT_BOOL": ("BOOL", "bool_val", "?"),
    "DT_STRING": ("BYTES", "string_val", ""),
}
_NUMBERS = protos.POOL.FindEnumTypeByName("tensorflow.DataType").values_by_number
_ANSWERED = {"FP32": "DT_FLOAT", "INT64": "DT_INT64", "BYTES": "DT_STRING"}
_PREDICT, _CLASSIFY = (protos.message(f"tensorflow.serving.{name}Request") for name in ("Predict", "Classification"))
_PREDICTED, _CLASSIFIED = (
    protos.message(f"tensorflow.serving.{name}Response") for name in ("Predict", "Classification")
)
_METADATA = protos.message("tensorflow.serving.GetModelMetadataResponse")
_SIGNATURES = protos.message("tensorflow.serving.SignatureDefMap")
_STATUS = protos.message("tensorflow.serving.GetModelStatusResponse")


def predict(body: bytes, version: Version, effort: Effort) -> tuple[bytes, int, dict[str, int]]:
    """Answer ``Predict``: the outputs in binary, ``label`` as strings.

    Returns:
        The answer; the number of rows; how many values training did not see, by column.

    Raises:
        InputError: the request does not fit.
    """
    given = protos.parsed(_PREDICT, body)
    tensors.check_signature(given.model_spec, "serving_default")
    if not given.inputs:
        raise InputError("the request has no inputs")
    inputs, parts = [], []
    for name, tensor in given.inputs.items():
        item, content = _input(name, tensor)
        inputs.append(item)
        parts.append(content)
    outputs = [openinference.Output(name) for name in given.output_filter]
    tail = parts[0] if len(parts) == 1 else b"".join(parts)
    found = openinference.answered(openinference.Request(inputs, outputs=outputs), tail, version, effort)
    answer = _PREDICTED()
    _name(answer.model_spec, version, "serving_default")
    for name, datatype, value, _ in found.outputs:
        output = answer.outputs[name]
        output.dtype = _ANSWERED[datatype]
        for size in value.shape:
            output.tensor_shape.dim.add(size=size)
        if datatype == "BYTES":
            output.string_val.extend([text.encode() for text in value.ravel()])
        else:
            output.tensor_content = openinference.as_bytes(value)
    return answer.SerializeToString(), found.rows, found.unseen


def classify(body: bytes, version: Version, effort: Effort) -> tuple[bytes, int, dict[str, int]]:
    """Answer ``Classify`` of ``tf.Example`` records, as ``:classify`` does of JSON. Returns as :func:`predict`."""
    given = protos.parsed(_CLASSIFY, body)
    tensors.check_signature(given.model_spec, "classify")
    kind = given.input.WhichOneof("kind")
    if kind is None:
        raise InputError("classify needs examples: input.example_list or input.example_list_with_context")
    listed = getattr(given.input, kind)
    alone = version.table is not None
    request: dict[str, Any] = {"examples": [_example(example, alone) for example in listed.examples]}
    if kind == "example_list_with_context":
        request["context"] = _example(listed.context, alone)
    # the values of a float32 come back from JSON as they were
    content = msgspec.json.encode(request)
    raw, unseen = tfserving.classified(content, version, Convert(b"application/json"), effort)
    effort.answer(len(raw) * 2 * len(version.spec.classes))
    answer = _CLASSIFIED()
    _name(answer.model_spec, version, "classify")
    for row in version.answer(raw, ("probabilities",))["probabilities"].tolist():
        classes = answer.result.classifications.add().classes
        for label, score in zip(version.spec.classes, row, strict=True):
            classes.add(label=label, score=score)
    return answer.SerializeToString(), len(raw), unseen


def metadata(version: Version, fields: list[str]) -> bytes:
    """The answer of ``GetModelMetadata``. Raises InputError."""
    if list(fields) != ["signature_def"]:
        raise InputError(f"metadata_field must be signature_def alone, got {shown(', '.join(fields))}")
    content = json.loads(tfserving.metadata(version))
    answer = _METADATA()
    _name(answer.model_spec, version, "")
    signatures = json_format.ParseDict(content["metadata"]["signature_def"], _SIGNATURES(), True, protos.POOL)
    answer.metadata["signature_def"].Pack(signatures)
    return answer.SerializeToString()


def status(states: dict[int, tuple[str, str]]) -> bytes:
    """The answer of ``GetModelStatus``."""
    content = json.loads(tfserving.status(states))
    return json_format.ParseDict(content, _STATUS(), True, protos.POOL).SerializeToString()


def _name(spec: Any, version: Version, signature: str) -> None:
    spec.name, spec.signature_name, spec.version.value = version.name, signature, version.number


def _input(name: str, tensor: Any) -> tuple[openinference.Input, bytes]:
    """A tensor as an input of the Open Inference Protocol, and its bytes."""
    kind = _NUMBERS[tensor.dtype].name if tensor.dtype in _NUMBERS else str(tensor.dtype)
    datatype, field, dtype = _DTYPES.get(kind, ("", "", ""))
    if not datatype or tensor.tensor_shape.unknown_rank:
        raise InputError(f"input {shown(name)} has dtype {kind} and {len(tensor.tensor_shape.dim)} dimensions")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    content = tensor.tensor_content
    if not content:
        values = list(getattr(tensor, field))
        content = rpc_openinference.packed(name, values, dtype)
        if len(values) == 1 and dtype and 1 < (count := math.prod(shape)) <= 2**20:
            content *= count  # one value stands for all
    elif not dtype:
        raise InputError(f"input {shown(name)} is of strings: they go in string_val, not in tensor_content")
    rpc_openinference.check_size(name, datatype, shape, len(content))
    parameters: dict[str, Any] = {"binary_data_size": len(content)}
    return openinference.Input(name, shape, datatype, parameters=parameters), content


def _example(example: Any, alone: bool) -> dict[str, Any]:
    """The features of an example as JSON has them; ``alone``: one value each, as columns of a table have."""
    found: dict[str, Any] = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        if len(values) > 1 and (alone or kind == "bytes_list"):
            raise InputError(f"feature {shown(name)} has {len(values)} values, expected one")
        if kind == "bytes_list":
            values = [_text(name, value) if alone else {"b64": base64.b64encode(value).decode()} for value in values]
        elif not np.isfinite(values).all():
            if not alone:
                raise InputError(f"{name} must hold finite numbers within float32's range")
            values = []
        found[name] = (values or [None])[0] if alone or kind == "bytes_list" else values
    return found


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"feature {shown(name)} is not UTF-8") from error
