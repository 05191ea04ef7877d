"""The protocol of TensorFlow Serving's REST interface: predict, classify, status, metadata."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, Struct

from tfsoftmax.errors import InputError
from tfsoftmax.serving import tensors
from tfsoftmax.serving.models import Version, outputs_of

_TYPES = {"uint8": "DT_UINT8", "float32": "DT_FLOAT", "int64": "DT_INT64", "object": "DT_STRING"}


def predict(body: bytes, version: Version, convert: tensors.Convert) -> tuple[bytes, int]:
    """Answer the body of ``:predict``; gives the JSON and the number of rows."""
    by_row, raw = read(body, version, convert)
    found = version.answer(raw, ("logits", "probabilities", "class_id"))
    logits, probabilities, class_id = (found[name].tolist() for name in ("logits", "probabilities", "class_id"))
    labels = [version.spec.classes[k] for k in class_id]
    if by_row:
        rows = zip(logits, probabilities, class_id, labels, strict=True)
        answer = {"predictions": [{"logits": a, "probabilities": b, "class_id": c, "label": d} for a, b, c, d in rows]}
    else:
        columns = {"logits": logits, "probabilities": probabilities, "class_id": class_id, "label": labels}
        answer = {"outputs": columns}
    return msgspec.json.encode(answer), len(raw)


def read(body: bytes, version: Version, convert: tensors.Convert) -> tuple[bool, np.ndarray]:
    """The rows of a ``:predict`` body, and whether they came as ``instances``."""
    if convert.whole:
        return True, tensors.picture(body, version.spec, convert)[None]
    request = tensors.decode(version.reader.predict, body)
    by_row = request.instances is not UNSET
    if by_row == (request.inputs is not UNSET):
        raise InputError("give one of instances (rows) and inputs (columns)" + (", not both" if by_row else ""))
    _signature(request, "serving_default")
    rows: Any = request.instances if by_row else request.inputs
    keys = 1 + (request.signature_name is not UNSET)
    if type(rows) is not list:  # columns by name
        rows = getattr(rows, version.reader.name)
        keys += 1
    objects = [row for row in rows if type(row) is not list]  # isinstance(row, Struct) takes its time
    tensors.refuse_repeated_keys(body, keys + sum(map(_keys, objects)))
    if not objects:
        return by_row, version.reader.array(rows)
    return by_row, np.concatenate([_row(row, version, convert) for row in rows])


def _keys(row: Struct) -> int:
    return sum(1 + (_keys(value) if isinstance(value, Struct) else 0) for value in _values(row))


def _values(row: Struct) -> list[Any]:
    return [value for name in row.__struct_fields__ if (value := getattr(row, name)) is not UNSET]


def _row(row: Any, version: Version, convert: tensors.Convert) -> np.ndarray:
    while isinstance(row, Struct):
        values = _values(row)
        if len(values) != 1:
            raise InputError(f"an instance that is an object has one key, {version.reader.name!r} or 'b64'")
        (row,) = values
    if isinstance(row, str):
        return tensors.picture(row, version.spec, convert)[None]
    return version.reader.array([row])


def _signature(request: Any, name: str) -> None:
    if request.signature_name not in (UNSET, "", name):
        raise InputError(f"signature {request.signature_name!r} is not there for this method; {name!r} is")


def classify(body: bytes, version: Version, convert: tensors.Convert) -> tuple[bytes, int]:
    """Answer the body of ``:classify``: for each example all classes with their probabilities."""
    request = tensors.decode(version.reader.classify, body)
    if request.examples is UNSET:
        raise InputError("classify needs examples: a list of objects")
    _signature(request, "classify")
    tensors.refuse_repeated_keys(body, -1)
    name = version.reader.name
    examples = [] if request.context is UNSET else [request.context]
    rows = [
        UNSET if (value := getattr(example, name)) is UNSET else version.reader.value(value, version.spec, convert)
        for example in [*examples, *request.examples]
    ]
    common = rows.pop(0) if examples else UNSET  # counts for the examples that say nothing of their own
    rows = [common if row is UNSET else row for row in rows]
    if any(row is UNSET for row in rows):
        raise InputError(f"example {[row is UNSET for row in rows].index(True)} has no {name!r}")
    raw = np.concatenate(rows)
    probabilities = version.answer(raw, ("probabilities",))["probabilities"].tolist()
    classes = version.spec.classes
    return msgspec.json.encode({"results": [list(zip(classes, row, strict=True)) for row in probabilities]}), len(raw)


def status(states: dict[int, tuple[str, str]]) -> bytes:
    """The states of a model's versions, newest first."""
    return msgspec.json.encode(
        {
            "model_version_status": [
                {
                    "version": str(number),
                    "state": state,
                    "status": {"error_code": "FAILED_PRECONDITION" if why else "OK", "error_message": why},
                }
                for number, (state, why) in sorted(states.items(), reverse=True)
            ]
        }
    )


def metadata(version: Version) -> bytes:
    """The signatures, as TensorFlow Serving describes them."""

    def info(signature: str, name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
        return {
            "dtype": _TYPES[dtype],
            "tensor_shape": {"dim": [{"size": str(n), "name": ""} for n in shape], "unknown_rank": False},
            "name": f"{signature}_{name}:0",
        }

    spec, classes = version.spec, len(version.spec.classes)
    given = {spec.input_name: info("serving_default", spec.input_name, spec.dtype, (-1, *spec.shape))}
    answered = {name: info("serving_default", name, dtype, shape) for name, dtype, shape in outputs_of(classes)}
    signatures = {
        "serving_default": {
            "inputs": given,
            "outputs": answered,
            "method_name": "tensorflow/serving/predict",
            "defaults": {},
        },
        "classify": {
            "inputs": {"inputs": info("classify", "inputs", "object", (-1,))},
            "outputs": {
                "classes": info("classify", "classes", "object", (-1, classes)),
                "scores": info("classify", "scores", "float32", (-1, classes)),
            },
            "method_name": "tensorflow/serving/classify",
            "defaults": {},
        },
    }
    return msgspec.json.encode(
        {
            "model_spec": {"name": version.name, "signature_name": "", "version": str(version.number)},
            "metadata": {"signature_def": {"signature_def": signatures}},
        }
    )
