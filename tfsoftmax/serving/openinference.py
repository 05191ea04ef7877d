"""The Open Inference Protocol, version 2, with its binary extension."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

import tfsoftmax
from tfsoftmax.errors import InputError
from tfsoftmax.serving import tensors
from tfsoftmax.serving.models import Version, outputs_of

_TYPES = {"uint8": "UINT8", "float32": "FP32", "int64": "INT64", "object": "BYTES"}
_Parameters = dict[str, bool | int | float | str | None]
_Dimension = Annotated[int, Meta(ge=0, le=2**40)]


class _Input(Struct, forbid_unknown_fields=True):
    name: str
    shape: Annotated[list[_Dimension], Meta(max_length=16)]
    datatype: str
    data: Raw | UnsetType = UNSET
    parameters: _Parameters | UnsetType = UNSET


class _Output(Struct, forbid_unknown_fields=True):
    name: str
    parameters: _Parameters | UnsetType = UNSET


class _Request(Struct, forbid_unknown_fields=True):
    inputs: Annotated[list[_Input], Meta(min_length=1, max_length=16)]
    id: str | UnsetType = UNSET
    outputs: Annotated[list[_Output], Meta(max_length=16)] | UnsetType = UNSET
    parameters: _Parameters | UnsetType = UNSET


_REQUEST = msgspec.json.Decoder(_Request)


def server() -> bytes:
    """Metadata of the server."""
    return msgspec.json.encode(
        {"name": "tfsoftmax", "version": tfsoftmax.__version__, "extensions": ["binary_tensor_data"]}
    )


def metadata(version: Version) -> bytes:
    """Metadata of a model."""
    spec = version.spec
    given = {"name": spec.input_name, "datatype": _TYPES[spec.dtype], "shape": [-1, *spec.shape]}
    answered = [
        {"name": name, "datatype": _TYPES[dtype], "shape": list(shape)}
        for name, dtype, shape in outputs_of(len(spec.classes))
    ]
    return msgspec.json.encode(
        {
            "name": version.name,
            "versions": [str(version.number)],
            "platform": "onnxruntime_onnx",
            "inputs": [given],
            "outputs": answered,
        }
    )


def infer(body: bytes, version: Version, header_length: bytes | None) -> tuple[bytes, int | None, int]:
    """Answer an inference request.

    Args:
        body: JSON, or JSON and tensors after it.
        version: the model.
        header_length: value of ``Inference-Header-Content-Length``; ``None``: all is JSON.

    Returns:
        The answer; the length of its JSON part if tensors follow, else ``None``; the number of rows.

    Raises:
        InputError: the request does not fit.
    """
    head, tail = body, b""
    if header_length is not None:
        length = int(header_length) if header_length.isdigit() and len(header_length) < 16 else -1
        if not 0 <= length <= len(body):
            text = header_length.decode("latin-1")
            raise InputError(f"Inference-Header-Content-Length is {text!r}, the body has {len(body)} bytes")
        head, tail = body[:length], body[length:]
    request = tensors.decode(_REQUEST, head)
    tensors.refuse_repeated_keys(head, _keys(request))
    raw = _raw(request, tail, version)
    wanted = _wanted(request, version)
    found = version.answer(raw, tuple(wanted))
    outputs, parts = [], []
    for name, binary in wanted.items():
        value = found[name]
        output: dict[str, Any] = {"name": name, "datatype": _TYPES[value.dtype.name], "shape": value.shape}
        if not binary:
            output["data"] = value.ravel().tolist()
        else:
            part = _bytes(value) if value.dtype == object else value.astype(value.dtype.newbyteorder("<")).tobytes()
            output["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": version.name, "model_version": str(version.number), "outputs": outputs}
    if request.id is not UNSET:
        answer["id"] = request.id
    head = msgspec.json.encode(answer)
    return (b"".join([head, *parts]), len(head), len(raw)) if parts else (head, None, len(raw))


def _keys(request: _Request) -> int:
    """Keys in the request, all objects together."""
    keys = sum(getattr(request, name) is not UNSET for name in request.__struct_fields__)
    for item in [*request.inputs, *(request.outputs or ())]:
        keys += sum(getattr(item, name) is not UNSET for name in item.__struct_fields__) + len(item.parameters or ())
    return keys + len(request.parameters or ())


def _raw(request: _Request, tail: bytes, version: Version) -> np.ndarray:
    spec, reader = version.spec, version.reader
    for item in request.inputs:
        if item.name != spec.input_name:
            raise InputError(f"unexpected inference input {item.name!r} for model {version.name!r}")
    if len(request.inputs) > 1:
        raise InputError(f"inference input {spec.input_name!r} is there {len(request.inputs)} times")
    (item,) = request.inputs
    shape = tuple(item.shape)
    if item.datatype != _TYPES[spec.dtype]:
        raise InputError(f"input {item.name!r} has datatype {item.datatype!r}, expected {_TYPES[spec.dtype]}")
    if shape[1:] != spec.shape or not 1 <= (shape or (0,))[0] <= version.max_rows:
        raise InputError(
            f"input {item.name!r} has shape {list(shape)}, expected [n, {', '.join(map(str, spec.shape))}] "
            f"with n from 1 to {version.max_rows}"
        )
    size = (item.parameters or {}).get("binary_data_size")
    if size is None:
        if item.data is UNSET or tail:
            raise InputError(f"input {item.name!r} needs data, or parameters.binary_data_size and bytes after the JSON")
        return reader.data(item.data, shape)
    wanted = math.prod(shape) * np.dtype(spec.dtype).itemsize
    if item.data is not UNSET:
        raise InputError(f"input {item.name!r} has data and binary_data_size: give one of the two")
    if isinstance(size, bool) or size != wanted or len(tail) != wanted:
        raise InputError(
            f"input {item.name!r} of shape {list(shape)} takes {wanted} bytes; "
            f"binary_data_size is {size} and {len(tail)} bytes follow the JSON"
        )
    return reader.finite(np.frombuffer(tail, np.dtype(spec.dtype).newbyteorder("<")).reshape(shape))


def _wanted(request: _Request, version: Version) -> dict[str, bool]:
    """Output name -> whether in binary, in the order of the request."""
    everywhere = _flag(request.parameters, "binary_data_output", False)
    known = [name for name, _, _ in outputs_of(len(version.spec.classes))]
    if not request.outputs:
        return dict.fromkeys(known, everywhere)
    wanted: dict[str, bool] = {}
    for output in request.outputs:
        if output.name not in known:
            raise InputError(f"unexpected inference output {output.name!r}; there are {', '.join(known)}")
        if output.name in wanted:
            raise InputError(f"inference output {output.name!r} is asked for twice")
        if (output.parameters or {}).get("classification"):
            raise InputError("the classification extension is not supported; ask for probabilities and label")
        wanted[output.name] = _flag(output.parameters, "binary_data", everywhere)
    return wanted


def _flag(parameters: _Parameters | UnsetType, name: str, default: bool) -> bool:
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"parameter {name!r} must be true or false, got {value!r}")
    return value


def _bytes(texts: np.ndarray) -> bytes:
    """Strings in the binary form: each after its length in 4 bytes."""
    encoded = [text.encode() for text in texts.ravel()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
