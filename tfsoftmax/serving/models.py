"""The models that are served: found on disk, verified, warmed up, then switched to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from tfsoftmax._kinds import EXPORT, not_a
from tfsoftmax.errors import InputError, TfsoftmaxError
from tfsoftmax.exporting.manifest import unlisted, verify_files
from tfsoftmax.exporting.reference import Reference
from tfsoftmax.exporting.versions import versions
from tfsoftmax.predict import Predictor
from tfsoftmax.serving import metrics, tensors
from tfsoftmax.serving.settings import Settings

log = logging.getLogger("tfsoftmax.serving")

Identity = tuple[tuple[str, int, int], ...]


def outputs_of(classes: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of each output of a model with so many classes."""
    return [
        ("logits", "float32", (-1, classes)),
        ("probabilities", "float32", (-1, classes)),
        ("class_id", "int64", (-1,)),
        ("label", "object", (-1,)),
    ]


class Version(Predictor):
    """One version of a model, in memory whole: what happens to its folder later does not matter.

    Args:
        name: the model's name.
        folder: its version folder.
        max_rows: most rows in one request.

    Raises:
        InputError: the folder is not whole, or answers otherwise than its reference rows say.
    """

    def __init__(self, name: str, folder: Path, max_rows: int):
        self.manifest = verify_files(folder)
        for stray in unlisted(folder, self.manifest):
            log.warning("%s: version %s: %s is not in the manifest", name, folder.name, stray)
        super().__init__(folder, threads=1)
        self.name, self.number, self.max_rows = name, int(folder.name), max_rows
        self.reader = tensors.reader(self.spec.shape, self.spec.dtype, self.spec.input_name, max_rows)
        self.reference = Reference.read(folder) if (folder / "reference.npz").exists() else None  # older exports
        self._warm_up()

    def _warm_up(self) -> None:
        """Answer the reference rows, one alone and all together, and compare."""
        raw = np.zeros((2, *self.spec.shape), self.spec.dtype) if self.reference is None else self.reference.raw
        for part in (raw[:1], raw):
            logits = self.answer(part)["logits"]
            wanted = logits if self.reference is None else self.reference.logits[: len(part)]
            if logits.shape != wanted.shape or not np.allclose(logits, wanted, rtol=1e-4, atol=1e-3):
                raise InputError(f"{str(self.folder)!r} does not answer as its reference rows say; export it again")


class Models:
    """All models by name; :meth:`refresh` follows what is on disk.

    Args:
        settings: names the export folders.

    Attributes:
        current: name -> the version that answers.
        states: name -> version number -> (state as TensorFlow Serving calls it, why it is not served).

    Raises:
        InputError: a folder that is not an export, two models of one name, or a named export without a version that
            can be served.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.current: dict[str, Version] = {}
        self.states: dict[str, dict[int, tuple[str, str]]] = {}
        self._identities: dict[str, Identity] = {}
        self._broken: dict[tuple[str, int], Identity] = {}
        for name in self._folders(strict=True):
            self.states[name] = {}
        self.refresh()
        for name, states in self.states.items():
            if name not in self.current:
                why = max(states.items())[1][1] if states else "it holds no version"
                raise InputError(f"model {name!r} cannot be served: {why}")

    def get(self, name: str, version: str | None) -> Version:
        """The version that answers; ``version`` is a number as text. Raises KeyError with the reason."""
        model = self.current.get(name)
        if model is None or (version is not None and version.lstrip("0") != str(model.number)):
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise KeyError(f"Servable not found for request: {wanted}")
        return model

    def refresh(self) -> None:
        """Look at the disk once, and load what is new. Answers go on from the old versions meanwhile."""
        for name, folder in self._folders().items():
            try:
                self._follow(name, folder)
                self._forget(name, folder)
            except OSError as error:  # a folder that vanishes under our eyes; the next look will tell
                log.warning("%s: cannot look into %s: %s", name, folder, error)

    def _folders(self, strict: bool = False) -> dict[str, Path]:
        """Model name -> export folder."""
        found: dict[str, Path] = {}
        for given in map(Path, self.settings.exports):
            entries = sorted(given.iterdir()) if given.is_dir() else []
            exports = [given] if versions(given) else [entry for entry in entries if versions(entry)]
            if strict and (not exports or (given / "manifest.json").exists()):
                raise not_a(
                    EXPORT,
                    given,
                    f"there is no export in {str(given)!r}: expected version folders 1, 2, …, or export folders; "
                    f"`tfsoftmax export RUN --to {given}` makes one",
                )
            for folder in exports:
                name = folder.resolve().name
                if strict and name in found:
                    raise InputError(f"two exports are called {name!r}: {str(found[name])!r} and {str(folder)!r}")
                found.setdefault(name, folder)
        return found

    def _follow(self, name: str, folder: Path) -> None:
        """Make the newest version that is whole the current one of ``name``."""
        current, states = self.current.get(name), self.states.setdefault(name, {})
        numbers = versions(folder)
        for number in reversed(numbers):
            if current is not None and number < current.number and current.number in numbers:
                return  # a served version whose files were damaged goes on from memory
            identity = _identity(folder / str(number))
            if current is not None and number == current.number and identity == self._identities[name]:
                return
            if self._broken.get((name, number)) == identity:
                continue
            if current is None or number != current.number:
                states[number] = ("LOADING", "")
            try:
                version = Version(name, folder / str(number), self.settings.max_rows)
            except (TfsoftmaxError, OSError, ValueError, KeyError, TypeError) as error:
                self._broken[name, number] = identity
                if current is None or number != current.number:
                    states[number] = ("END", str(error))
                metrics.refused(name)
                log.warning("%s: version %d is refused: %s", name, number, error)
                continue
            self._switch(version, identity)
            return

    def _forget(self, name: str, folder: Path) -> None:
        """Drop what is known of versions that are neither served nor there."""
        kept = {self.current[name].number if name in self.current else 0, *versions(folder)}
        self.states[name] = {number: state for number, state in self.states[name].items() if number in kept}
        self._broken = {key: value for key, value in self._broken.items() if key[0] != name or key[1] in kept}

    def _switch(self, version: Version, identity: Identity) -> None:
        name, states = version.name, self.states[version.name]
        old = self.current.get(name)
        self._identities[name] = identity
        self.current[name] = version  # from here on new requests see it; those under way keep the old one
        if old is not None and old.number != version.number:
            states[old.number] = ("END", "")
        states[version.number] = ("AVAILABLE", "")
        metrics.served(name, version.number)
        log.info("%s: version %d is served%s", name, version.number, f", {old.number} goes" if old else "")


def _identity(folder: Path) -> Identity:
    """Changes when a file in the folder does."""
    found: list[tuple[str, int, int]] = []
    for path in sorted(folder.rglob("*")):
        status: Any = path.stat()
        found.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return tuple(found)
