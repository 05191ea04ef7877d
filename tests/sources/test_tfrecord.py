"""TFRecord files of examples: read as arrays would be, converted where they are larger than memory, or refused."""

import gzip

import numpy as np
import pytest
import tensorflow as tf

import tfsoftmax
from tfsoftmax import sources
from tfsoftmax.errors import InputError
from tfsoftmax.sources.converted import convert
from tfsoftmax.sources.large import Large

X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
Y = np.arange(60) % 3 + 7


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if np.asarray(value).dtype.kind == "i":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=np.ravel(value)))
    return tf.train.Feature(float_list=tf.train.FloatList(value=np.ravel(value)))


def write(path, **columns):
    with tf.io.TFRecordWriter(str(path)) as file:
        for values in zip(*columns.values(), strict=True):
            row = {name: feature(value) for name, value in zip(columns, values, strict=True)}
            file.write(tf.train.Example(features=tf.train.Features(feature=row)).SerializeToString())
    return path


def test_floats_and_numbers_as_labels(tmp_path):
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / "some-train.tfrecord-00000-of-00002", e=X[:30], label=Y[:30], id=Y[:30])
    write(tmp_path / "parts" / "some-train.tfrecord-00001-of-00002", e=X[30:], label=Y[30:], id=Y[30:])
    write(tmp_path / "parts" / "some-test.tfrecord", e=X[:9], label=Y[:9], id=Y[:9])
    whole = tfsoftmax.Source("arrays", X, Y, X[:9], Y[:9])
    name = f"tfrecord:{tmp_path / 'parts'}"
    assert sources.read(name, drop="id").fingerprint == whole.fingerprint
    large = sources.opened(name, drop="id", memory=500)
    assert isinstance(large, Large)
    convert(large, tmp_path / "rows", None)
    assert sources.read(tmp_path / "rows").fingerprint == whole.fingerprint


def test_bytes_names_and_gzip(tmp_path):
    x, names = np.arange(48, dtype=np.uint8).reshape(6, 8), [b"owl", b"caf\xc3\xa9"] * 3
    path = write(tmp_path / "a.tfrecord", raw=[row.tobytes() for row in x], y=names)
    packed = tmp_path / "b.tfrecord"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for file in (path, packed):
        made = sources.read(file)
        np.testing.assert_array_equal(made.x_train, x)
        assert (made.x_train.dtype, made.classes, made.y_train.tolist()) == (np.uint8, ("café", "owl"), [1, 0] * 3)
    assert isinstance(sources.opened(packed, memory=10), Large)


def test_what_is_refused(tmp_path):
    path = tmp_path / "a.tfrecord"

    def refused(match, **columns):
        if columns:
            write(path, **columns)
        with pytest.raises(InputError, match=match):
            sources.read(path)

    refused("must have one feature beside the label 'y', got 'a, b': --drop", a=X[:3], b=X[:3], y=Y[:3])
    refused("which column of 'a' has the labels", a=X[:3], b=Y[:3])
    refused("feature 'y' must hold one label, int64 or bytes", a=X[:3], y=X[:3, 0])
    refused("holds encoded pictures", a=[b"\x89PNG.."] * 2, y=Y[:2])
    refused("not as the first one: .*a.*", a=[X[0], X[0, :2]], y=Y[:2])
    refused("has 2 bytes in one example and 3 in the first", a=[b"abc", b"ab"], y=Y[:2])
    refused("row 1 has a NaN", a=[X[0], X[0] * np.nan], y=Y[:2])
    write(path, a=X, y=Y)
    path.write_bytes(path.read_bytes()[:-3])
    refused("cannot read .*a.tfrecord': as TFRecord: .*truncated")
    path.write_bytes(b"")
    refused("has no tf.train.Example")
    with tf.io.TFRecordWriter(str(path)) as file:
        file.write(b"hello")
    refused("holds no tf.train.Example")
