"""verify(): an export folder is still what it was: hashes, then every file opened and compared again."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from tfsoftmax._checks import one_of, typed
from tfsoftmax._kinds import EXPORT, not_a
from tfsoftmax.errors import ExportError
from tfsoftmax.exporting import card, manifest, parity
from tfsoftmax.exporting.formats import EXPORTERS
from tfsoftmax.exporting.reference import Reference
from tfsoftmax.exporting.versions import versions
from tfsoftmax.spec import ModelSpec


@dataclasses.dataclass(frozen=True)
class Verified:
    """One version that passed.

    Args:
        folder: its folder.
        parity: one row per format, on the reference rows.
        exported: the rows of the export itself, on all rows that it was given.
        unlisted: files in the folder that its manifest does not list.
    """

    folder: Path
    parity: list[dict[str, Any]]
    exported: list[dict[str, Any]]
    unlisted: list[str]

    def __repr__(self) -> str:
        lines = [f"verified version {self.folder.name}: {self.folder}", parity.table(self.parity)]
        for now, then in zip(self.parity[:1], self.exported[:1], strict=True):
            rows, labelled = now["rows"], now["labelled"]
            lines.append(
                f"compared on the {rows} reference rows that the export keeps: {labelled} with labels, in turn one of "
                f"each class, and {rows - labelled} without, among them all lowest, all highest and noise."
            )
            if labelled and then["model_accuracy"] is not None:
                lines.append(
                    f"accuracy is on those {labelled}; on all labelled rows of the export the model had "
                    f"{then['model_accuracy']:.4f}."
                )
        lines += [f"warning: {name} is not in the manifest" for name in self.unlisted]
        return "\n".join(lines)


def verify(path: str | os.PathLike[str]) -> list[Verified]:
    """Check the hashes of an export and repeat the parity against its reference rows.

    Links are followed. Files that the manifest does not list are reported, not refused.

    Args:
        path: an export folder (all of its versions are checked, and the files beside them), or one version folder.

    Raises:
        InputError: there is no export that can be read.
        ExportError: something has changed or answers otherwise; the text says what.
    """
    import tfsoftmax._tensorflow  # noqa: F401 - before TensorFlow

    path = Path(path)
    found = versions(path)
    folders = [path / str(number) for number in found] or [path]
    if not all((folder / manifest.NAME).is_file() for folder in folders):
        text = f"there is no export in {str(path)!r}; `tfsoftmax export RUN --to {path}` makes one"
        raise not_a(EXPORT, path, text)
    manifests = [manifest.verify_files(folder) for folder in folders]
    if found:
        _verify_beside(path, manifests)
    return [
        Verified(folder, _parity(folder, values), values["parity"], manifest.unlisted(folder, values))
        for folder, values in zip(folders, manifests, strict=True)
    ]


def _verify_beside(path: Path, manifests: list[dict[str, Any]]) -> None:
    """The newest version's; after an export that was killed at its very end, those of the version before."""
    for name in card.FILES:
        try:
            content = (path / name).read_bytes()
        except OSError as error:
            raise ExportError(f"cannot read {str(path / name)!r}: {error.strerror}. Export the run again") from error
        if manifest.digest(content) not in [values.get("beside", {}).get(name) for values in manifests]:
            raise ExportError(f"{str(path / name)!r} is not as it was exported. Export the run again")


def _parity(folder: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    what = f"manifest {str(folder / manifest.NAME)!r}"
    typed(what, values, manifest.Exported)
    spec = ModelSpec.from_dict(values["spec"], f"{what}.spec")
    kept = Reference.read(folder)
    expected = parity.Expected(kept.raw, kept.y, kept.logits, np.arange(len(kept.raw)))
    rows = []
    for row in values["parity"]:
        one_of("a format in the manifest", row["format"], EXPORTERS)
        rows.append(parity.compare(row["format"], EXPORTERS[row["format"]], folder, spec, expected))
    if wrong := [row["format"] for row in rows if not row["ok"]]:
        raise ExportError(
            f"{', '.join(wrong)} in {str(folder)!r} does not answer as the model did:\n{parity.table(rows)}"
        )
    return rows
