"""Folders that we write whole: how one is locked, claimed and cleared. Only what is known to be ours is removed."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tfsoftmax._files import write_text
from tfsoftmax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of folder.

    Args:
        name: what errors call it.
        mark: the file that says what the folder is of; written first, removed last.
        read: reads that file; raises InputError where we did not write it.
        files: glob patterns of all that we write into such a folder, the mark among them.
    """

    name: str
    mark: str
    read: Callable[[Path], Any]
    files: tuple[str, ...]


def claim(folder: Path, kind: Kind, content: str, overwrite: bool, check: Callable[[Any], None]) -> None:
    """Make ``folder`` with ``content`` in its mark, or keep it as it is if it is of the same.

    Args:
        folder: where.
        kind: which.
        content: of the mark.
        overwrite: remove what we wrote there before; files of others stay.
        check: gets what ``kind.read`` returns of a folder that is there; raises InputError if it is of something else.

    Raises:
        InputError: the folder is not one of ours, is of something else, or cannot be written.
    """
    mark = folder / kind.mark
    try:
        if mark.is_file():
            try:
                begun = kind.read(mark)
            except InputError as error:
                raise InputError(
                    f"{str(folder)!r} exists and is not a {kind.name} that can be read: {error}; choose another --out"
                ) from error
            if not overwrite:
                check(begun)
                _remove_torn(folder, kind.files)
                return
            remove(folder, kind)
        elif folder.exists():
            _remove_torn(folder, (kind.mark,))
            if not folder.is_dir() or any(folder.iterdir()):
                raise InputError(f"{str(folder)!r} exists and is not a {kind.name}; choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(mark, content)
    except OSError as error:
        raise InputError(f"cannot write the {kind.name} {str(folder)!r}: {error.strerror}") from error


def remove(folder: Path, kind: Kind) -> None:
    """Remove what we wrote into ``folder``, the mark last, and then all folders that this leaves empty."""
    _remove_torn(folder, kind.files)
    ours = [path for pattern in kind.files for path in folder.glob(pattern) if path.is_symlink() or path.is_file()]
    ours.sort(key=lambda path: path == folder / kind.mark)
    for path in ours:
        path.unlink()
    around = {above for path in ours for above in path.parents if above == folder or folder in above.parents}
    for path in sorted(around, key=lambda path: len(path.parts), reverse=True):
        with contextlib.suppress(OSError):  # it holds files of others, or is a link
            path.rmdir()


def _remove_torn(folder: Path, files: tuple[str, ...]) -> None:
    """Remove what a killed process left of files that it wrote aside."""
    for pattern in files:
        above, _, name = pattern.rpartition("/")
        for path in folder.glob(f"{above}/.{name}.*.tmp" if above else f".{name}.*.tmp"):
            if re.search(r"\.[0-9]+\.tmp$", path.name):
                path.unlink()


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of ``folder``, by a lock file beside it; makes the folders above.

    Where another process is in it, that is an InputError, or with ``wait`` it is waited for.
    """
    folder = Path(os.path.abspath(folder))  # "." has no name
    path = folder.with_name(f".{folder.name}.lock")
    lock = _lock(path, folder, wait)
    while lock is None:  # another process has just ended and removed the file
        lock = _lock(path, folder, wait)
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock(path: Path, folder: Path, wait: bool) -> IO[str] | None:
    """The lock file of ``folder``, locked; ``None`` with ``wait`` if it was removed meanwhile."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a")  # noqa: SIM115 (the caller closes it)
    except OSError as error:
        raise InputError(f"cannot write the folder {str(folder)!r}: {error.strerror}") from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock)
        if os.fstat(lock.fileno()).st_size:
            raise InputError(f"{str(path)!r} is not a lock of ours, which are empty; choose another --out")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if not _is_still_there(lock, path):
                if wait:
                    return None
                raise BlockingIOError
        except BlockingIOError as error:
            raise InputError(
                f"another process is writing {str(folder)!r}; wait for it or choose another folder"
            ) from error
        stack.pop_all()
        return lock


def _is_still_there(file: IO[str], path: Path) -> bool:
    """Whether ``path`` is this open file: not removed, nor made anew."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
