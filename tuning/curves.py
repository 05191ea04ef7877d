"""learning_curves.png: validation loss by epoch for each learning rate, and the result of each learning rate."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from tuning.space import Curvature

_GREEN, _GREY = "#0b6e4f", "#5f6b73"


def draw(path: Path, tuner: Any, objective: str, curvature: Curvature) -> None:
    """Draw the curves of all completed trials, coloured by learning rate, with the curvature bound in both panels.

    Args:
        path: PNG file to write.
        tuner: a :class:`~tuning.tuner.LaneTuner` after its search.
        objective: the metric in the right panel.
        curvature: has the learning rates that are marked.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    trials = [trial for trial in tuner.oracle.trials.values() if trial.status == "COMPLETED"]
    fixed = tuner.hypermodel.config.lr
    curves = []
    for trial in sorted(trials, key=lambda trial: trial.trial_id):
        history = tuner.history_of(trial.trial_id)
        if history and "val_loss" in history:
            curves.append((trial.hyperparameters.values.get("lr", fixed), history, trial))
    rates = [rate for rate, _, _ in curves] or [fixed]
    marks = {"1/L": curvature.bound, "1/L at zero weights": curvature.start}
    norm = LogNorm(min(*rates, *marks.values()), max(*rates, *marks.values()))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", width_ratios=[3, 2])
    colours = plt.get_cmap("viridis")
    for rate, history, _ in curves:
        loss = [value if math.isfinite(value) else math.nan for value in history["val_loss"]]
        left.plot(range(1, len(loss) + 1), loss, color=colours(norm(rate)), linewidth=1.3)
    lowest = min((min(history["val_loss"]) for _, history, _ in curves), default=0.0)
    left.set_ylim(lowest * 0.98, lowest * 1.6 if lowest else 1.0)
    left.set_xlabel("epoch")
    left.set_ylabel("validation loss")
    left.set_title("one curve per trial", loc="left")
    bar = figure.colorbar(plt.cm.ScalarMappable(norm, colours), ax=left, label="learning rate")
    scores = [trial.score for _, _, trial in curves]
    right.semilogx(rates, scores, "o", color=_GREEN, markersize=5)
    if scores:
        best = (max if objective == "val_accuracy" else min)(range(len(scores)), key=scores.__getitem__)
        right.semilogx(rates[best], scores[best], "o", color="#d1495b", markersize=8)
        right.annotate(
            f"best: {rates[best]:.3g}", (rates[best], scores[best]), xytext=(6, 8), textcoords="offset points"
        )
    for (name, rate), style in zip(marks.items(), ("--", ":"), strict=True):
        bar.ax.axhline(rate, color="white", linestyle=style, linewidth=1.6)
        right.axvline(rate, color=_GREY, linestyle=style, label=f"{name} = {rate:.3g}")
    right.set_xlabel("learning rate")
    right.set_ylabel(f"{objective.replace('_', ' ')} at the best epoch")
    right.set_title("result of each learning rate", loc="left")
    right.legend(title="curvature bound")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    aside = path.with_name(f".{path.name}.{os.getpid()}.png")
    try:
        figure.savefig(aside, dpi=110, metadata={"Software": None})
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
        plt.close(figure)
