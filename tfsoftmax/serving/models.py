"""The served models: found on disk, verified, warmed up, then switched to."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfsoftmax._kinds import EXPORT, not_a
from tfsoftmax.errors import InputError, TfsoftmaxError
from tfsoftmax.exporting.manifest import unlisted, verify_files
from tfsoftmax.exporting.reference import Reference
from tfsoftmax.exporting.versions import versions
from tfsoftmax.predict import Predictor
from tfsoftmax.serving import metrics, tables, tensors
from tfsoftmax.serving.settings import Settings

log = logging.getLogger("tfsoftmax.serving")

BLOCK = 1024  # rows that are computed at once

Identity = tuple[tuple[str, int, int, int], ...]


def outputs_of(classes: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of each output of a model with ``classes`` classes."""
    return [
        ("logits", "float32", (-1, classes)),
        ("probabilities", "float32", (-1, classes)),
        ("class_id", "int64", (-1,)),
        ("label", "object", (-1,)),
    ]


class Version(Predictor):
    """One version of a model, fully in memory: later changes to its folder do not matter.

    Args:
        name: the model's name.
        folder: its version folder.
        max_rows: largest number of rows in one request.
        refuse_unseen: refuse rows of a table that have a value that training did not see.

    Raises:
        InputError: the folder is damaged, or its answers differ from its reference rows.
    """

    def __init__(self, name: str, folder: Path, max_rows: int, *, refuse_unseen: bool = False):
        self.manifest = verify_files(folder)
        for stray in unlisted(folder, self.manifest):
            log.warning("%s: version %s: %s is not in the manifest", name, folder.name, stray)
        super().__init__(folder, threads=1)
        self.name, self.number, self.max_rows, self.refuse_unseen = name, int(folder.name), max_rows, refuse_unseen
        self._set_up()
        self.reference = Reference.read(folder) if (folder / "reference.npz").exists() else None  # older exports
        self._warm_up()

    def answer(self, raw: np.ndarray, names: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """As :meth:`Predictor.answer`, in blocks: ONNX Runtime never releases the memory that it has needed."""
        if len(raw) <= BLOCK:
            return super().answer(raw, names)
        found = [super(Version, self).answer(raw[start : start + BLOCK], names) for start in range(0, len(raw), BLOCK)]
        return {name: np.concatenate([block[name] for block in found]) for name in found[0]}

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in super().__getstate__().items() if name not in ("readers", "table", "outputs")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._set_up()

    def _set_up(self) -> None:
        """What reads requests: of a table by name, else readers, the first one for rows of the model's own shape."""
        spec, most = self.spec, self.max_rows
        self.table = tables.Decoders(spec, most) if spec.columns else None
        shapes = () if spec.columns else spec.row_shapes
        self.outputs = {name: (dtype, math.prod(shape[1:])) for name, dtype, shape in outputs_of(len(spec.classes))}
        self.readers = [tensors.reader(shape, spec.shape, spec.dtype, spec.input_name, most) for shape in shapes]

    def _warm_up(self) -> None:
        """Answer the reference rows, one alone and all together, and compare."""
        raw = np.zeros((2, *self.spec.shape), self.spec.dtype) if self.reference is None else self.reference.raw
        for part in (raw[:1], raw):
            logits = self.answer(part)["logits"]
            wanted = logits if self.reference is None else self.reference.logits[: len(part)]
            if logits.shape != wanted.shape or not np.allclose(logits, wanted, rtol=1e-4, atol=1e-3):
                raise InputError(f"{str(self.folder)!r} gives other answers than its reference rows; export it again")


class Shown(NamedTuple):
    """What requests see: immutable, replaced as a whole.

    Attributes:
        current: name -> the version that answers.
        states: name -> version number -> (state in TensorFlow Serving's terms, why it is not served).
    """

    current: dict[str, Version]
    states: dict[str, dict[int, tuple[str, str]]]


class Models:
    """All models by name; :meth:`refresh` follows the disk.

    Args:
        settings: names the export folders.

    Attributes:
        shown: the models as they are now.

    Raises:
        InputError: a folder that is not an export, two models with one name, or an export without a version that can
            be served.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.shown = Shown({}, {})
        self._states: dict[str, dict[int, tuple[str, str]]] = {}
        self._identities: dict[str, Identity] = {}
        self._broken: dict[tuple[str, int], Identity] = {}
        for name in self._folders(strict=True):
            self._states[name] = {}
        self.refresh()
        for name, states in self.shown.states.items():
            if name not in self.shown.current:
                why = max(states.items())[1][1] if states else "it has no version"
                raise InputError(f"model {name!r} cannot be served: {why}")

    def get(self, name: str, version: str | None) -> Version:
        """The version that answers; ``version`` is a number as text, 0 the newest. Raises KeyError with the reason."""
        model = self.shown.current.get(name)
        if model is None or (version is not None and version.lstrip("0") not in ("", str(model.number))):
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise KeyError(f"Servable not found for request: {wanted}")
        return model

    @property
    def ready(self) -> bool:
        """Whether each model has a version that answers."""
        return bool(self.shown.current) and self.shown.current.keys() == self.shown.states.keys()

    def states(self, name: str, version: str | None) -> dict[int, tuple[str, str]]:
        """The states of a model's versions, or of the one that :meth:`get` would take. Raises KeyError as it does."""
        shown = self.shown
        if name not in shown.current:
            self.get(name, version)
        states = shown.states[name]
        if version is not None:
            number = version.lstrip("0") or str(shown.current[name].number)
            states = {n: state for n, state in states.items() if str(n) == number}
            if not states:
                self.get(name, version)
        return states

    def refresh(self) -> None:
        """Scan the disk once, and load what is new. Old versions answer meanwhile."""
        for name, folder in self._folders().items():
            try:
                self._follow(name, folder)
                self._forget(name, folder)
            except OSError as error:  # a folder that is being removed; the next scan will show
                log.warning("%s: cannot read %s: %s", name, folder, error)
            self._show()

    def _show(self, version: Version | None = None) -> None:
        """Publish the states, and ``version`` as the one that answers under its name."""
        current = self.shown.current if version is None else {**self.shown.current, version.name: version}
        self.shown = Shown(current, {name: dict(states) for name, states in self._states.items()})

    def _folders(self, strict: bool = False) -> dict[str, Path]:
        """Model name -> export folder: the name as given, even if it is a link."""
        found: dict[str, Path] = {}
        for given in self.settings.exports:
            try:
                exports = _exports(given)
            except (InputError, OSError) as error:
                if strict:
                    raise InputError(str(error)) from error
                continue
            for name, folder in exports:
                if strict and name in found:
                    raise InputError(
                        f"two exports are called {name!r}: {str(found[name])!r} and {str(folder)!r}; "
                        "give one of them another name: NAME=FOLDER"
                    )
                if strict and (":" in name or not name):
                    raise InputError(f"the model's name {name!r} cannot be part of a path: serve it as NAME=FOLDER")
                found.setdefault(name, folder)
        return found

    def _follow(self, name: str, folder: Path) -> None:
        """Make the newest valid version the current one of ``name``."""
        current, states = self.shown.current.get(name), self._states.setdefault(name, {})
        numbers = versions(folder)
        for number in reversed(numbers):
            if current is not None and number < current.number and current.number in numbers:
                return  # a served version whose files were damaged stays in memory
            identity = _identity(folder / str(number))
            if current is not None and number == current.number and identity == self._identities[name]:
                return
            if self._broken.get((name, number)) == identity:
                continue
            if current is None or number != current.number:
                states[number] = ("LOADING", "")
                self._show()
            try:
                version = self._opened(name, folder / str(number))
            except Exception as error:  # whatever a version raises, the others are served
                why = str(error) if isinstance(error, TfsoftmaxError) else f"{type(error).__name__}: {error}"
                why = " ".join(why.split())
                self._broken[name, number] = identity
                if current is None or number != current.number:
                    states[number] = ("END", why)
                log.warning("%s: version %d is refused: %s", name, number, why)
                continue
            self._switch(version, identity)
            return

    def _opened(self, name: str, folder: Path) -> Version:
        refuse = self.settings.unseen == "refuse"
        return Version(name, folder, self.settings.max_rows, refuse_unseen=refuse)

    def _forget(self, name: str, folder: Path) -> None:
        """Drop the state of versions that are neither served nor on disk."""
        kept = {self.shown.current[name].number if name in self.shown.current else 0, *versions(folder)}
        self._states[name] = {number: state for number, state in self._states[name].items() if number in kept}
        self._broken = {key: value for key, value in self._broken.items() if key[0] != name or key[1] in kept}
        metrics.refused(name, sum(key[0] == name for key in self._broken))

    def _switch(self, version: Version, identity: Identity) -> None:
        name, states = version.name, self._states[version.name]
        old = self.shown.current.get(name)
        self._identities[name] = identity
        self._broken.pop((name, version.number), None)
        if old is not None and old.number != version.number:
            states[old.number] = ("END", "")
        states[version.number] = ("AVAILABLE", "")
        self._show(version)  # new requests see it from here on; those under way keep the old one
        metrics.served(name, version.number)
        log.info("%s: version %d is served%s", name, version.number, f", {old.number} goes" if old else "")


def _exports(given: str) -> list[tuple[str, Path]]:
    """Names and folders of the exports in an argument: one export, a folder of them, or ``NAME=FOLDER``."""
    name, equals, rest = given.partition("=")
    if equals and not Path(given).exists():
        folder = Path(rest)
        if not name or "/" in name:
            raise InputError(f"{given!r}: the name before = must not be empty or contain / or :")
        found = [(name, folder)] if versions(folder) else []
    else:
        folder = Path(given)
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        if versions(folder):
            found = [(Path(os.path.abspath(folder)).name, folder)]
        else:
            found = [(entry.name, entry) for entry in entries if versions(entry)]
    if not found or (folder / "manifest.json").exists():
        raise not_a(
            EXPORT,
            folder,
            f"there is no export in {str(folder)!r}: expected version folders 1, 2, …, or export folders; "
            f"`tfsoftmax export RUN --to {folder}` makes one",
        )
    return found


def _identity(folder: Path) -> Identity:
    """A value that changes when a file in the folder, or the target of a link in it, changes."""
    found: list[tuple[str, int, int, int]] = []
    for path in sorted(folder.rglob("*")):
        try:
            status = path.stat()
        except OSError:  # a dangling link
            status = path.lstat()
        found.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)
