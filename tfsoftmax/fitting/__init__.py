"""How models are fitted: the compiled epoch, and what goes with it."""

import tfsoftmax._tensorflow  # noqa: F401 - before the modules here import TensorFlow
