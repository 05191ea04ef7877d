"""train(): a data set and a RunConfig become a run folder."""

from __future__ import annotations

import tfsoftmax._tensorflow  # noqa: F401 - before TensorFlow

# isort: split

import contextlib
import dataclasses
import functools
import io
import json
import logging
import math
import os
import re
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfsoftmax import findings
from tfsoftmax._files import write_bytes, write_text
from tfsoftmax._folders import Kind, claim, locked, remove
from tfsoftmax.curvature import curvature, learning_rate, settled
from tfsoftmax.data import Data
from tfsoftmax.errors import InputError, TrainingError, WorkerLost
from tfsoftmax.fitting.compilable import distributed, prepare
from tfsoftmax.fitting.resume import Resume, before
from tfsoftmax.reporting import board
from tfsoftmax.reporting.one import report
from tfsoftmax.runs.build import build
from tfsoftmax.runs.folder import STATE, has_finished
from tfsoftmax.runs.log import Log
from tfsoftmax.runs.run import Run, data_settings, differences, figures, fitted_temperature
from tfsoftmax.runs.solving import to_the_optimum
from tfsoftmax.spec import OPTIONS, SOLVER, RunConfig
from tfsoftmax.strategy import agree, chief, several, together, workers

_log = logging.getLogger(__name__)

# what a report of a run writes beside it, in the folder report
DRAWN = (
    *("loss", "accuracy", "objective", "gap", "reliability", "coverage", "confusion"),
    *("classes", "templates", "weights", "alike", "mistakes", "slices", "issues", "duplicates"),
)
RUN_FOLDER = Kind(
    "run folder",
    "config.json",
    RunConfig.of_run,
    (
        *("config.json", "spec.json", "history.csv", "model.keras", ".model.keras", "metrics.json"),
        *(STATE, before(Path(STATE)).name, "tensorboard/**/events.out.tfevents.*"),
        *("report.html", *(f"report/{name}.{ending}" for name in DRAWN for ending in ("png", "csv"))),
    ),
)


def train(
    data: Data,
    config: RunConfig,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: bool = False,
    strategy: tf.distribute.Strategy | None = None,
) -> Run | None:
    """Train softmax regression and write the run folder ``out``, with its report.

    An unfinished run with the same settings in ``out`` continues after its last whole epoch, and ends with the bytes
    of an uninterrupted run (except for ``seconds`` and event files).

    Args:
        data: its settings must be those of ``config``.
        config: every setting of the run, except ``data`` and ``fingerprint``, which are taken from ``data``.
        out: the run folder; it has ``metrics.json`` once training has finished.
        overwrite: replace an existing run. Files in the folder that ``train`` did not write stay.
        progress: report each epoch on standard error: a bar on a terminal, one line per epoch elsewhere.
        strategy: from :func:`tfsoftmax.strategy.opened`; ``None``: one device. Of several workers only the chief
            writes; ``out`` must be on a file system that all of them see.

    Returns:
        The run; ``None`` in workers that are not the chief.

    Raises:
        InputError: ``out`` is in use or cannot be written, or a setting does not fit the data. Nothing is written.
        TrainingError: the loss is not finite, and what was written is removed; or the state cannot be written.
            :class:`~tfsoftmax.errors.WorkerLost`, if another worker is gone.
    """
    noted = {**dict.fromkeys(OPTIONS), **data.options, "data": data.name, "fingerprint": data.fingerprint}
    noted |= {name: data.settings[name] for name in ("val", "test", "preprocess") if getattr(config, name) is None}
    config = dataclasses.replace(config, **noted)
    for name, value in data_settings(config).items():
        if data.settings[name] != value:
            raise InputError(f"config says {name}={value!r} and the data has {name}={data.settings[name]!r}")
    chosen = config.lr is None and config.optimizer != SOLVER
    if config.optimizer != SOLVER:
        config = settled(config, data)
    elif strategy is not None:
        raise InputError(f"the optimizer {SOLVER!r} runs on one device: take --strategy auto or cpu")
    folder, is_chief, are_several = Path(out), chief(strategy), several(strategy)
    log = Log(folder / "history.csv" if is_chief else None, config, progress and is_chief)
    try:
        with contextlib.ExitStack() as stack:
            with workers(are_several):
                model = _begun(stack, folder, config, data, overwrite, strategy)
            if progress and is_chief:
                found = dataclasses.replace(data.inspection, mixing=data.rows.train.mixing)
                lines = findings.first_lines(found)
                if chosen:
                    lines.append(f"learning rate {config.lr:g}{', falling to 0' * (config.schedule == 'cosine')}")
                print(*lines, sep="\n", file=sys.stderr)
            with workers(are_several, begun=True):
                certificate = None
                if config.optimizer == SOLVER:
                    certificate = to_the_optimum(model, config, data, log, progress)
                else:
                    _fit(model, config, data, folder, log, is_chief)
                if is_chief:
                    _finish(folder, _plain(model, config, data), config, data, log, certificate)
                agree(strategy, 0, "")  # the others stay until all is written
    except WorkerLost as error:
        if not (error.begun and has_finished(folder)):
            raise
    except OSError as error:
        raise TrainingError(
            f"cannot write the run folder {str(folder)!r}: {error.strerror}; mend that, and the same command goes on"
        ) from error
    return Run(folder) if is_chief else None


def as_begun(config: RunConfig, folder: Path) -> RunConfig:
    """``config``, with the memory of the unfinished run in ``folder``, if it is of the same data: the order of rows
    that are read in windows depends on it."""
    if config.memory is not None or not (folder / RUN_FOLDER.mark).is_file() or has_finished(folder):
        return config
    begun = RunConfig.of_run(folder / RUN_FOLDER.mark)
    return dataclasses.replace(config, memory=begun.memory) if begun.data == config.data else config


def _begun(
    stack: contextlib.ExitStack,
    folder: Path,
    config: RunConfig,
    data: Data,
    overwrite: bool,
    strategy: tf.distribute.Strategy | None,
) -> keras.Sequential:
    """The model, when the folder is ours until ``stack`` ends, and all workers have the same settings and data."""
    with together(strategy):
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            model = build(config, data)
        if chief(strategy):
            stack.enter_context(locked(folder))
            claim(folder, RUN_FOLDER, config.to_json(), overwrite, functools.partial(_same, folder, config))
            spec = dataclasses.replace(data.spec, fingerprint=config.fingerprint)
            write_text(folder / "spec.json", spec.to_json())
    if several(strategy):
        settings = dataclasses.replace(config, fingerprint=None).to_json()
        checksums = {"settings": zlib.crc32(settings.encode()), "rows": data.rows.train.checksum}
        for name, checksum in checksums.items():
            agree(strategy, checksum >> 1, f"all workers must have the same {name}; the checksums of theirs are")
    return model


def _fit(model: keras.Model, config: RunConfig, data: Data, folder: Path, log: Log, is_chief: bool) -> None:
    callbacks: list[keras.callbacks.Callback] = [log, Resume(folder / STATE)]
    if config.patience is not None:
        callbacks.append(keras.callbacks.EarlyStopping("val_loss", patience=config.patience, restore_best_weights=True))
    if config.tensorboard and is_chief:
        callbacks.append(keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False))
    try:
        with log:
            model.fit(data.train, validation_data=data.val, epochs=config.epochs, callbacks=callbacks, verbose=0)
    except TrainingError:
        if log.diverged and is_chief:
            remove(folder, RUN_FOLDER)
        raise


def _finish(
    folder: Path, model: keras.Model, config: RunConfig, data: Data, log: Log, certificate: dict[str, Any] | None
) -> None:
    """Write what a finished run folder has."""
    _save(model, folder / "model.keras")
    weights, (train, val, test), fitted = model.get_weights(), data.rows, None
    if val is not None and config.val != "test":
        fitted = fitted_temperature(weights, val)
    metrics = {
        "val": None if val is None else figures(weights, val, data.classes, fitted),
        "test": figures(weights, test, data.classes, fitted),
        "epochs": len(log.rows),
        "seconds": log.seconds,
        **({} if certificate is None else {"optimum": certificate}),
        **({} if train.mixing is None else {"mixing": train.mixing}),
    }
    _warn(config, data, metrics)
    if config.tensorboard:
        board.write(folder / "tensorboard" / "train", config, data.spec, weights[0], len(log.rows))
    (folder / STATE).touch()  # of a solved run too: until the report is there it has not finished
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    try:
        report(Run(folder), data=data)
    except InputError as error:
        _log.warning("no report: %s", error)
    # the last thing: a kill before it leaves a run that the same command finishes
    before(folder / STATE).unlink(missing_ok=True)
    (folder / STATE).unlink(missing_ok=True)


def _warn(config: RunConfig, data: Data, metrics: dict[str, Any]) -> None:
    """Say so where the model is worse than guessing, with the likely cause."""
    split = "test" if metrics["val"] is None else "val"
    loss, guessing = metrics[split]["loss"], math.log(len(data.classes))
    if loss <= guessing:
        return
    rate, bound = learning_rate(config, data), curvature(data.rows.train).bound
    if config.optimizer == "sgd" and rate > 1.01 * bound:  # the default is rounded
        why = f"the learning rate {rate:g} is above the curvature bound {bound:.3g} of these rows: leave --lr out"
        if config.preprocess != "standardize":
            why += ", or take --preprocess standardize"
    else:
        why = "too few rows for so many inputs, or labels that do not follow from them: take --l2, or fewer --epochs"
    _log.warning("the final %s loss %.4g is above %.4g, that of guessing: %s", split, loss, guessing, why)


def _plain(model: keras.Model, config: RunConfig, data: Data) -> keras.Model:
    """The same model without a strategy, in float32: what it saves opens anywhere and answers the same."""
    if not distributed(model) and config.precision == "float32":
        return model
    plain = build(dataclasses.replace(config, precision="float32"), data)
    prepare(plain, data.spec.features)
    for to, value in zip((plain, plain.optimizer), (model, model.optimizer), strict=True):
        for variable, trained in zip(to.variables, value.variables, strict=True):
            variable.assign(np.asarray(trained))
    return plain


def _save(model: keras.Model, path: Path) -> None:
    """Save ``model`` beside ``path`` and rename it, with the same bytes for the same model.

    Keras notes the time, counts the input layers of a process, and names shared objects by their places in memory:
    here by 1, 2, 3, ….
    """
    aside, content = path.with_name(f".{path.name}"), io.BytesIO()
    numbers: dict[Any, int] = {}
    try:
        model.save(aside)
        with zipfile.ZipFile(aside) as made, zipfile.ZipFile(content, "w") as archive:
            for name in made.namelist():
                entry = made.read(name)
                if name == "metadata.json":
                    entry = json.dumps({**json.loads(entry), "date_saved": None}).encode()
                elif name == "config.json":
                    entry = re.sub(rb'"input_layer_\d+"', b'"input_layer"', entry)
                    entry = re.sub(
                        rb'(?<="shared_object_id": )\d+',
                        lambda m: b"%d" % numbers.setdefault(m[0], len(numbers) + 1),
                        entry,
                    )
                archive.writestr(zipfile.ZipInfo(name), entry)
        write_bytes(path, content.getvalue())
    finally:
        aside.unlink(missing_ok=True)


def _same(folder: Path, config: RunConfig, begun: RunConfig) -> None:
    """Raise InputError unless the run that ``begun`` is of is unfinished and goes on with ``config``."""
    if has_finished(folder):
        raise InputError(f"run folder {str(folder)!r} exists; choose another --out, or pass --overwrite")
    if others := differences(begun, config):
        raise InputError(
            f"run folder {str(folder)!r} holds an unfinished run with other settings ({'; '.join(others)}); "
            "choose another --out, or pass --overwrite"
        )
