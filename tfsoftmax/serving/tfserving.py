"""The protocol of TensorFlow Serving's REST interface: predict, classify, status, metadata."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from msgspec import Raw, Struct

from tfsoftmax.errors import InputError
from tfsoftmax.serving import pictures, tables, tensors
from tfsoftmax.serving.effort import Effort
from tfsoftmax.serving.models import Version, outputs_of
from tfsoftmax.serving.pictures import Convert

LARGE = 2**20  # bytes of a body from which its rows are decoded one by one
_COLUMNS = msgspec.json.Decoder(dict[str, Raw])
_ONE_OF = "give one of instances (rows) and inputs (columns)"
_TYPES = {"uint8": "DT_UINT8", "float32": "DT_FLOAT", "int64": "DT_INT64", "object": "DT_STRING"}


Answered = tuple[bytes, int, dict[str, int]]  # JSON, rows, and how many values training did not see, by column


def predict(body: bytes, version: Version, convert: Convert, effort: Effort) -> Answered:
    """Answer the body of ``:predict``."""
    by_row, raw, unseen = read(body, version, convert, effort)
    classes = version.spec.classes
    effort.answer(len(raw) * (2 * len(classes) + 2))
    found = version.answer(raw, ("logits", "probabilities", "class_id"))
    logits, probabilities = found["logits"].tolist(), found["probabilities"].tolist()
    class_id = found["class_id"].tolist()
    labels = [classes[k] for k in class_id]
    if by_row:
        rows = zip(logits, probabilities, class_id, labels, strict=True)
        answer: dict[str, Any] = {
            "predictions": [{"logits": a, "probabilities": b, "class_id": c, "label": d} for a, b, c, d in rows]
        }
    else:
        columns = {"logits": logits, "probabilities": probabilities, "class_id": class_id, "label": labels}
        answer = {"outputs": columns}
    return msgspec.json.encode(answer), len(raw), unseen


def read(body: bytes, version: Version, convert: Convert, effort: Effort) -> tuple[bool, np.ndarray, dict[str, int]]:
    """The rows of a ``:predict`` body, whether they came as ``instances``, and what training did not see in them."""
    if version.table is None:
        return (*_tensors(body, version, convert, effort), {})
    by_row, raw = tables.predict(body, version.table)
    return by_row, raw, tables.unseen(version, raw)


def _tensors(body: bytes, version: Version, convert: Convert, effort: Effort) -> tuple[bool, np.ndarray]:
    if (files := pictures.in_body(body, convert.kind)) is not None:
        return True, _pictures(files, version, convert, effort)
    if len(body) > LARGE:
        return _read_large(body, version, convert, effort)
    reader, request = tensors.first_that_fits(version.readers, lambda one: tensors.decode(one.predict, body))
    by_row = request.instances is not None
    if by_row == (request.inputs is not None):
        raise InputError(_ONE_OF + (", not both" if by_row else ""))
    tensors.check_signature(request, "serving_default")
    rows: Any = request.instances if by_row else request.inputs
    keys = 1 + (request.signature_name is not None)
    if type(rows) is not list:  # columns by name
        rows = getattr(rows, reader.name)
        keys += 1
    objects = [row for row in rows if type(row) is not list]  # isinstance(row, Struct) takes its time
    tensors.refuse_repeated_keys(body, keys + sum(map(_keys, objects)))
    try:
        if not objects:
            return by_row, reader.array(rows)
        return by_row, np.concatenate([_row(row, reader, version, convert, effort) for row in rows])
    except tensors.Beyond:
        tensors.decode(reader.strict, body)  # says where
        raise


def _read_large(body: bytes, version: Version, convert: Convert, effort: Effort) -> tuple[bool, np.ndarray]:
    """As :func:`read`, one row after the other."""

    request = tensors.decode(tensors.OUTLINE, body)
    by_row = tensors.given(request.instances)
    if by_row == tensors.given(request.inputs):
        raise InputError(_ONE_OF + (", not both" if by_row else ""))
    tensors.check_signature(request, "serving_default")
    rows = request.instances if by_row else request.inputs
    place, keys = "instances" if by_row else "inputs", 1 + (request.signature_name is not None)
    if bytes(memoryview(rows)[:1]) == b"{":
        columns = tensors.decode(_COLUMNS, rows, place)
        if by_row or list(columns) != [version.spec.input_name]:
            raise InputError(f"{place} has the keys {', '.join(columns)}; expected {version.spec.input_name!r}")
        ((name, rows),) = columns.items()
        place, keys = f"{place}.{name}", keys + 1

    def arrays(reader: tensors.Reader) -> tuple[int, np.ndarray]:
        found, inner = [], 0
        for row in reader.one_by_one(rows, reader.instance if by_row else reader.value, place):
            inner += _keys(row) if isinstance(row, Struct) else 0
            found.append(_row(row, reader, version, convert, effort))
        return inner, np.concatenate(found)

    _, (inner, raw) = tensors.first_that_fits(version.readers, arrays)
    tensors.refuse_repeated_keys(body, keys + inner)
    return by_row, raw


def _pictures(files: list[bytes], version: Version, convert: Convert, effort: Effort) -> np.ndarray:
    if len(files) > version.max_rows:
        raise InputError(f"{len(files)} pictures are more than {version.max_rows} rows")
    return np.stack([pictures.array(file, version.spec, convert, effort) for file in files])


def _keys(row: Struct) -> int:
    return sum(1 + (_keys(value) if isinstance(value, Struct) else 0) for value in _values(row))


def _values(row: Struct) -> list[Any]:
    return [value for name in row.__struct_fields__ if (value := getattr(row, name)) is not None]


def _row(row: Any, reader: tensors.Reader, version: Version, convert: Convert, effort: Effort) -> np.ndarray:
    while isinstance(row, Struct):
        values = _values(row)
        if len(values) != 1:
            raise InputError(f"an instance that is an object has one key, {reader.name!r} or 'b64'")
        (row,) = values
    if isinstance(row, str):
        return pictures.array(pictures.from_base64(row), version.spec, convert, effort)[None]
    return reader.array([row])


def classify(body: bytes, version: Version, convert: Convert, effort: Effort) -> Answered:
    """Answer the body of ``:classify``: for each example all classes with their probabilities."""
    raw, unseen = classified(body, version, convert, effort)
    classes = version.spec.classes
    effort.answer(len(raw) * 2 * len(classes))
    probabilities = version.answer(raw, ("probabilities",))["probabilities"].tolist()
    results = [list(zip(classes, row, strict=True)) for row in probabilities]
    return msgspec.json.encode({"results": results}), len(raw), unseen


def classified(body: bytes, version: Version, convert: Convert, effort: Effort) -> tuple[np.ndarray, dict[str, int]]:
    """The rows of a ``:classify`` body, and what training did not see in them."""
    if version.table is not None:
        raw = tables.examples(body, version.table)
        return raw, tables.unseen(version, raw)
    files = pictures.in_body(body, convert.kind)
    if files is not None:
        return _pictures(files, version, convert, effort), {}
    return _examples(body, version, convert, effort), {}


def _examples(body: bytes, version: Version, convert: Convert, effort: Effort) -> np.ndarray:
    """The rows of a ``:classify`` body."""
    request = tensors.decode(version.readers[0].classify, body)
    if request.examples is None:
        raise InputError("classify needs examples: a list of objects")
    tensors.check_signature(request, "classify")
    tensors.refuse_repeated_keys(body, -1)
    name = version.spec.input_name
    rows: list[Any] = []
    for example in [*([] if request.context is None else [request.context]), *request.examples]:
        value: Any = getattr(example, name)
        value = tensors.example(value, version.readers) if tensors.given(value) else None
        if isinstance(value, str):
            value = pictures.array(pictures.from_base64(value), version.spec, convert, effort)[None]
        rows.append(value)
    common = None if request.context is None else rows.pop(0)  # for the examples that say nothing of their own
    rows = [common if row is None else row for row in rows]
    missing = [k for k, row in enumerate(rows) if row is None]
    if missing:
        raise InputError(f"example {missing[0]} has no {name!r}")
    return np.concatenate(rows)


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
    inputs: list[tuple[str, str, tuple[int, ...]]]
    inputs = [(name, dtype, (-1,)) for name, dtype in tables.inputs_of(spec)]
    inputs = inputs or [(spec.input_name, spec.dtype, (-1, *spec.shape))]
    given = {name: info("serving_default", name, dtype, shape) for name, dtype, shape in inputs}
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
