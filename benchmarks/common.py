"""What the benchmarks share: environments of the peers, one process a case, the machine's description, result files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CACHE = HERE.parent / ".cache" / "benchmarks"

# some machines set these to slow kernels, which would flatter everybody but NumPy
SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")

OURS = ("tfsoftmax", "LaneTuner")  # how the names of our own cases begin


def _file(peer: str, suffix: str) -> Path:
    return HERE / (f"{peer}.{suffix}" if "/" in peer else f"peers/{peer}.{suffix}")


class Missing(Exception):
    """A peer that cannot be installed or run here; the text says why."""


def python_of(peer: str) -> str:
    """The Python of the peer's own environment, made on first use from ``peers/PEER.txt``.

    Its first line may say ``# python 3.9`` if the peer needs another version than this one. A peer with a slash in its
    name has its files in that folder instead of ``peers``.
    """
    requirements = _file(peer, "txt")
    if not requirements.exists():
        return sys.executable
    text = requirements.read_text()
    folder = CACHE / f"{requirements.stem}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        version = text.split()[2] if text.startswith("# python ") else ""
        named = os.environ.get(f"PYTHON{version.replace('.', '')}") or shutil.which(f"python{version}")
        base = named if version else sys.executable
        if base is None or subprocess.run([base, "--version"], capture_output=True, check=False).returncode:
            raise Missing(f"needs Python {version}; name one with PYTHON{version.replace('.', '')}=/path/to/python")
        print(f"making the environment of {peer} …", file=sys.stderr, flush=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        commands = [[base, "-m", "venv", "--clear", folder], [*install, "-r", requirements]]
        if version:  # an old Python brings an old pip, which takes half an hour to agree on what d2l wants
            commands.insert(1, [*install, "--upgrade", "pip"])
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Missing(f"cannot be installed: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")
        (folder / "made").touch()
    return str(python)


def run(peer: str, threads: int, **case: Any) -> dict[str, Any]:
    """Run one case of ``peers/PEER.py`` in a process of its own, on ``threads`` cores; gives what it prints as JSON."""
    environment = {name: value for name, value in os.environ.items() if name not in SLOWING}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": "", "TF_NUM_INTRAOP_THREADS": str(threads)}
    cores = sorted(os.sched_getaffinity(0))[:threads]
    done = subprocess.run(
        [python_of(peer), _file(peer, "py"), json.dumps(case)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode:
        raise Missing(f"failed: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    names = ("tfsoftmax", "tensorflow", "keras", "numpy")
    return {
        "cpu": model[0] if model else platform.processor(),
        "cores": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


def write(name: str, result: dict[str, Any]) -> None:
    """Write ``results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def bars(name: str, values: list[tuple[str, float]], label: str) -> None:
    """Draw ``results/NAME.png``: one bar a case on a logarithmic scale, this package and the limit in colours."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    names, sizes = zip(*values[::-1], strict=True)
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(values) + 0.9), layout="constrained")
    colours = [
        "#333333" if case.startswith("limit") else "#0b6e4f" if case.startswith(OURS) else "#9db4c0" for case in names
    ]
    axes.bar_label(axes.barh(names, sizes, color=colours), [f"{size:.1f}" for size in sizes], padding=3)
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) * 0.9, max(sizes) * 1.6)
    axes.set_xlabel(f"{label} (log scale; less is better)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
