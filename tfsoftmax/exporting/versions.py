"""Versions of an export folder: made aside, renamed into place, the oldest removed. No heavy imports."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tfsoftmax.errors import InputError
from tfsoftmax.exporting import manifest

_WORK = ".tfsoftmax-export-"  # servers look at whole numbers only


def versions(folder: Path) -> list[int]:
    """The version numbers in an export folder, ascending; other names are skipped."""
    return [number for number in _taken(folder) if (folder / str(number)).is_dir()]


def _taken(folder: Path) -> list[int]:
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch("[1-9][0-9]*", name))


@contextlib.contextmanager
def work(folder: Path) -> Iterator[Path]:
    """An empty folder inside the export folder ``folder``, which is made; what is in it at the end is removed.

    One export at a time works in a folder, the next one waits. What a killed one has left is removed.

    Raises:
        InputError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"cannot write the export folder {str(folder)!r}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob(f"{_WORK}*"):
            if re.fullmatch("[a-z0-9_]{8}", left.name.removeprefix(_WORK)):  # as mkdtemp makes them
                shutil.rmtree(left, ignore_errors=True)
        try:
            aside = Path(tempfile.mkdtemp(prefix=_WORK, dir=folder))
        except OSError as error:
            raise InputError(f"cannot write the export folder {str(folder)!r}: {error.strerror}") from error
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(lock)


def choose(folder: Path, version: int | None) -> int:
    """The version number to write: ``version`` if it is free, the next one if that is ``None``."""
    taken = _taken(folder)
    if version is None:
        return max(taken, default=0) + 1
    if version in taken:
        raise InputError(f"version {version} is in {str(folder)!r} already; name another one, or none for the next")
    return version


def publish(version: Path, beside: list[Path], folder: Path) -> Path:
    """Rename a version folder from aside into ``folder``, then the files that belong beside it.

    All content is on disk before the first rename: neither a kill nor a power cut leaves half of it.
    """
    for path in (version, *version.rglob("*"), *beside):
        _sync(path)
    target = folder / version.name
    version.rename(target)
    for path in beside:
        path.replace(folder / path.name)
    _sync(folder)
    return target


def keep(folder: Path, version: int, count: int, aside: Path) -> list[int]:
    """Remove the oldest versions below ``version`` until ``count`` are left; returns those removed.

    Each is renamed into ``aside`` first, so that no half of it is ever to be seen. What others have put there stays and
    does not count: versions without a manifest of ours, and those that hold files that it does not list.
    """
    found = [number for number in versions(folder) if manifest.is_ours(folder / str(number))]
    removed = [number for number in found[: max(0, len(found) - count)] if number < version]
    for number in removed:
        (folder / str(number)).rename(aside / f"removed-{number}")
    return removed


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
