"""Tuning: many trials for the price of a few, with KerasTuner."""

import tfsoftmax._tensorflow  # noqa: F401 - before the modules here import TensorFlow
from tuning.oracles import TUNERS, GridOracle, SweepOracle
from tuning.search import Search, search
from tuning.space import HYPERPARAMETERS, Curvature, Range, SoftmaxHyperModel, curvature
from tuning.tuner import LaneTuner

__all__ = [
    "HYPERPARAMETERS",
    "TUNERS",
    "Curvature",
    "GridOracle",
    "LaneTuner",
    "Range",
    "Search",
    "SoftmaxHyperModel",
    "SweepOracle",
    "curvature",
    "search",
]
