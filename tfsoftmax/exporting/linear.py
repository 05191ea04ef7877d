"""Linear: the arithmetic that every exported graph repeats, with the preprocessing folded into the weights."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfsoftmax.columns import constants
from tfsoftmax.spec import ModelSpec

# Folding adds the terms offset * scale * kernel to the sum and takes them away again in the bias. In float32 that
# costs up to 2**-24 of them; where it could cost more than this on a logit, the preprocessing stays a step of its own.
FOLD_LIMIT = 1e-5


@dataclasses.dataclass(frozen=True)
class Linear:
    """``logits = x @ kernel + bias``, where ``x`` are the features in float32, preprocessed unless ``folded``.

    Args:
        kernel: float32 ``(inputs, classes)``.
        bias: float32 ``(classes,)``.
        spec: what goes in and comes out.
        folded: ``kernel`` and ``bias`` have the preprocessing in them.
    """

    kernel: np.ndarray
    bias: np.ndarray
    spec: ModelSpec
    folded: bool = False

    def fold(self) -> Linear:
        """The same with the preprocessing in the weights, if float32 then yields the same logits; else this one.

        ``((raw - offset) * scale) @ kernel + bias = raw @ (scale * kernel) + (bias - (offset * scale) @ kernel)``
        """
        size = len(self.kernel)
        offset, scale = (np.broadcast_to(np.ravel(v), (size,)) for v in constants(self.spec))
        taken = (offset * scale)[:, None] * self.kernel  # float64
        kernel = (scale[:, None] * self.kernel).astype(np.float32)
        bias = (self.bias - taken.sum(axis=0)).astype(np.float32)
        exact = 2.0**-24 * np.abs(taken).sum(axis=0).max() <= FOLD_LIMIT
        if not exact or not np.isfinite(kernel).all() or not np.isfinite(bias).all():
            return self
        return Linear(kernel, bias, self.spec, folded=True)
