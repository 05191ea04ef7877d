"""Requests for a model of a table: values by the names of their columns, in each protocol."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, UnsetType

from tfsoftmax import columns
from tfsoftmax._checks import shown
from tfsoftmax.encoding import Encoder, Value, from_graph
from tfsoftmax.errors import InputError
from tfsoftmax.serving import tensors
from tfsoftmax.spec import Column, ModelSpec

if TYPE_CHECKING:
    from tfsoftmax.serving.models import Version

DATATYPES = {"float32": "FP32", "bool": "FP32", "string": "BYTES", "int64": "INT64"}
_Row = dict[str, Value]


class Decoders:
    """What reads the requests for one model; :class:`Version` has one where the model is of a table."""

    def __init__(self, spec: ModelSpec, max_rows: int):
        self.encoder = Encoder(spec)
        some = Meta(min_length=1, max_length=max_rows)
        rows = Annotated[list[_Row], some]
        inputs = rows | dict[str, Annotated[list[Value], some]]  # rows by name, or columns by name
        predict = msgspec.defstruct(
            "Predict",
            [
                ("instances", rows | None, None),
                ("inputs", Raw | UnsetType, UNSET),
                ("signature_name", str | None, None),
            ],
        )
        examples = msgspec.defstruct(
            "Classify",
            [
                ("examples", rows | None, None),
                ("context", _Row | None, None),
                ("signature_name", str | None, None),
            ],
        )
        self.predict = msgspec.json.Decoder(predict)
        self.columns = msgspec.json.Decoder(inputs)
        self.classify = msgspec.json.Decoder(examples)
        self.values = msgspec.json.Decoder(list[Value])


def predict(body: bytes, table: Decoders) -> tuple[bool, np.ndarray]:
    """The rows of a ``:predict`` body, and whether they came as ``instances``."""
    request: Any = tensors.decode(table.predict, body)
    by_row = request.instances is not None
    if by_row == tensors.given(request.inputs):
        raise InputError("give one of instances (rows) and inputs (columns)" + (", not both" if by_row else ""))
    tensors.check_signature(request, "serving_default")
    tensors.refuse_repeated_keys(body, -1)
    if by_row:
        return True, table.encoder.by_row(request.instances, "instances")
    inputs = tensors.decode(table.columns, request.inputs, "inputs")
    if isinstance(inputs, list):
        return False, table.encoder.by_row(inputs, "inputs")
    return False, table.encoder.by_column(inputs, "inputs")


def examples(body: bytes, table: Decoders) -> np.ndarray:
    """The rows of a ``:classify`` body; the context has what examples do not say."""
    request: Any = tensors.decode(table.classify, body)
    if request.examples is None:
        raise InputError("classify needs examples: a list of objects")
    tensors.check_signature(request, "classify")
    tensors.refuse_repeated_keys(body, -1)
    common = request.context or {}
    return table.encoder.by_row([{**common, **row} for row in request.examples], "examples")


def infer(inputs: list[Any], tail: bytes, version: Version, table: Decoders) -> np.ndarray:
    """The rows of the tensors of an Open Inference request: one per column, in any order, of shape [n] or [n, 1]."""
    known = {column.name: column for column in version.spec.columns}
    given: dict[str, Any] = {}
    place = 0
    for item in inputs:
        if item.name not in known:
            raise InputError(f"unexpected inference input {shown(item.name)} for model {version.name!r}")
        if item.name in given:
            raise InputError(f"inference input {shown(item.name)} is there twice")
        column, shape = known[item.name], tuple(item.shape)
        if item.datatype != DATATYPES[column.dtype]:
            wanted = DATATYPES[column.dtype]
            raise InputError(f"input {shown(item.name)} has datatype {shown(item.datatype)}, expected {wanted}")
        if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)) or not 1 <= shape[0] <= version.max_rows:
            raise InputError(
                f"input {shown(item.name)} has shape {list(shape)}, expected [n] or [n, 1] with n from 1 to "
                f"{version.max_rows}"
            )
        size = (item.parameters or {}).get("binary_data_size")
        if size is None:
            if not tensors.given(item.data):
                raise InputError(f"input {shown(item.name)} needs data, or parameters.binary_data_size")
            values = _listed(table.values, item)
        else:
            if tensors.given(item.data):
                raise InputError(f"input {shown(item.name)} has data and binary_data_size: give one of the two")
            if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(tail) - place:
                raise InputError(f"input {shown(item.name)} has binary_data_size {shown(size)} and fewer bytes follow")
            values = _unpacked(column, tail[place : place + size], shape[0])
            place += size
        if len(values) != shape[0]:
            raise InputError(f"input {shown(item.name)} of shape {list(shape)} has {len(values)} values")
        given[item.name] = from_graph(column, values)
    if place != len(tail):
        raise InputError(f"{len(tail) - place} bytes follow the tensors")
    return table.encoder.by_column(given, "the request")


def _listed(decoder: msgspec.json.Decoder[list[Value]], item: Any) -> list[Any]:
    nested = bytes(memoryview(item.data)[1:64]).lstrip().startswith(b"[")
    if not nested:
        return list(tensors.decode(decoder, item.data, "data"))
    return [value for row in tensors.decode(_NESTED, item.data, "data") for value in row]


_NESTED = msgspec.json.Decoder(list[Annotated[list[Value], Meta(min_length=1, max_length=1)]])


def _unpacked(column: Column, content: bytes, count: int) -> list[Any]:
    if column.dtype != "string":
        dtype = np.dtype("<i8" if column.dtype == "int64" else "<f4")
        if len(content) != count * dtype.itemsize:
            raise InputError(f"input {shown(column.name)} has {len(content)} bytes for {count} values of {dtype}")
        return list(np.frombuffer(content, dtype).tolist())
    words: list[str] = []
    place = 0
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "little")
        word = content[place + 4 : place + 4 + size]
        if len(content) < place + 4 or len(word) != size or len(words) == count:
            raise InputError(f"input {shown(column.name)} is no {count} strings, each after its length in 4 bytes")
        try:
            words.append(word.decode())
        except UnicodeDecodeError as error:
            raise InputError(f"input {shown(column.name)}: string {len(words)} is not UTF-8") from error
        place += 4 + size
    return words


def unseen(version: Version, raw: np.ndarray) -> dict[str, int]:
    """How many values training did not see, by column; InputError where they are refused."""
    found = columns.unseen(raw, version.spec.columns)
    if found and version.refuse_unseen:
        names = ", ".join(f"{shown(name)} ({count:,})" for name, count in found.items())
        raise InputError(f"values that training did not see, in {names}; this server refuses them (--unseen refuse)")
    return found


def inputs_of(spec: ModelSpec) -> list[tuple[str, str]]:
    """Name and dtype, as NumPy calls it, of each input of a graph."""
    return [
        (column.name, {"string": "object", "bool": "float32"}.get(column.dtype, column.dtype))
        for column in spec.columns
    ]


def evidence(version: Version, terms: np.ndarray) -> np.ndarray:
    """The evidence of features ``(features,)`` added up by column."""
    of = columns.column_of_feature(version.spec.columns)
    return np.bincount(of, terms, minlength=math.prod(version.spec.shape))
