"""Run: a finished run folder, opened; and whether the data that a run was made on are still the same."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfsoftmax._checks import one_of, shown
from tfsoftmax._kinds import RUN, not_a
from tfsoftmax.columns import missing, prepared, recode, refuse_missing
from tfsoftmax.data import Data, load
from tfsoftmax.errors import InputError
from tfsoftmax.rows import Rows
from tfsoftmax.runs.calibration import temperature as temperature_of
from tfsoftmax.runs.evaluation import evaluate, read_metrics
from tfsoftmax.runs.keras_file import weights_of
from tfsoftmax.sources.fingerprint import changes
from tfsoftmax.spec import OPTIONS, ModelSpec, RunConfig
from tfsoftmax.weights import of_classes, without_weights

if TYPE_CHECKING:
    import keras

    from tfsoftmax.export import Export

COMPARED = 100_000  # rows on which an export is compared with the model, at most
FITTED = 2**24  # logits that a temperature is fitted on, at most


class Run:
    """A finished run folder.

    Args:
        folder: where it is.

    Raises:
        InputError: no such folder, or training has not finished there. The attributes raise it where a file is not as
            ``train`` wrote it.
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

    def _repr_html_(self) -> str:
        """What notebooks show: what `tfsoftmax describe` says."""
        from tfsoftmax.description import describe, html

        return html(describe(self.folder))

    @functools.cached_property
    def config(self) -> RunConfig:
        """The settings of the run."""
        return RunConfig.of_run(self.folder / "config.json")

    @functools.cached_property
    def spec(self) -> ModelSpec:
        """What the model takes and returns."""
        return ModelSpec.load(self.folder / "spec.json", "model specification")

    @functools.cached_property
    def metrics(self) -> dict[str, Any]:
        """``metrics.json``: ``val`` and ``test`` as ``runs.evaluation.evaluate`` returns them; ``seconds``."""
        return read_metrics(self.folder / "metrics.json")

    @functools.cached_property
    def model(self) -> keras.Sequential:
        """The trained model."""
        import tfsoftmax._tensorflow  # noqa: F401 - before TensorFlow

        # isort: split
        import keras

        path = self.folder / "model.keras"
        try:
            model = keras.saving.load_model(path, safe_mode=True)  # runs no code from the file
            shapes = tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
        except Exception as error:  # what Keras raises for a damaged file has no common base but Exception
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"cannot open the model {str(path)!r}: {why}") from error
        if shapes != (self.spec.features, (len(self.spec.classes),)):
            raise InputError(
                f"the model {str(path)!r} takes {shapes[0]} and returns {shapes[1]}, and spec.json beside it says "
                f"{self.spec.features} and {len(self.spec.classes)} classes"
            )
        return model

    @functools.cached_property
    def weights(self) -> list[np.ndarray]:
        """Kernel ``(features, classes)`` and bias ``(classes,)`` of the trained model, float32, read without Keras."""
        found = weights_of(self.folder / "model.keras", self.spec)
        return self.model.get_weights() if found is None else found

    def data(self) -> Data:
        """The data set of the run, opened by its name, split and preprocessed as it was.

        Raises:
            InputError: it has no name, cannot be read, or has changed since.
        """
        folder = str(self.folder)
        in_python = f"pass the data in Python: tfsoftmax.Run({folder!r}).evaluate(data=…), or .export('FOLDER', data=…)"
        data = reopened(self.config, f"the run in {folder!r}", in_python, self.spec.classes)
        self._check(data)
        return data

    def evaluate(self, split: str = "test", data: Data | None = None, *, prior: bool = False) -> dict[str, Any]:
        """Evaluate the model on the rows of a split, preprocessed as in training.

        Args:
            split: ``"test"`` or ``"val"``.
            data: ``None``: of :meth:`data`. Of other rows with the same inputs and classes ``"test"`` is what was never
                seen; ``"val"`` is refused.
            prior: take the class weights of training out of the probabilities: what they are without weights.

        Returns:
            As :func:`tfsoftmax.runs.evaluation.evaluate`.

        Raises:
            InputError: another split, validation rows of a run that has none, or data that do not fit.
        """
        weights = self.weights
        data = self.data() if data is None else data
        rows = self.rows(data, split)
        if prior:
            return figures(weights, rows, self.spec.classes, class_weights=self._class_weights(data))
        return figures(weights, rows, self.spec.classes, self.temperature)

    def rows(self, data: Data, split: str = "test") -> Rows:
        """The rows of a split of ``data`` as the model takes them; arguments and errors as of :meth:`evaluate`."""
        one_of("split", split, ("test", "val"))
        self._check(data)
        if split == "val" and self.config.val != "test":
            return self._val(data)
        return self._rows(data, data.rows.test)

    @property
    def temperature(self) -> float | None:
        """That was fitted on the validation rows; ``None`` where there were none."""
        val = self.metrics["val"] or {}
        return val.get("calibrated", {}).get("temperature")

    def _class_weights(self, data: Data) -> np.ndarray:
        """The weights of classes in training."""
        given = self.config.class_weight
        if given is None:
            raise InputError(f"the run in {str(self.folder)!r} has no class weights: there is no prior to correct")
        if given == "balanced" and not self._is_of(data):
            raise InputError("balanced weights are those of the run's own training rows: evaluate on its own data")
        if given == "balanced":
            data = Data(data.source, **data_settings(self.config))
        found = of_classes(given, data.rows.train.y, self.spec.classes)
        return np.ones(len(self.spec.classes)) if found is None else found

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        data: Data | None = None,
        version: int | None = None,
        keep: int | None = None,
        calibrated: bool = False,
    ) -> Export:
        """Write a version folder, see :func:`tfsoftmax.export`, with the files compared on the validation rows.

        Args:
            path: the export folder.
            data: ``None``: of :meth:`data`. Of other data, and where the run has no validation rows, the files are
                compared on test rows.
            version: as for :func:`tfsoftmax.export`.
            keep: the same.
            calibrated: divide the weights by the temperature that was fitted on the validation rows, so that the files
                answer with calibrated probabilities; classes stay as they are.

        Raises:
            InputError: a run without such a temperature, data that do not fit, and as :func:`tfsoftmax.export`.
            ExportError: as :func:`tfsoftmax.export`.
        """
        from tfsoftmax.export import export

        model = self.model
        data = self.data() if data is None else data
        self._check(data)
        own = self.config.val not in ("test", 0) and not self.config.refit and self._is_of(data)
        rows = self.rows(data, "val" if own else "test")
        few = slice(None, None, -(-len(rows) // COMPARED))
        metrics = self.metrics
        if calibrated:
            model, metrics = self._calibrated()
        return export(
            model,
            self.spec,
            path,
            rows=rows.take(few),
            labels=rows.y[few],
            metrics=metrics,
            config=self.config,
            version=version,
            keep=keep,
        )

    def _calibrated(self) -> tuple[keras.Sequential, dict[str, Any]]:
        """The model whose logits are divided by the temperature, and its figures."""
        temperature = self.temperature
        if temperature is None:
            raise InputError(
                f"the run in {str(self.folder)!r} has no temperature: it had no validation rows of its own to fit one "
                "on; train it again with --val and without --refit, or export it as it is"
            )
        import keras

        model = keras.models.clone_model(self.model)
        model.set_weights([np.asarray(weight) / np.float32(temperature) for weight in self.weights])
        metrics = {**self.metrics, "temperature": temperature}
        for split in ("val", "test"):
            found = dict(metrics[split])
            found |= {name: value for name, value in found.pop("calibrated", {}).items() if name != "temperature"}
            metrics[split] = found
        return model, metrics

    def _is_of(self, data: Data) -> bool:
        return self.config.fingerprint in (None, data.fingerprint)

    def _val(self, data: Data) -> Rows:
        if self.config.refit or self.config.val == 0:
            raise InputError(f"the run in {str(self.folder)!r} was fitted on all training rows and has no split 'val'")
        if not self._is_of(data):
            raise InputError(
                f"the validation rows of the run in {str(self.folder)!r} are in its own data alone; of {data!r} the "
                "split 'test' can be evaluated"
            )
        settings = data_settings(self.config)
        val: Any = (data if data.settings == settings else Data(data.source, **settings)).rows.val
        return self._rows(data, val)

    def _rows(self, data: Data, rows: Rows) -> Rows:
        """Rows of ``data`` as the model takes them: of a table columns by name, categories by value.

        ``data`` has its rows coded by what its own training rows had, so those of a table are taken from its source.
        """
        source = data.source
        if not self.spec.columns:
            return rows.like(self.spec, self.config.batch_size)
        raw: Any = source.x_test if rows.index is None else source.x_train[rows.index]
        x = recode(raw, source.columns, self.spec.columns, repr(source.name))
        if self.spec.missing == "refuse":
            refuse_missing(missing(x, self.spec.columns), len(x), repr(source.name), trained=True)
        return Rows(x, rows.y, self.spec, self.config.batch_size, weight=rows.weight)

    def _check(self, data: Any) -> None:
        """Raise InputError unless ``data`` has the inputs and the classes of the model."""
        if not isinstance(data, Data):
            raise InputError(f"data must be a tfsoftmax.Data, as tfsoftmax.load returns it, got {shown(data)}")
        folder = str(self.folder)
        if bool(data.spec.columns) != bool(self.spec.columns):
            takes, are = ("a table", "not") if self.spec.columns else ("arrays", "a table")
            raise InputError(
                f"the model in {folder!r} takes rows of {takes}, and those of {data.spec.name!r} are {are}"
            )
        if not self.spec.columns and (data.spec.shape, data.spec.dtype) != (self.spec.shape, self.spec.dtype):
            raise InputError(
                f"the model in {folder!r} takes {self.spec.dtype} {self.spec.shape}, and the rows of "
                f"{data.spec.name!r} are {data.spec.dtype} {data.spec.shape}"
            )
        if data.classes != self.spec.classes:
            raise InputError(
                f"the classes of {data.spec.name!r} are not those of the run in {folder!r}: "
                f"{renamed(self.spec.classes, data.classes)}"
            )


def figures(
    weights: Sequence[np.ndarray],
    rows: Rows,
    classes: tuple[str, ...],
    temperature: float | None = None,
    class_weights: np.ndarray | None = None,
) -> dict[str, Any]:
    """Evaluate a model of these ``weights`` on ``rows``, without ``class_weights`` of training."""
    found = logits(weights, rows)
    if class_weights is not None:
        found = (without_weights(part, class_weights) for part in found)
    return evaluate(found, rows.y, classes, rows.weight, temperature)


def fitted_temperature(weights: Sequence[np.ndarray], rows: Rows) -> float:
    """The temperature of ``rows``, on evenly spaced ones of very many."""
    step, at, kept = -(-len(rows) * len(rows.spec.classes) // FITTED), 0, []
    for part in logits(weights, rows):
        kept.append(part[-at % step :: step])
        at += len(part)
    weight = None if rows.weight is None else rows.weight[::step]
    return temperature_of(np.concatenate(kept), rows.y[::step], weight)


def logits(weights: Sequence[np.ndarray], rows: Rows) -> Iterator[np.ndarray]:
    """What a model with this kernel and bias answers to ``rows``, in parts, float32 ``(some, classes)``."""
    kernel, bias = weights
    for raw in rows.parts():
        with np.errstate(over="ignore", invalid="ignore"):
            found = prepared(rows.spec, raw) @ kernel + bias
        yield found


def data_settings(config: RunConfig) -> dict[str, Any]:
    """The settings of ``config`` that :class:`tfsoftmax.Data` takes."""
    names = ("batch_size", "val", "seed", "preprocess", "refit", "missing", "test", "class_weight")
    return {name: getattr(config, name) for name in names}


def data_options(config: RunConfig) -> dict[str, Any]:
    """The settings of ``config`` that say how its data set is read."""
    return {name: getattr(config, name) for name in OPTIONS}


def reopened(config: RunConfig, what: str, way_out: str, classes: tuple[str, ...] = ()) -> Data:
    """Open the data that ``config`` names, and see that they are what they were.

    Args:
        config: of a run or search.
        what: what ``config`` is of, for errors.
        way_out: what to do where that is not possible, for errors.
        classes: class names as they were, if they are known.

    Raises:
        InputError: the data have no name, cannot be read, or have changed.
    """
    if config.data is None:
        raise InputError(f"{what} names no data set (its rows were made in Python); {way_out}")
    data = load(config.data, **data_options(config), **data_settings(config))
    if config.fingerprint is not None and (found := changes(config.fingerprint, data.fingerprint)):
        if classes and classes != data.classes:
            found.append(renamed(classes, data.classes))
        raise InputError(
            f"{config.data!r} is no longer the data of {what}: changed {', '.join(found)}; put it back, or {way_out}"
        )
    return data


def renamed(then: tuple[str, ...], now: tuple[str, ...]) -> str:
    """The first class whose name differs, for people."""
    if len(then) != len(now):
        return f"{len(then)} classes then, {len(now)} now"
    label = next(label for label, names in enumerate(zip(then, now, strict=True)) if len(set(names)) > 1)
    return f"label {label} was {then[label]!r} and is {now[label]!r}"


def differences(then: RunConfig, now: RunConfig) -> list[str]:
    """The settings that differ, each with both values; a fingerprint that ``then`` lacks does not count."""
    found = [
        f"{name} {value!r}, not {getattr(now, name)!r}"
        for name, value in dataclasses.asdict(then).items()
        if value != getattr(now, name) and name != "fingerprint"
    ]
    if then.fingerprint is not None and now.fingerprint is not None:
        found += [f"other data: {text}" for text in changes(then.fingerprint, now.fingerprint)]
    return found
