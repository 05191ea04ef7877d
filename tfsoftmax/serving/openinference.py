"""The Open Inference Protocol, version 2, with its binary extension."""

from __future__ import annotations

import functools
import math
from typing import Annotated, Any, NamedTuple, cast

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

import tfsoftmax
from tfsoftmax.errors import InputError
from tfsoftmax.serving import metrics, tables, tensors
from tfsoftmax.serving.effort import Effort
from tfsoftmax.serving.models import Shown, Version, outputs_of

_TYPES = {"uint8": "UINT8", "float32": "FP32", "int64": "INT64", "object": "BYTES"}
_CONFIG_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32", "int64": "TYPE_INT64", "object": "TYPE_STRING"}
_Parameters = dict[str, bool | int | float | str | None]
_Dimension = Annotated[int, Meta(ge=0, le=2**40)]


class Input(Struct):
    """An input; keys that are not known are let pass: clients are often newer than servers."""

    name: str
    shape: Annotated[list[_Dimension], Meta(max_length=16)]
    datatype: str
    data: Raw | UnsetType = UNSET
    parameters: _Parameters | None = None


class Output(Struct):
    """An output that is asked for."""

    name: str
    parameters: _Parameters | None = None


class Request(Struct):
    """A request for inference."""

    inputs: Annotated[list[Input], Meta(min_length=1, max_length=100_000)]  # as many as a table may have columns
    id: str | None = None
    outputs: Annotated[list[Output], Meta(max_length=16)] | None = None
    parameters: _Parameters | None = None


class _Wanted(NamedTuple):
    """How an output is requested."""

    binary: bool
    classes: int  # of the classification extension: so many of the best classes; 0: the tensor itself


class Answered(NamedTuple):
    """What a request is answered with.

    Attributes:
        outputs: of each its name, its datatype, its values, and whether it is requested in binary.
        rows: number of rows.
        unseen: how many values training did not see, by column.
    """

    outputs: list[tuple[str, str, np.ndarray, bool]]
    rows: int
    unseen: dict[str, int]


_REQUEST = msgspec.json.Decoder(Request)
_READY = msgspec.json.Decoder(dict[str, Any])
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"]


def server(extensions: list[str] = EXTENSIONS) -> bytes:
    """Metadata of the server."""
    return msgspec.json.encode({"name": "tfsoftmax", "version": tfsoftmax.__version__, "extensions": extensions})


def metadata(version: Version) -> bytes:
    """Metadata of a model."""
    spec = version.spec
    given = [{"name": name, "datatype": _TYPES[dtype], "shape": [-1]} for name, dtype in tables.inputs_of(spec)]
    given = given or [{"name": spec.input_name, "datatype": _TYPES[spec.dtype], "shape": [-1, *spec.shape]}]
    answered = [
        {"name": name, "datatype": _TYPES[dtype], "shape": list(shape)}
        for name, dtype, shape in outputs_of(len(spec.classes))
    ]
    return msgspec.json.encode(
        {
            "name": version.name,
            "versions": [str(version.number)],
            "platform": "onnxruntime_onnx",
            "inputs": given,
            "outputs": answered,
        }
    )


def config(version: Version) -> bytes:
    """The model's configuration, as Triton shows it: the content of ``config.pbtxt``."""
    spec, classes = version.spec, len(version.spec.classes)
    one = {"dims": [1], "reshape": {"shape": []}}
    many = {"dims": [classes], "label_filename": f"{version.number}/assets/labels.txt"}
    outputs = [
        {"name": name, "data_type": _CONFIG_TYPES[dtype], **(many if shape[1:] else one)}
        for name, dtype, shape in outputs_of(classes)
    ]
    given = [{"name": name, "data_type": _CONFIG_TYPES[dtype], **one} for name, dtype in tables.inputs_of(spec)]
    given = given or [{"name": spec.input_name, "data_type": _CONFIG_TYPES[spec.dtype], "dims": spec.shape}]
    return msgspec.json.encode(
        {
            "name": version.name,
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": version.max_rows,
            "input": given,
            "output": outputs,
        }
    )


def statistics(versions: list[Version]) -> bytes:
    """The requests answered so far, as Triton counts them, over all paths and workers."""
    nothing = {"count": 0, "ns": 0}

    def one(version: Version) -> dict[str, Any]:
        total = metrics.totals(version.name)
        good = {"count": int(total["good"]), "ns": int(total["good_seconds"] * 1e9)}
        return {
            "name": version.name,
            "version": str(version.number),
            "last_inference": int(total["last"] * 1000),
            "inference_count": int(total["rows"]),
            "execution_count": int(total["good"]),
            "inference_stats": {
                "success": good,
                "fail": {"count": int(total["bad"]), "ns": int(total["bad_seconds"] * 1e9)},
                "queue": nothing,
                "compute_input": nothing,
                "compute_infer": good,
                "compute_output": nothing,
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [],
            "memory_usage": [],
        }

    return msgspec.json.encode({"model_stats": [one(version) for version in versions]})


def index(body: bytes, shown: Shown) -> bytes:
    """The models and their versions; with ``{"ready": true}`` only those that answer."""
    ready = False
    if body.strip():
        ready = _flag(tensors.decode(_READY, body), "ready", False)
    words = {"AVAILABLE": "READY", "LOADING": "LOADING"}
    found = [
        {"name": name, "version": str(number), "state": words.get(state, "UNAVAILABLE"), "reason": why}
        for name, states in sorted(shown.states.items())
        for number, (state, why) in sorted(states.items())
    ]
    return msgspec.json.encode([entry for entry in found if not ready or entry["state"] == "READY"])


def infer(
    body: bytes, version: Version, header_length: bytes | None, effort: Effort
) -> tuple[bytes, int, dict[str, int], int | None]:
    """Answer an inference request.

    Args:
        body: JSON, or JSON and tensors after it.
        version: the model.
        header_length: value of ``Inference-Header-Content-Length``; ``None``: all is JSON.
        effort: what is left to the request.

    Returns:
        The answer; the number of rows; how many values training did not see, by column; the length
        of its JSON part if tensors follow, else ``None``.

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
    found = answered(request, tail, version, effort)
    outputs, parts = [], []
    for name, datatype, value, binary in found.outputs:
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": value.shape}
        if not binary:
            output["data"] = value.ravel().tolist()
        else:
            part = as_bytes(value)
            output["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": version.name, "model_version": str(version.number), "outputs": outputs}
    if request.id is not None:
        answer["id"] = request.id
    head = msgspec.json.encode(answer)
    return b"".join([head, *parts]), found.rows, found.unseen, len(head) if parts else None


def answered(request: Request, tail: bytes, version: Version, effort: Effort) -> Answered:
    """The outputs that a request asks for; ``tail`` has its tensors in binary. Raises InputError."""
    unseen: dict[str, int] = {}
    if version.table is None:
        raw = _raw(request, tail, version)
    else:
        for item in request.inputs:
            _no_shared_memory("input", item)
        raw = tables.infer(request.inputs, tail, version, version.table)
        unseen = tables.unseen(version, raw)
    wanted = _wanted(request, version)
    effort.answer(len(raw) * sum(version.outputs[name][1] for name in wanted))
    found = version.answer(raw, tuple(wanted))
    outputs = []
    for name, (binary, classes) in wanted.items():
        value = _best(found[name], classes, version.spec.classes) if classes else found[name]
        outputs.append((name, "BYTES" if classes else _TYPES[version.outputs[name][0]], value, binary))
    return Answered(outputs, len(raw), unseen)


def _best(values: np.ndarray, count: int, names: tuple[str, ...]) -> np.ndarray:
    """The classification extension: the best classes of each row, best first, as ``value:index:name``."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    rows = [[f"{row[k]:f}:{k}:{names[k]}" for k in best] for row, best in zip(values, order, strict=True)]
    return np.array(rows, object).reshape(order.shape)


def _keys(request: Request) -> int:
    """Number of keys in the request, over all objects."""
    keys = _known(request)
    for item in [*request.inputs, *(request.outputs or ())]:
        keys += _known(item) + len(item.parameters or ())
    return keys + len(request.parameters or ())


def _known(item: Struct) -> int:
    return sum(getattr(item, name) not in (None, UNSET) for name in item.__struct_fields__)


def _raw(request: Request, tail: bytes, version: Version) -> np.ndarray:
    spec = version.spec
    for item in request.inputs:
        if item.name != spec.input_name:
            raise InputError(f"unexpected inference input {item.name!r} for model {version.name!r}")
    if len(request.inputs) > 1:
        raise InputError(f"inference input {spec.input_name!r} is there {len(request.inputs)} times")
    (item,) = request.inputs
    _no_shared_memory("input", item)
    shape = tuple(item.shape)
    if item.datatype != _TYPES[spec.dtype]:
        raise InputError(f"input {item.name!r} has datatype {item.datatype!r}, expected {_TYPES[spec.dtype]}")
    fitting = [reader for reader in version.readers if reader.shape == shape[1:]]
    if not fitting or not 1 <= (shape or (0,))[0] <= version.max_rows:
        raise InputError(
            f"input {item.name!r} has shape {list(shape)}, expected [n, {', '.join(map(str, spec.shape))}] "
            f"with n from 1 to {version.max_rows}"
        )
    reader, given = fitting[0], tensors.given(item.data)
    size = (item.parameters or {}).get("binary_data_size")
    if size is None:
        if not given or tail:
            raise InputError(f"input {item.name!r} needs data, or parameters.binary_data_size and bytes after the JSON")
        return reader.data(cast(Raw, item.data), shape[0])
    wanted = math.prod(shape) * np.dtype(spec.dtype).itemsize
    if given:
        raise InputError(f"input {item.name!r} has data and binary_data_size: give one of the two")
    if isinstance(size, bool) or size != wanted or len(tail) != wanted:
        raise InputError(
            f"input {item.name!r} of shape {list(shape)} takes {wanted} bytes; "
            f"binary_data_size is {size} and {len(tail)} bytes follow the JSON"
        )
    values = np.frombuffer(tail, np.dtype(spec.dtype).newbyteorder("<")).reshape(shape[0], *spec.shape)
    return reader.finite(values)


def _no_shared_memory(kind: str, item: Input | Output) -> None:
    """Raise InputError if a tensor is not in the request or the answer itself."""
    if (item.parameters or {}).get("shared_memory_region") is not None:
        raise InputError(f"{kind} {item.name!r} names a shared_memory_region: this server shares no memory, send data")


def _wanted(request: Request, version: Version) -> dict[str, _Wanted]:
    """Output name -> how it is requested, in the order of the request."""
    everywhere = _flag(request.parameters, "binary_data_output", False)
    if not request.outputs:
        return dict.fromkeys(version.outputs, _Wanted(everywhere, 0))
    shapes = {name: shape for name, _, shape in outputs_of(len(version.spec.classes))}
    wanted: dict[str, _Wanted] = {}
    for output in request.outputs:
        if output.name not in shapes:
            raise InputError(f"unexpected inference output {output.name!r}; there are {', '.join(shapes)}")
        if output.name in wanted:
            raise InputError(f"inference output {output.name!r} is asked for twice")
        _no_shared_memory("output", output)
        classes = (output.parameters or {}).get("classification") or 0
        if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
            raise InputError(f"parameter 'classification' must be a number of classes, got {classes!r}")
        if classes and len(shapes[output.name]) == 1:
            raise InputError(f"output {output.name!r} has one value a row: ask for the classification of probabilities")
        wanted[output.name] = _Wanted(_flag(output.parameters, "binary_data", everywhere), classes)
    return wanted


def _flag(parameters: dict[str, Any] | None, name: str, default: bool) -> bool:
    value = (parameters or {}).get(name)
    value = default if value is None else value
    if not isinstance(value, bool):
        raise InputError(f"parameter {name!r} must be true or false, got {value!r}")
    return value


def as_bytes(values: np.ndarray) -> bytes:
    """An output in binary form: little-endian, row by row; strings each preceded by their length in 4 bytes."""
    if values.dtype != object:
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    return b"".join(map(_string, values.ravel().tolist()))


@functools.lru_cache(4096)
def _string(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(4, "little") + encoded
