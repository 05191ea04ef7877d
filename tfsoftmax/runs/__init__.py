"""The run folder: training, its log, evaluation."""

import tfsoftmax._tensorflow  # noqa: F401 - before the modules here import TensorFlow
