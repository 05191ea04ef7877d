"""train(): a data set and a RunConfig become a run folder; Run opens one."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import io
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfsoftmax._checks import one_of
from tfsoftmax._files import read_json, write_bytes, write_text
from tfsoftmax._kinds import RUN, not_a
from tfsoftmax.data import Data, load
from tfsoftmax.errors import InputError, TrainingError, WorkerLost
from tfsoftmax.fitting.compilable import distributed, prepare
from tfsoftmax.fitting.resume import Resume, before
from tfsoftmax.model import SoftmaxRegression
from tfsoftmax.runs.evaluation import evaluate
from tfsoftmax.runs.log import Log
from tfsoftmax.spec import ModelSpec, RunConfig
from tfsoftmax.strategy import agree, chief, several, together, workers

# name -> function of the number of all steps that gives SoftmaxRegression's decay_steps
SCHEDULES = {"constant": lambda steps: None, "cosine": lambda steps: steps}
STATE = "state"  # in the run folder until training has finished


class Run:
    """A finished run folder.

    Args:
        folder: where it is.

    Raises:
        InputError: no such folder, or training has not finished there.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        if not (self.folder / "config.json").is_file():
            text = f"there is no run folder {str(self.folder)!r}; `tfsoftmax train --out {folder}` makes one"
            raise not_a(RUN, self.folder, text)
        if not (self.folder / "metrics.json").is_file():
            raise InputError(f"the run in {str(self.folder)!r} has not finished; finish it with `tfsoftmax train`")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @functools.cached_property
    def config(self) -> RunConfig:
        """The settings of the run."""
        return RunConfig.load(self.folder / "config.json", "run configuration")

    @functools.cached_property
    def spec(self) -> ModelSpec:
        """What the model takes and gives."""
        return ModelSpec.load(self.folder / "spec.json", "model specification")

    @functools.cached_property
    def metrics(self) -> dict[str, Any]:
        """``metrics.json``: ``val`` and ``test`` as ``runs.evaluation.evaluate`` returns them; ``seconds``."""
        return read_json(self.folder / "metrics.json", "metrics")

    @functools.cached_property
    def model(self) -> keras.Sequential:
        """The trained model."""
        path = self.folder / "model.keras"
        try:
            return keras.saving.load_model(path, safe_mode=True)  # runs no code from the file
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"cannot open the model {str(path)!r}: {str(error).splitlines()[0]}") from error

    def data(self) -> Data:
        """The data set of the run, split and preprocessed as it was."""
        return load(self.config.data, **data_settings(self.config))

    def evaluate(self, split: str = "test", data: Data | None = None) -> dict[str, Any]:
        """Evaluate the model on ``"test"`` or ``"val"`` rows of ``data`` (``None``: of :meth:`data`).

        Raises:
            InputError: another split, or validation rows of a run that has none.
        """
        one_of("split", split, ("test", "val"))
        data = self.data() if data is None else data
        rows = getattr(data, split)
        if rows is None:
            raise InputError(f"the run in {str(self.folder)!r} was fitted on all training rows and has no split 'val'")
        return _evaluate(self.model, rows, data)


def train(
    data: Data,
    config: RunConfig,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: bool = False,
    strategy: tf.distribute.Strategy | None = None,
) -> Run | None:
    """Train softmax regression and write the run folder ``out``.

    An unfinished run with the same settings in ``out`` goes on after its last whole epoch, and ends with the bytes
    that it would have had undisturbed (but for ``seconds`` and event files).

    Args:
        data: must have the settings that ``config`` says (``load(config.data, …)`` with those gives it).
        config: every setting of the run.
        out: the run folder; it holds ``metrics.json`` once training has finished.
        overwrite: replace a run that is there.
        progress: tell of each epoch on standard error: a bar on a terminal, a line an epoch elsewhere.
        strategy: what :func:`tfsoftmax.strategy.opened` gives; ``None`` is one device. Of several workers the chief
            alone writes; ``out`` must be on a file system that all of them see.

    Returns:
        The run; ``None`` in workers that are not the chief.

    Raises:
        InputError: ``out`` is taken or cannot be written, a setting does not fit the data. Nothing is written.
        TrainingError: the loss is no longer a number: then the folder is removed. The state cannot be written.
            :class:`~tfsoftmax.errors.WorkerLost`, if another worker is gone.
    """
    settings = data_settings(config)
    if config.val is None:
        settings["val"] = data.settings["val"]
        config = dataclasses.replace(config, val=data.settings["val"])
    for name, value in settings.items():
        if data.settings[name] != value:
            raise InputError(f"config says {name}={value!r} and the data has {name}={data.settings[name]!r}")
    folder, is_chief, are_several = Path(out), chief(strategy), several(strategy)
    log = Log(folder / "history.csv" if is_chief else None, config, progress and is_chief)
    try:
        with contextlib.ExitStack() as stack:
            with workers(are_several):
                model = _begun(stack, folder, config, data, overwrite, strategy)
            with workers(are_several, begun=True):
                _fit(model, config, data, folder, log, is_chief)
                if is_chief:
                    _finish(folder, _plain(model, config, data), data, log)
                agree(strategy, 0, "")  # the others stay until all is written
    except WorkerLost as error:
        if not (error.begun and _has_finished(folder)):
            raise
    except OSError as error:
        raise TrainingError(
            f"cannot write the run folder {str(folder)!r}: {error.strerror}; mend that, and the same command goes on"
        ) from error
    return Run(folder) if is_chief else None


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
            stack.enter_context(_claimed(folder, config, overwrite))
            write_text(folder / "spec.json", data.spec.to_json())
    if several(strategy):
        checksums = {"settings": zlib.crc32(config.to_json().encode()), "rows": data.train.rows.checksum}
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
        model.fit(data.train, validation_data=data.val, epochs=config.epochs, callbacks=callbacks, verbose=0)
    except TrainingError:
        if log.diverged and is_chief:
            shutil.rmtree(folder)
        raise


def _finish(folder: Path, model: keras.Model, data: Data, log: Log) -> None:
    """Write what a finished run folder has."""
    _save(model, folder / "model.keras")
    metrics = {
        "val": None if data.val is None else _evaluate(model, data.val, data),
        "test": _evaluate(model, data.test, data),
        "epochs": len(log.rows),
        "seconds": log.seconds,
    }
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    # the last thing: a kill before it leaves a run that the same command finishes
    before(folder / STATE).unlink(missing_ok=True)
    (folder / STATE).unlink(missing_ok=True)


def _plain(model: keras.Model, config: RunConfig, data: Data) -> keras.Model:
    """The same model without a strategy, in float32: what it saves opens anywhere and answers the same."""
    if not distributed(model) and config.precision == "float32":
        return model
    plain = build(dataclasses.replace(config, precision="float32"), data)
    prepare(plain, data.spec.shape)
    for to, value in zip((plain, plain.optimizer), (model, model.optimizer), strict=True):
        for variable, trained in zip(to.variables, value.variables, strict=True):
            variable.assign(np.asarray(trained))
    return plain


def _has_finished(folder: Path) -> bool:
    return (folder / "metrics.json").is_file() and not (folder / STATE).exists()


def build(config: RunConfig, data: Data) -> keras.Sequential:
    """The model that ``config`` says, for ``config.epochs`` epochs of ``data.train``."""
    one_of("schedule", config.schedule, SCHEDULES)
    return SoftmaxRegression(
        len(data.classes),
        config.lr,
        optimizer=config.optimizer,
        momentum=config.momentum,
        l2=config.l2,
        label_smoothing=config.label_smoothing,
        decay_steps=SCHEDULES[config.schedule](config.epochs * data.train.rows.steps),
        precision=config.precision,
    )


def data_settings(config: RunConfig) -> dict[str, Any]:
    """The settings of ``config`` that :class:`tfsoftmax.Data` takes."""
    return {name: getattr(config, name) for name in ("batch_size", "val", "seed", "preprocess", "refit")}


def _evaluate(model: keras.Model, dataset: Any, data: Data) -> dict[str, Any]:
    return evaluate(model.predict(dataset, verbose=0), dataset.rows.y, data.classes)


def _save(model: keras.Model, path: Path) -> None:
    """Save ``model`` beside ``path`` and rename it, with the same bytes for the same model.

    Keras notes the time, counts the input layers of a process, and names shared objects by their places in memory:
    here by 1, 2, 3, ….
    """
    aside, content, numbers = path.with_name(f".{path.name}"), io.BytesIO(), {}
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


@contextlib.contextmanager
def _claimed(folder: Path, config: RunConfig, overwrite: bool) -> Iterator[Path]:
    """Make ``folder`` and ``config.json`` or say why not; no other process gets it in the meantime."""
    with locked(folder):
        _make(folder, config, overwrite)
        yield folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of ``folder``, by a lock file beside it; makes the folders above."""
    folder = Path(os.path.abspath(folder))  # "." has no name
    path = folder.with_name(f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise InputError(f"cannot write the folder {str(folder)!r}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                raise BlockingIOError  # another process has just ended and removed this file
        except BlockingIOError as error:
            raise InputError(f"another process is training in {str(folder)!r}; choose another --out") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _make(folder: Path, config: RunConfig, overwrite: bool) -> None:
    """Make the folder, or keep it if it holds an unfinished run with the same settings."""
    try:
        if folder.exists():
            ours = (folder / "config.json").is_file()
            for left in folder.glob(".*.tmp" if ours else ".config.json.*.tmp"):  # of a killed process
                left.unlink()
            if not ours and (not folder.is_dir() or any(folder.iterdir())):
                raise InputError(f"{str(folder)!r} exists and is not a run folder; choose another --out")
            if ours and not overwrite:
                if _has_finished(folder):
                    raise InputError(f"run folder {str(folder)!r} exists; choose another --out, or give --overwrite")
                begun = dataclasses.asdict(RunConfig.load(folder / "config.json", "run configuration"))
                others = [
                    f"{name} {begun[name]!r}, not {value!r}"
                    for name, value in dataclasses.asdict(config).items()
                    if begun[name] != value
                ]
                if not others:
                    return
                raise InputError(
                    f"run folder {str(folder)!r} holds an unfinished run with other settings ({'; '.join(others)}); "
                    "choose another --out, or give --overwrite"
                )
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        write_text(folder / "config.json", config.to_json())
    except OSError as error:
        raise InputError(f"cannot write the run folder {str(folder)!r}: {error.strerror}") from error
