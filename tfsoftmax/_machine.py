"""What this process may use of the machine: memory and processors, under the limits of its control groups."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

# limit, usage, and the line of memory.stat that counts file pages which the kernel may drop; version 2, then 1
_MEMORY = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def memory_available(root: str = "/") -> int:
    """Returns the bytes that this process can still take: the smallest of the machine's and of each control group's.

    Args:
        root: where ``proc`` and ``sys`` are mounted.
    """
    free = [_machine_memory(Path(root))]
    for group in _groups(Path(root), "memory"):
        for limit_file, usage_file, droppable in _MEMORY:
            limit, usage = _number(group / limit_file), _number(group / usage_file)
            if limit is not None and usage is not None:
                free.append(limit - usage + _field(group / "memory.stat", droppable))
    return max(0, min(free))


def cpu_count(root: str = "/") -> int:
    """Returns how many processors this process may keep busy, at least 1: its affinity, and each control group's quota.

    Args:
        root: where ``proc`` and ``sys`` are mounted.
    """
    count: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups(Path(root), "cpu"):
        quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")  # version 1
        words = _read(group / "cpu.max").split()  # version 2
        if len(words) == 2 and words[0] != "max":
            quota, period = int(words[0]), int(words[1])
        if quota and period and quota > 0:
            count = min(count, quota / period)
    return max(1, math.ceil(count))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups, from its own to the outermost that is in sight."""
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if names == "":
            bases = [mounts, mounts / "unified"]
        elif controller in names.split(","):
            bases = [mounts / names] if (mounts / names).is_dir() else [mounts / controller]
        else:
            continue
        # in a container the path may be the host's: then only the base is there, and it is the container's own
        inner = Path(path.lstrip("/"))
        yield from (base / part for base in bases for part in (inner, *inner.parents))


def _machine_memory(root: Path) -> int:
    found = _field(root / "proc/meminfo", "MemAvailable:")
    return found * 1024 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    """The file's whole number; None where there is no file, or no limit ("max")."""
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _field(path: Path, name: str) -> int:
    """The number after ``name`` in a file of lines ``name number``; 0 where there is none."""
    for line in _read(path).splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    return 0
