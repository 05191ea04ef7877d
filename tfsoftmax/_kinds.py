"""What a path is, for the error where another kind of folder was expected. No heavy imports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tfsoftmax.errors import InputError

RUN, EXPORT, TUNE = "a run folder", "an export folder", "a tune folder"
VERSION, UNFINISHED = "one version of an export", "the folder of an unfinished run"


def _holds(*names: str) -> Callable[[Path], bool]:
    return lambda path: all((path / name).is_file() for name in names)


# what a path is, how it is recognized, and what to do with it; the first that holds
_KINDS: tuple[tuple[str, Callable[[Path], bool], str], ...] = (
    ("a file", Path.is_file, "name the folder"),
    (EXPORT, lambda path: any(path.glob("[1-9]*/manifest.json")), "`tfsoftmax predict`, `verify` and `serve` take it"),
    (
        VERSION,
        _holds("manifest.json", "model.onnx"),
        "`tfsoftmax predict` and `verify` take it, `serve` its parent",
    ),
    ("a probe folder", _holds("probe.json"), "its run is {}/run"),
    (TUNE, _holds("search.json"), "`tfsoftmax train --config {}/best.json --refit` trains what it found"),
    (RUN, _holds("config.json", "spec.json", "metrics.json"), "`tfsoftmax evaluate` and `export` take it"),
    (UNFINISHED, _holds("config.json", "spec.json"), "the same `tfsoftmax train` finishes it"),
    ("a SavedModel", _holds("saved_model.pb"), "an export has it in a version folder with a manifest"),
)


def kind(path: Path) -> tuple[str, str] | None:
    """What ``path`` is and what to do with it; ``None`` if it is nothing that is known here."""
    return next(((name, use.format(path)) for name, test, use in _KINDS if test(path)), None)


def not_a(wanted: str, path: Path, otherwise: str) -> InputError:
    """The error that ``path`` is not ``wanted``: it says what stands there, or if that is not known ``otherwise``."""
    found = kind(path)
    if found is None:
        return InputError(otherwise)
    name, use = found
    return InputError(f"{str(path)!r} is {name}, not {wanted}; {use}")
