"""JSON to arrays: decoders whose types are the model's shape, so that what they pass is right."""

from __future__ import annotations

import base64
import binascii
import functools
import io
import json
import math
from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from tfsoftmax import inputs
from tfsoftmax.errors import InputError
from tfsoftmax.spec import ModelSpec

LARGEST = float(np.finfo(np.float32).max)
MAX_PIXELS = 32_000_000  # of a picture; more would take long and much memory to decode


class Picture(Struct, forbid_unknown_fields=True):
    """``{"b64": …}``: a picture file in base64."""

    b64: str


class Convert(NamedTuple):
    """What the request says of its pictures.

    Attributes:
        fit: convert another colour mode or size, as ``tfsoftmax predict --fit`` does.
        invert: turn light to dark and dark to light.
        whole: the body itself is a picture, not JSON.
    """

    fit: bool = False
    invert: bool = False
    whole: bool = False


class Example(Struct, forbid_unknown_fields=True):
    """Base of the types that :class:`Reader` makes for objects that stand for one row."""


class Reader:
    """Decoders for the rows of one kind of model; :func:`reader` keeps them.

    Attributes:
        predict: of the body of ``:predict`` and ``:explain``; ``classify``: of that of ``:classify``.
        size: elements of one row.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str, name: str, max_rows: int):
        self.shape, self.dtype, self.name, self.size = shape, np.dtype(dtype), name, math.prod(shape)
        element: Any = Annotated[int, Meta(ge=0, le=255)] if dtype == "uint8" else float
        some = Meta(min_length=1, max_length=max_rows)
        row: Any = element
        for size in reversed(shape):
            row = Annotated[list[row], Meta(min_length=size, max_length=size)]
        optional = functools.partial(_optional, forbid_unknown_fields=True)
        named = optional("Named", {name: row | Picture, "b64": str}, base=Example)
        column = Annotated[list[row | Picture], some]
        columns = msgspec.defstruct("Columns", [(name, column)], forbid_unknown_fields=True)
        instances = Annotated[list[row | named], some]
        predict = optional("Predict", {"instances": instances, "inputs": column | columns, "signature_name": str})
        example = optional("Example", {name: Raw})
        examples = {"examples": Annotated[list[example], some], "context": example, "signature_name": str}
        self.predict = msgspec.json.Decoder(predict)
        self.classify = msgspec.json.Decoder(optional("Classify", examples))
        self._row = msgspec.json.Decoder(row)
        self._rows = msgspec.json.Decoder(Annotated[list[row], some])
        self._flat = msgspec.json.Decoder(Annotated[list[element], Meta(max_length=max_rows * self.size)])

    def array(self, rows: Sequence[Any]) -> np.ndarray:
        """Nested lists that a decoder has passed, or arrays of single pictures, as ``(n, *shape)``."""
        values: Any = rows
        for _ in self.shape[1:]:
            values = chain.from_iterable(values)
        if self.dtype == np.uint8:
            return np.frombuffer(b"".join(map(bytes, values)), np.uint8).reshape(-1, *self.shape)
        return self.finite(np.array(list(values), np.float64)).reshape(-1, *self.shape)

    def finite(self, values: np.ndarray) -> np.ndarray:
        """As this model's dtype; InputError where a number is not finite in float32."""
        if self.dtype == np.uint8:
            return values
        if not (np.abs(values) <= LARGEST).all():
            raise InputError(f"{self.name} must hold finite numbers within float32's range")
        return values.astype(np.float32, copy=False)

    def value(self, raw: Raw, spec: ModelSpec, convert: Convert) -> np.ndarray:
        """One row that is a picture, nested lists, or one flat list: as ``(1, *shape)``."""
        text = bytes(raw)
        if text.startswith(b"{"):
            return picture(decode(_PICTURE, text).b64, spec, convert)[None]
        if len(self.shape) > 1 and text[1:].lstrip().startswith(b"["):
            return self.array([decode(self._row, text)])
        return self._from_flat(text, (1, *self.shape))

    def data(self, raw: Raw, shape: tuple[int, ...]) -> np.ndarray:
        """``data`` of the Open Inference Protocol, flat or nested, as an array of ``shape``."""
        text = bytes(raw)
        if not text[1:].lstrip().startswith(b"["):
            return self._from_flat(text, shape)
        array = self.array(decode(self._rows, text))
        if array.shape != shape:
            raise InputError(f"data has shape {list(array.shape)} and shape says {list(shape)}")
        return array

    def _from_flat(self, text: bytes, shape: tuple[int, ...]) -> np.ndarray:
        values = decode(self._flat, text)
        if len(values) != math.prod(shape):
            raise InputError(f"{len(values)} values cannot have shape {list(shape)}")
        if self.dtype == np.uint8:
            return np.frombuffer(bytes(values), np.uint8).reshape(shape)
        return self.finite(np.array(values, np.float64)).reshape(shape)


_PICTURE = msgspec.json.Decoder(Picture)
reader = functools.lru_cache(64)(Reader)


def _optional(name: str, fields: dict[str, Any], base: type[Struct] = Struct, **options: Any) -> type[Struct]:
    return msgspec.defstruct(
        name, [(key, kind | UnsetType, UNSET) for key, kind in fields.items()], bases=(base,), **options
    )


def decode(decoder: msgspec.json.Decoder, body: bytes) -> Any:
    """Decode JSON by type; InputError says where it does not fit."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InputError(str(error)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InputError(f"the body is not JSON: {error}") from error


def refuse_repeated_keys(body: bytes, keys: int) -> None:
    """InputError where an object names a key twice, which decoders pass over in silence.

    Args:
        body: JSON that a decoder has read.
        keys: how many keys the decoded value has. As many colons: no key was there twice (or a text has a colon).
    """
    if body.count(b":") != keys:
        json.loads(body, object_pairs_hook=_unique, parse_int=len)  # the numbers do not matter here


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise InputError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return found


def picture(content: bytes | str, spec: ModelSpec, convert: Convert) -> np.ndarray:
    """A picture file (a text: in base64) as one row of ``spec.shape``. Raises InputError."""
    if isinstance(content, str):
        try:
            content = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(f"b64 is not base64: {error}") from error
    array = inputs.picture(
        io.BytesIO(content),
        spec,
        convert.fit,
        "the picture",
        advice="?fit=true",
        most=MAX_PIXELS,
    )
    return 255 - array if convert.invert else array
