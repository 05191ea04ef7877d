"""Memory and processors under the limits of control groups, read from trees like those that the kernel shows."""

import os

import pytest

from tfsoftmax import _machine

MB = 2**20
CORES = len(os.sched_getaffinity(0))


def tree(root, files):
    for name, content in {"proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return str(root)


def v2(folder, limit, usage, inactive=0):
    base = f"sys/fs/cgroup/{folder}"
    return {
        f"{base}memory.max": f"{limit}\n",
        f"{base}memory.current": f"{usage}\n",
        f"{base}memory.stat": f"anon 1\ninactive_file {inactive}\nactive_file 7\n",
    }


def v1(folder, limit, usage, inactive=0):
    base = f"sys/fs/cgroup/memory/{folder}"
    return {
        f"{base}memory.limit_in_bytes": f"{limit}\n",
        f"{base}memory.usage_in_bytes": f"{usage}\n",
        f"{base}memory.stat": f"inactive_file 1\ntotal_inactive_file {inactive}\n",
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4096 * MB),
        ({"proc/self/cgroup": "0::/\n", **v2("", 512 * MB, 100 * MB, 20 * MB)}, 432 * MB),
        ({"proc/self/cgroup": "0::/a/b\n", **v2("a/", 300 * MB, 100 * MB), **v2("a/b/", "max", 50 * MB)}, 200 * MB),
        ({"proc/self/cgroup": "0::/a\n", **v2("a/", 100 * MB, 130 * MB)}, 0),
        ({"proc/self/cgroup": "4:memory:/a\n0::/\n", **v1("a/", 256 * MB, 56 * MB, 8 * MB)}, 208 * MB),
        # the host's path in a container of version 1: the mount itself is the container's group
        ({"proc/self/cgroup": "4:memory:/docker/3f\n", **v1("", 128 * MB, 28 * MB)}, 100 * MB),
        ({"proc/self/cgroup": "4:memory:/\n", **v1("", 9223372036854771712, 28 * MB)}, 4096 * MB),  # no limit
        ({"proc/self/cgroup": "4:memory:/\n0::/u\n", **v2("unified/u/", 64 * MB, 0)}, 64 * MB),
        ({"proc/self/cgroup": "0::/gone\n"}, 4096 * MB),
    ],
)
def test_memory_is_the_smallest_of_all_limits(tmp_path, files, expected):
    assert _machine.memory_available(tree(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 4),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 4),
        (
            {
                "proc/self/cgroup": "2:cpu,cpuacct:/a\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu:/a\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
    ],
)
def test_processors_are_the_smallest_of_affinity_and_quotas(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5, 7})
    assert _machine.cpu_count(tree(tmp_path, files)) == expected


def test_this_machine():
    assert 1 <= _machine.cpu_count() <= CORES
    assert 0 < _machine.memory_available() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
