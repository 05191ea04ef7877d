"""JSON to arrays: decoders with the model's shape as their type, so that whatever they accept is valid."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from tfsoftmax.errors import InputError

LARGEST = float(np.finfo(np.float32).max)
_NOT_FINITE = re.compile(rb"-?(?:NaN|Infinity)\b")


class Picture(Struct, forbid_unknown_fields=True):
    """``{"b64": …}``: a picture file in base64."""

    b64: str


class Beyond(InputError):
    """A whole number that is not within a byte."""


class Example(Struct, forbid_unknown_fields=True):
    """Base of the types that :class:`Reader` creates for objects that stand for one row."""


class Reader:
    """Decoders for the rows of one kind of model; :func:`reader` caches them.

    Args:
        shape: of one row in requests, one of ``spec.row_shapes``.
        target: of one row of the arrays: ``spec.shape``.
        dtype: ``uint8`` or ``float32``.
        name: of the input.
        max_rows: most rows in one request.

    Attributes:
        predict: of the body of ``:predict`` and ``:explain``, with whole numbers of any size; ``strict``: the same with
            those of a byte alone; ``classify``: of that of ``:classify``.
        instance: of one item of ``instances``; ``value``: of one of ``inputs``.
        size: elements of one row.
    """

    def __init__(self, shape: tuple[int, ...], target: tuple[int, ...], dtype: str, name: str, max_rows: int):
        self.shape, self.target, self.dtype, self.name = shape, target, np.dtype(dtype), name
        self.size = math.prod(shape)
        element: Any = Annotated[int, Meta(ge=0, le=255)] if dtype == "uint8" else float
        some = Meta(min_length=1, max_length=max_rows)
        row: Any = element
        quick: Any = int if dtype == "uint8" else float
        flat: Any = quick
        for size in reversed(shape):
            exact = Meta(min_length=size, max_length=size)
            row, quick = Annotated[list[row], exact], Annotated[list[quick], exact]

        def named(row: Any) -> Any:
            # the keys of an instance are names of inputs: an unknown one is an error; elsewhere they are ignored
            return row | _optional("Named", {name: row | Picture, "b64": str}, base=Example, forbid_unknown_fields=True)

        def predict(row: Any) -> msgspec.json.Decoder[Any]:
            column: Any = Annotated[list[row | Picture], some]
            columns = msgspec.defstruct("Columns", [(name, column)], forbid_unknown_fields=True)
            instance: Any = named(row)
            instances = Annotated[list[instance], some]
            body = {"instances": instances, "inputs": column | columns, "signature_name": str}
            return msgspec.json.Decoder(_optional("Predict", body))

        example: Any = msgspec.defstruct("Example", [(name, Raw | UnsetType, UNSET)], forbid_unknown_fields=True)
        examples = {"examples": Annotated[list[example], some], "context": example, "signature_name": str}
        # whole numbers of any size are decoded in two thirds of the time, and bytes() finds those that are too large
        self.predict, self.strict = predict(quick), predict(row)
        self.classify = msgspec.json.Decoder(_optional("Classify", examples))
        self.instance = msgspec.json.Decoder(named(row))
        self.value = msgspec.json.Decoder(row | Picture)
        self._row = msgspec.json.Decoder(row)
        self._each = msgspec.json.Decoder(Annotated[list[Raw], some])
        most = Meta(max_length=max_rows * self.size)
        self._flat = msgspec.json.Decoder(Annotated[list[flat], most])
        self._flat_strict = msgspec.json.Decoder(Annotated[list[element], most])

    def array(self, rows: Sequence[Any]) -> np.ndarray:
        """Nested lists that a decoder has accepted, as ``(n, *target)``. Raises Beyond."""
        values: Any = rows
        for _ in self.shape[1:]:
            values = chain.from_iterable(values)
        if self.dtype == np.uint8:
            try:
                content = b"".join(map(bytes, values))
            except (ValueError, OverflowError) as error:
                raise Beyond(f"{self.name} must hold whole numbers from 0 to 255") from error
            return np.frombuffer(content, np.uint8).reshape(-1, *self.target)
        return self.finite(np.array(list(values), np.float64)).reshape(-1, *self.target)

    def finite(self, values: np.ndarray) -> np.ndarray:
        """As this model's dtype; InputError if a number is not finite in float32."""
        if self.dtype == np.uint8:
            return values
        if not (np.abs(values) <= LARGEST).all():
            raise InputError(f"{self.name} must hold finite numbers within float32's range")
        return values.astype(np.float32, copy=False)

    def row(self, text: Raw) -> np.ndarray:
        """One row that is nested lists, or one flat list, as ``(1, *target)``."""
        if len(self.shape) > 1 and _is_nested(text):
            return self.array([decode(self._row, text)])
        return self._from_flat(text, (1, *self.target))

    def data(self, text: Raw, count: int) -> np.ndarray:
        """``data`` of the Open Inference Protocol, flat or nested, as ``(count, *target)``."""
        if not _is_nested(text):
            return self._from_flat(text, (count, *self.target))
        array = np.concatenate([self.array([row]) for row in self.one_by_one(text, self._row, "data")])
        if len(array) != count:
            said, found = [count, *self.shape], [len(array), *self.shape]
            raise InputError(f"data has shape {found} and shape says {said}")
        return array

    def one_by_one(self, rows: Raw, decoder: msgspec.json.Decoder[Any], place: str) -> Iterator[Any]:
        """Decode the items of a list; ``place`` is the list's position, for errors."""
        for i, text in enumerate(decode(self._each, rows, place)):
            yield decode(decoder, text, f"{place}[{i}]")

    def _from_flat(self, text: Raw, shape: tuple[int, ...]) -> np.ndarray:
        values = decode(self._flat, text)
        if len(values) != math.prod(shape):
            raise InputError(f"{len(values)} values cannot have shape {list(shape)}")
        if self.dtype == np.uint8:
            try:
                return np.frombuffer(bytes(values), np.uint8).reshape(shape)
            except (ValueError, OverflowError) as error:
                decode(self._flat_strict, text)  # says where
                raise Beyond(f"{self.name} must hold whole numbers from 0 to 255") from error
        return self.finite(np.array(values, np.float64)).reshape(shape)


class Outline(Struct):
    """A large body of ``:predict``, whose rows are decoded one by one: all lists at once take ten times the array."""

    instances: Raw | UnsetType = UNSET
    inputs: Raw | UnsetType = UNSET
    signature_name: str | None = None


OUTLINE = msgspec.json.Decoder(Outline)
_PICTURE = msgspec.json.Decoder(Picture)
reader = functools.lru_cache(64)(Reader)


def _optional(name: str, fields: dict[str, Any], base: type[Struct] = Struct, **options: Any) -> type[Struct]:
    """A type whose fields may be absent or null, which means the same."""
    return msgspec.defstruct(name, [(key, kind | None, None) for key, kind in fields.items()], bases=(base,), **options)


def first_that_fits(readers: Sequence[Reader], read: Callable[[Reader], Any]) -> tuple[Reader, Any]:
    """The first reader that accepts the request, and its result. Raises the InputError of the first."""
    errors = []
    for one in readers:
        try:
            return one, read(one)
        except InputError as error:
            errors.append(error)
    raise errors[0]


def example(raw: Raw, readers: Sequence[Reader]) -> np.ndarray | str:
    """One feature of ``:classify``: a row ``(1, *target)``, or a picture in base64."""
    if bytes(memoryview(raw)[:1]) == b"{":
        return decode(_PICTURE, raw).b64
    return first_that_fits(readers, lambda reader: reader.row(raw))[1]


def _is_nested(text: Raw) -> bool:
    return bytes(memoryview(text)[1:64]).lstrip().startswith(b"[")


def given(raw: Raw | UnsetType) -> bool:
    """Whether a field is present and not null."""
    return raw is not UNSET and bytes(memoryview(raw)[:4]) != b"null"


def decode(decoder: msgspec.json.Decoder[Any], body: bytes | Raw, place: str = "") -> Any:
    """Decode JSON by type; InputError names the position; ``place`` is that of ``body`` in the request."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        if place:
            text = text.replace("`$", f"`$.{place}") if "`$" in text else f"{text} - at `$.{place}`"
        raise InputError(text) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        byte = re.search(r"\(byte (\d+)\)", str(error))
        at = int(byte[1]) if byte else 0
        if number := _NOT_FINITE.match(body, max(0, at - 1)) or _NOT_FINITE.match(body, at):
            text = f"{number[0].decode()} at byte {number.start()} is not a JSON number: finite numbers are expected"
            raise InputError(text) from error
        raise InputError(f"the body is not JSON: {error}") from error


def check_signature(request: Any, name: str) -> None:
    """InputError if a request names another signature than that of its method."""
    if request.signature_name not in (None, "", name):
        raise InputError(f"signature {request.signature_name!r} is not there for this method; {name!r} is")


def refuse_repeated_keys(body: bytes, keys: int) -> None:
    """InputError if an object has a key twice, which decoders silently accept.

    Args:
        body: JSON that a decoder has read.
        keys: how many keys the decoded value has. As many colons: no key appears twice (or a string has a colon).
    """
    if body.count(b":") == keys:
        return
    try:  # decoders skip the text of unknown keys, so that it may be anything
        json.loads(body.decode(), object_pairs_hook=_unique, parse_int=len, parse_float=len)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise InputError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return found
