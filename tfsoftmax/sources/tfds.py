"""TensorFlow Datasets: any picture classification set that has the splits train and test."""

from __future__ import annotations

import difflib

from tfsoftmax.errors import InputError
from tfsoftmax.sources.arrays import Source


def builder(name: str) -> Source:
    """Read the TFDS data set ``name`` whole into memory, preparing it first where that was not done yet.

    A single colour channel is dropped, so that ``(28, 28, 1)`` becomes ``(28, 28)``.

    Raises:
        InputError: an unknown name, a set that is not pictures with one label each, no network to download it.
    """
    import tensorflow_datasets as tfds

    try:
        found = tfds.builder(name)
    except tfds.core.registered.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name, tfds.list_builders(), n=3)
        raise InputError(f"unknown TFDS data set {name!r}; nearest: {', '.join(near) or 'none'}") from error
    keys = found.info.supervised_keys
    if keys is None or not isinstance(found.info.features[keys[1]], tfds.features.ClassLabel):
        raise InputError(f"TFDS data set {name!r} does not have one label a row: its supervised keys are {keys}")
    if missing := {"train", "test"} - set(found.info.splits or ("train", "test")):
        raise InputError(
            f"TFDS data set {name!r} has no split {sorted(missing)[0]!r}; it has {sorted(found.info.splits)}"
        )
    try:
        found.download_and_prepare()
    except (OSError, tfds.download.DownloadError) as error:
        raise InputError(
            f"cannot prepare TFDS data set {name!r}: {error}; without a network, prepare it once with "
            "tfds.download.DownloadConfig(manual_dir=…)"
        ) from error
    splits = {}
    for split in ("train", "test"):
        x, y = tfds.as_numpy(found.as_dataset(split=split, batch_size=-1, as_supervised=True))
        splits[f"x_{split}"] = x[..., 0] if x.ndim == 4 and x.shape[-1] == 1 else x
        splits[f"y_{split}"] = y
    return Source(name=name, classes=found.info.features[keys[1]].names, **splits)
