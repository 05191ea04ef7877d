"""TensorFlow Datasets: any picture classification set that has the splits train and test."""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import sys
import types
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from tfsoftmax._private import RETRIES, find
from tfsoftmax.errors import InputError
from tfsoftmax.sources.arrays import Source

_RETRIES = 4  # of a download: TFDS's own ten take 204 s where there is no network, these 3 s


def builder(name: str) -> Source:
    """Read the TFDS data set ``name`` whole into memory, preparing it first where that was not done yet.

    A single colour channel is dropped, so that ``(28, 28, 1)`` becomes ``(28, 28)``.

    Raises:
        InputError: an unknown name, version or configuration, a set that is not pictures of one size with one label
            each, no network to download it.
    """
    import tensorflow_datasets as tfds

    try:
        found = tfds.builder(name)
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name, tfds.list_builders(), n=3)
        raise InputError(f"unknown TFDS data set {name!r}; nearest: {', '.join(near) or 'none'}") from error
    except (ValueError, AssertionError) as error:  # of a version, TFDS asserts that it knows it
        why = str(error).splitlines()[0].partition('": ')
        raise InputError(f"cannot open TFDS data set {name!r}: {why[2] or why[0]}") from error
    keys = found.info.supervised_keys
    if keys is None or not isinstance(found.info.features[keys[1]], tfds.features.ClassLabel):
        raise InputError(f"TFDS data set {name!r} does not have one label a row: its supervised keys are {keys}")
    if missing := {"train", "test"} - set(found.info.splits or ("train", "test")):
        raise InputError(
            f"TFDS data set {name!r} has no split {sorted(missing)[0]!r}; it has {sorted(found.info.splits)}"
        )
    _prepare(found, name)
    splits: dict[str, Any] = {}
    for split in ("train", "test"):
        x, y = _rows(found, name, split, keys[0])
        splits[f"x_{split}"] = x[..., 0] if x.ndim == 4 and x.shape[-1] == 1 else x
        splits[f"y_{split}"] = y
    return Source(name=name, classes=found.info.features[keys[1]].names, **splits)


def _prepare(found: Any, name: str) -> None:
    import tensorflow_datasets as tfds

    try:
        with _patient():
            found.download_and_prepare()
    except (OSError, tfds.download.DownloadError) as error:
        asked = getattr(getattr(error, "request", None), "url", None)
        why = f"no connection to {urlsplit(asked).hostname}" if asked else str(error).splitlines()[0]
        raise InputError(
            f"cannot prepare TFDS data set {name!r} in {str(found.data_dir)!r}: {why}; without a network, prepare it "
            "once with tfds.download.DownloadConfig(manual_dir=…)"
        ) from error


@contextlib.contextmanager
def _patient() -> Iterator[None]:
    """Few retries and no chatter: TFDS prints on standard output, where results belong, and urllib3 logs each retry."""
    import tensorflow_datasets as tfds

    downloader = find(RETRIES.partition(":")[0]) or types.SimpleNamespace()
    shown = sys.stderr is not None and sys.stderr.isatty()
    if not shown:
        tfds.disable_progress_bar()
    pool = logging.getLogger("urllib3.connectionpool")
    level, retries = pool.level, getattr(downloader, "MAX_RETRIES", None)
    pool.setLevel(logging.ERROR)
    downloader.MAX_RETRIES = _RETRIES
    try:
        with contextlib.redirect_stdout(sys.stderr if shown else io.StringIO()):
            yield
    finally:
        downloader.MAX_RETRIES = retries
        pool.setLevel(level)


def _rows(found: Any, name: str, split: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    if None not in found.info.features[key].shape:
        x, y = tfds.as_numpy(found.as_dataset(split=split, batch_size=-1, as_supervised=True))
        return x, y
    # a batch of all rows would be padded with black to the largest size
    rows = list(tfds.as_numpy(found.as_dataset(split=split, as_supervised=True)))
    sizes = sorted({x.shape for x, _ in rows})
    if len(sizes) > 1:
        raise InputError(
            f"the pictures of TFDS data set {name!r} have {len(sizes)} sizes, such as {sizes[0]} and {sizes[-1]}: a "
            "linear model needs one; resize them and pass them as tfsoftmax.Source"
        )
    return np.stack([x for x, _ in rows]), np.array([y for _, y in rows])
