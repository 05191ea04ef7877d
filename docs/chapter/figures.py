"""What the scripts of the figures share: their two options, the colours, and how a figure is saved."""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no start-up lines of TensorFlow

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

GREEN, RED, BLUE, GREY = "#0b6e4f", "#d1495b", "#30638e", "#9db4c0"


def options() -> argparse.Namespace:
    """``--small``: little data, so that it takes seconds; ``--out``: the folder to write to, by default this one."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--small", action="store_true", help="little data: seconds instead of a minute")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the figure")
    return parser.parse_args()


def panels(count: int, height: float = 4.0):
    """A figure with panels side by side."""
    figure, axes = plt.subplots(1, count, figsize=(11, height), layout="constrained")
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure, out: Path) -> None:
    """Write ``NAME.png`` of the script ``NAME.py``."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{Path(sys.argv[0]).stem}.png"
    figure.savefig(path, dpi=110, metadata={"Software": None})
    print(f"\n{path}")
