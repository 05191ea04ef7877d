"""What a search saves beside KerasTuner's files: which search it is, and the results of each group of trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras_tuner

from tfsoftmax._files import write_text
from tfsoftmax.errors import InputError


class OtherSearch(InputError, RuntimeError):
    """The project folder holds another search; a RuntimeError too, which KerasTuner raises then."""


class Kept:
    """The folder ``lanes`` in the folder of a project: ``search.json``, and one file per group of trials.

    KerasTuner writes its own files in place, so a kill can leave them incomplete. These are renamed into place, and a
    search that is restarted reads from them what has been trained.

    Args:
        project: the project's folder.
    """

    def __init__(self, project: str):
        self._project, self._folder = project, Path(project, "lanes")
        self._note = self._folder / "search.json"

    @property
    def begun(self) -> bool:
        """Whether a search has begun here."""
        return self._note.exists()

    def check(self, oracle: keras_tuner.Oracle) -> dict[str, Any]:
        """Return what identifies the search of ``oracle``, with the seed that it started with here.

        Raises:
            OtherSearch: the folder holds a search with another kind of oracle or another objective.
        """
        search = {"oracle": type(oracle).__name__, "objective": str(oracle.objective), "seed": oracle.seed}
        if not self.begun:
            return search
        there = _read(self._note)
        for name in ("oracle", "objective"):
            if there.get(name) != search[name]:
                raise OtherSearch(
                    f"{self._project!r} holds another search, with {name} {there.get(name)}, not {search[name]}; "
                    "choose another project_name, or pass `overwrite=True`"
                )
        return {**search, "seed": there.get("seed", oracle.seed)}  # an oracle without a seed draws a random one

    def begin(self, oracle: keras_tuner.Oracle) -> int:
        """Record the search of ``oracle``, unless it is recorded already; return the seed that it started with.

        Raises:
            OtherSearch: as :meth:`check`.
        """
        search = self.check(oracle)
        if not self.begun:
            self._folder.mkdir(exist_ok=True)
            write_text(self._note, json.dumps(search) + "\n")
        return search["seed"]

    def read(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return what :meth:`write` wrote for the same trials, values and fit; empty if nothing was written."""
        there = _read(self._file(asked))
        return there if all(there.get(name) == json.loads(json.dumps(asked[name])) for name in asked) else {}

    def write(self, asked: dict[str, Any], found: dict[str, Any]) -> None:
        """Save the results of a group.

        Args:
            asked: ``fit``, what the trials have in common, and ``trials``, the values of each.
            found: the results.
        """
        write_text(self._file(asked), json.dumps({**asked, **found}, default=float) + "\n")

    def _file(self, asked: dict[str, Any]) -> Path:
        return self._folder / f"{next(iter(asked['trials']))}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        there = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return there if isinstance(there, dict) else {}
