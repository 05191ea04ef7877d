"""manifest.json: what a version folder holds, with the SHA-256 of each file and of itself. No heavy imports."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from tfsoftmax._checks import typed
from tfsoftmax._files import read_json, write_text
from tfsoftmax.errors import ExportError, InputError

NAME = "manifest.json"
_UNSIGNED = "0" * 64
_AGAIN = "Export the run again"
# Files that are opened by their names, and so must be listed.
OPENED = (
    "saved_model.pb",
    "model.onnx",
    "model.int8.onnx",
    "model.tflite",
    "model.int8.tflite",
    "reference.npz",
)


class _File(TypedDict):
    sha256: str


class Row(TypedDict):
    """What is read again of a row of the parity table."""

    format: str
    model_accuracy: float | None


class _Manifest(TypedDict):
    files: dict[str, _File]
    sha256: str


class Manifest(_Manifest, total=False):
    """What is read again of a manifest."""

    beside: dict[str, str]


class Exported(Manifest):
    """What is read again of the manifest of an export."""

    spec: dict[str, Any]
    parity: list[Row]


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def write(folder: Path, values: dict[str, Any]) -> None:
    """Write the manifest of a version folder: ``values``, then ``files`` and ``sha256``.

    ``files`` lists bytes and SHA-256 of every other file below ``folder``; ``sha256`` is that of the manifest itself
    with 64 zeros in its place.
    """
    files = {
        name: {"bytes": path.stat().st_size, "sha256": digest(path.read_bytes())}
        for name, path in sorted(_files(folder).items())
    }
    text = json.dumps({**values, "files": files, "sha256": _UNSIGNED}, indent=1) + "\n"
    write_text(folder / NAME, _sign(text, digest(text.encode())))


def verify_files(folder: Path) -> dict[str, Any]:
    """Check every file that the manifest of a version folder lists, through links; returns the manifest.

    Standard library only. What is not listed is no fault: see :func:`unlisted`.

    Raises:
        InputError: there is no manifest that can be read.
        ExportError: files that changed or are missing, or of ``OPENED`` are not listed; the text names all of them.
    """
    manifest = read_json(folder / NAME, "manifest")
    wrong = [] if _is_signed(folder, manifest) else [f"{NAME} has changed"]
    try:
        manifest = typed(f"manifest {str(folder / NAME)!r}", manifest, Manifest)
    except InputError as error:
        if wrong:
            raise ExportError(f"{str(folder)!r} is not as it was exported: {NAME} has changed. {_AGAIN}") from error
        raise
    for name, entry in sorted(manifest["files"].items()):
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            wrong.append(f"{name} is outside")
        elif not (folder / name).is_file():
            wrong.append(f"{name} is missing")
        elif digest((folder / name).read_bytes()) != entry["sha256"]:
            wrong.append(f"{name} has changed")
    wrong += [f"{name} is not in the manifest" for name in unlisted(folder, manifest) if name in OPENED]
    if wrong:
        raise ExportError(f"{str(folder)!r} is not as it was exported: {'; '.join(wrong)}. {_AGAIN}")
    return manifest


def beside(folder: Path) -> dict[str, str]:
    """The digests of what stood beside a version folder when it was written; none if its manifest cannot be read."""
    try:
        found: dict[str, str] = typed("manifest", read_json(folder / NAME, "manifest"), Manifest).get("beside", {})
    except InputError:
        return {}
    return found


def is_ours(folder: Path) -> bool:
    """Whether all files of a version folder are in a manifest that we wrote."""
    try:
        manifest = read_json(folder / NAME, "manifest")
    except InputError:
        return False
    return _is_signed(folder, manifest) and not unlisted(folder, manifest)


def _is_signed(folder: Path, manifest: dict[str, Any]) -> bool:
    text, own = (folder / NAME).read_text(encoding="utf-8"), manifest.get("sha256")
    return isinstance(own, str) and own.isascii() and digest(_sign(text, _UNSIGNED, own).encode()) == own


def unlisted(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """The files of a version folder that its manifest does not list: what operating systems and editors leave.

    Names that begin with two dots are not among them: so Kubernetes lays out a volume.
    """
    names = sorted(_files(folder).keys() - _listed(manifest).keys())
    return [name for name in names if not name.startswith("..")]


def _listed(manifest: dict[str, Any]) -> dict[str, Any]:
    listed = manifest.get("files")
    return listed if isinstance(listed, dict) else {}


def _files(folder: Path) -> dict[str, Path]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    files.pop(NAME, None)
    return files


def _sign(text: str, value: str, old: str = _UNSIGNED) -> str:
    """Replace ``old`` by ``value`` in the last line but one."""
    head, mark, tail = text.rpartition(f'"sha256": "{old}"')
    return head + mark.replace(old, value) + tail
