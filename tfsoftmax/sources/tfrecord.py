"""TFRecord files of ``tf.train.Example``: one feature with the inputs, one with the label, of equal lengths."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfsoftmax._checks import shown
from tfsoftmax.errors import InputError
from tfsoftmax.sources import tables
from tfsoftmax.sources.arrays import Source
from tfsoftmax.sources.columns import Choices
from tfsoftmax.sources.large import PART, Large, fingerprint, written
from tfsoftmax.sources.npy import budget

_TYPES = {"float_list": "float32", "int64_list": "int64", "bytes_list": "string"}
_ENCODED = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM")  # pictures


class _Features(NamedTuple):
    """What the first example holds, and so must all others."""

    x: str
    kind: str
    size: int  # numbers, or bytes
    label: str
    label_kind: str
    record: int  # bytes


def files(
    argument: str, memory: int | None = None, label: str | None = None, drop: Sequence[str] = ()
) -> Source | Large:
    """Read a file, a folder of files or a pattern; files with ``train`` and ``test`` in their names are the splits.

    Args:
        argument: the files, as they are or compressed by gzip.
        memory: bytes that the inputs may take; more are :class:`Large`. ``None``: half of what is free.
        label: the feature of the labels, one int64 or one bytes (a name); ``None``: the only one that is called label,
            class, target or y.
        drop: features to leave out. One other must remain: floats or int64, which become float32, or one bytes with a
            uint8 number a byte.
    """
    choices, found, memory = Choices(label, tuple(drop)), tables.files("tfrecord", argument, "*"), budget(memory)
    name = tables.name_of(argument)
    features = _features(name, found[0], choices)
    splits = [[file for file in found if re.search(rf"(^|[-_.]){split}", file.name)] for split in ("train", "test")]
    if not all(splits) or sum(map(len, splits)) != len(found):
        splits = [found]
    count = sum(file.stat().st_size for file in found) // features.record  # of compressed files too few

    def write(folder: Path, progress: Callable[[int, int], None]) -> Source:
        done = 0

        def parts(some: Sequence[Path], labels: list[np.ndarray]) -> Iterator[np.ndarray]:
            nonlocal done
            for x, y in _parts(some, features):
                labels.append(y)
                done += len(x)
                yield x
                progress(done, max(done, count))

        rows: list[Any] = []
        for number, some in enumerate(splits):
            labels: list[np.ndarray] = []
            rows.append(written(folder / f"rows-{number}.part", parts(some, labels), memory))
            rows.append(np.concatenate(labels))
        return Source(name, *rows)

    large = Large(name, fingerprint(found, choices), memory, write)
    width = features.size * (1 if features.kind == "bytes_list" else 4)
    if count * width > memory:
        return large
    read: list[Any] = []
    total = 0
    for some in splits:
        batches = []
        for batch in _parts(some, features):
            total += batch[0].nbytes
            if total > memory:
                return large
            batches.append(batch)
        read += [np.concatenate(arrays) for arrays in zip(*batches, strict=True)]
    return Source(name, *read)


def _features(name: str, path: Path, choices: Choices) -> _Features:
    import tensorflow as tf

    import tfsoftmax._tensorflow  # noqa: F401 - before TensorFlow

    example = tf.train.Example()
    try:
        record: bytes = next(_records([path], 1), np.array([b""]))[0]
        example.ParseFromString(record)
    except _not_parsed() as error:
        raise InputError(f"{str(path)!r} holds no tf.train.Example") from error
    found = {key: value.WhichOneof("kind") for key, value in sorted(example.features.feature.items())}
    if not found:
        raise InputError(f"{str(path)!r} has no tf.train.Example, or one without features")
    label = tables.label_of(name, list(found), choices)
    tables.check_named(name, list(found), choices)
    inputs = [key for key in found if key not in (label, *choices.drop)]
    if len(inputs) != 1:
        raise InputError(
            f"{name!r} must have one feature beside the label {shown(label)}, got "
            f"{shown(', '.join(inputs))}: --drop all others"
        )
    one, of_label = example.features.feature[inputs[0]], example.features.feature[label]
    kind, label_kind = found[inputs[0]], found[label]
    values: Any = getattr(one, kind).value if kind else ()
    if label_kind not in ("int64_list", "bytes_list") or len(getattr(of_label, label_kind).value) != 1:
        raise InputError(f"{name!r}: the feature {shown(label)} must hold one label, int64 or bytes")
    if not len(values) or (kind == "bytes_list" and (len(values) > 1 or not values[0])):
        raise InputError(f"{name!r}: the feature {shown(inputs[0])} must hold numbers, or one string of bytes")
    if kind == "bytes_list" and values[0].startswith(_ENCODED):
        raise InputError(
            f"{name!r}: the feature {shown(inputs[0])} holds encoded pictures, expected one byte a number: pictures "
            "are read from a folder per class (pictures:FOLDER) or by tfds:NAME"
        )
    return _Features(
        inputs[0], kind, len(values[0] if kind == "bytes_list" else values), label, label_kind, len(record) + 16
    )


def _records(paths: Sequence[Path], size: int) -> Iterator[np.ndarray]:
    """Serialized examples, ``size`` at a time."""
    import tensorflow as tf

    for path in paths:
        with tables.reading(path, "tfrecord"):
            with open(path, "rb") as file:
                compression = "GZIP" if file.read(2) == b"\x1f\x8b" else ""
            try:
                for batch in tf.data.TFRecordDataset(str(path), compression).batch(size):
                    yield batch.numpy()
            except tf.errors.OpError as error:
                raise InputError(f"as TFRecord: {(error.message.splitlines() or [''])[0]}") from error


def _parts(paths: Sequence[Path], features: _Features) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs and labels, some rows at a time."""
    import tensorflow as tf

    in_bytes = features.kind == "bytes_list"
    form = {
        features.x: tf.io.FixedLenFeature([] if in_bytes else [features.size], _TYPES[features.kind]),
        features.label: tf.io.FixedLenFeature([], _TYPES[features.label_kind]),
    }
    for path in paths:
        for records in _records([path], max(1, PART // features.record)):
            try:
                found = tf.io.parse_example(records, form)
            except tf.errors.OpError as error:
                raise InputError(f"{str(path)!r}: an example is not as the first one: {error.message}") from error
            x, y = found[features.x].numpy(), found[features.label].numpy()
            if in_bytes:
                if odd := {len(one) for one in x} - {features.size}:
                    raise InputError(
                        f"{str(path)!r}: the feature {shown(features.x)} has {odd.pop():,} bytes in one example "
                        f"and {features.size:,} in the first; they must be alike"
                    )
                x = np.frombuffer(b"".join(x), np.uint8).reshape(len(x), -1)
            yield (x if in_bytes else x.astype(np.float32, copy=False)), y if y.dtype != object else y.astype("S")


def _not_parsed() -> type[Exception]:
    from google.protobuf.message import DecodeError

    return DecodeError
