"""What TensorBoard shows of a run beside Keras's scalars: the settings as text, class templates as images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from tfsoftmax.findings import one_line
from tfsoftmax.reporting import pixels, weights
from tfsoftmax.spec import ModelSpec, RunConfig

TEMPLATES = 30  # classes with an image


def write(folder: Path, config: RunConfig, spec: ModelSpec, kernel: np.ndarray, epoch: int) -> None:
    """Write an event file.

    Args:
        folder: of the events of training.
        config: the settings; one table in Markdown.
        spec: of the model; pictures have templates, all on one scale, blue for the class and orange against it.
        kernel: of the trained model, ``(features, classes)``.
        epoch: the last one, which is the step of the images.
    """
    import tensorflow as tf

    rows = [f"| {name} | {one_line(str(value), 200)} |" for name, value in dataclasses.asdict(config).items()]
    writer = tf.summary.create_file_writer(str(folder), filename_suffix=".tfsoftmax")
    with writer.as_default():
        tf.summary.text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]), step=0)
        if weights.is_picture(spec):
            shown = weights.templates(spec, kernel)[:TEMPLATES]
            largest = float(np.abs(shown).max())
            for k, (name, one) in enumerate(zip(spec.classes, shown, strict=False)):
                tag = f"templates/{k} {one_line(name, 80)}"
                tf.summary.image(tag, pixels.diverging(one, largest)[None], step=epoch)
    writer.close()
