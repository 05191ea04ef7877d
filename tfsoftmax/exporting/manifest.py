"""manifest.json: what a version folder holds, with the SHA-256 of each file and of itself. No heavy imports."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tfsoftmax._files import read_json, write_text
from tfsoftmax.errors import ExportError

NAME = "manifest.json"
_UNSIGNED = "0" * 64


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def write(folder: Path, values: dict[str, Any]) -> None:
    """Write the manifest of a version folder: ``values``, then ``files`` and ``sha256``.

    ``files`` gives bytes and SHA-256 of every other file below ``folder``; ``sha256`` is that of the manifest itself
    with 64 zeros in its place.
    """
    files = {
        name: {"bytes": path.stat().st_size, "sha256": digest(path.read_bytes())}
        for name, path in sorted(_files(folder).items())
    }
    text = json.dumps({**values, "files": files, "sha256": _UNSIGNED}, indent=1) + "\n"
    write_text(folder / NAME, _sign(text, digest(text.encode())))


def verify_files(folder: Path) -> dict[str, Any]:
    """Check every file of a version folder against its manifest; gives the manifest. Standard library only.

    Raises:
        InputError: there is no manifest that can be read.
        ExportError: files that changed, are missing or do not belong there; the text names all of them.
    """
    manifest = read_json(folder / NAME, "manifest")
    text, own = (folder / NAME).read_bytes(), manifest.get("sha256")
    wrong = []
    if not isinstance(own, str) or digest(_sign(text.decode(), _UNSIGNED, own).encode()) != own:
        wrong.append(f"{NAME} has changed")
    listed = manifest.get("files")
    listed = listed if isinstance(listed, dict) else {}
    found = _files(folder)
    for name in sorted(listed.keys() | found.keys()):
        entry = listed.get(name)
        if entry is None:
            wrong.append(f"{name} does not belong there")
        elif name not in found:
            wrong.append(f"{name} is missing")
        elif not isinstance(entry, dict) or digest(found[name].read_bytes()) != entry.get("sha256"):
            wrong.append(f"{name} has changed")
    if wrong:
        raise ExportError(f"{str(folder)!r} is not as it was exported: {'; '.join(wrong)}. Export the run again")
    return manifest


def _files(folder: Path) -> dict[str, Path]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    files.pop(NAME, None)
    return files


def _sign(text: str, value: str, old: str = _UNSIGNED) -> str:
    """Put ``value`` where ``old`` stands in the last line but one."""
    head, mark, tail = text.rpartition(f'"sha256": "{old}"')
    return head + mark.replace(old, value) + tail
